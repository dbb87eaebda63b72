"""One model's evaluation: everything that metrics.json says about it.

Thresholds, calibration and the axon model come from validation, scores from test. Without
validation the threshold is 0.5, nothing is calibrated, and the notes say so.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from eval import baselines, calibration, neurons, suspects
from eval.audit import Finding, audit_images, audit_tables
from eval.baselines import Guess, Tables
from eval.bootstrap import FEW_NEURONS, Interval, Scored, difference, score, strata_of
from eval.compare import compare
from eval.metrics import confusion, precisions, recalls
from eval.predictions import Floats, Ints
from eval.strata import score_strata
from eval.subject import (
    Part,
    Subject,
    box_nm,
    centers_of,
    images_of,
    index_frame,
    rows_in_index,
    tables_of,
    with_tags,
)
from eval.threshold import HALF, Sweep, sweep

BASELINE_REPLICATES = 1000
AUDIT_IMAGES = 4000  # a split


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """How to evaluate."""

    criterion: str = "balanced_accuracy"
    images: bool = True  # gallery, image baseline, image duplicates
    notes: tuple[str, ...] = ()  # what the report says first


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """What the report is drawn from: the document of metrics.json, and arrays."""

    subject: Subject
    document: dict[str, Any]
    test: Scored  # with its threshold
    calibrated: Floats  # (n, k) test probabilities
    sweep: Sweep | None
    posteriors: Floats  # (m, k) of test neurons
    odd_rows: Ints  # test rows at odds with their neuron


def evaluate(subject: Subject, options: Options, say: Callable[[str], None]) -> Evaluation:
    """Evaluate one subject; `say` is told each step as it begins."""
    say("metrics")
    swept = _sweep(subject.val, subject.num_classes, options.criterion)
    tau = None if subject.num_classes > 2 else swept.tau if swept else HALF
    test = replace(subject.test.scored, tau=tau)
    say("calibration and neurons")
    calibrate, calibrated_doc = _calibration(subject, test)
    calibrated = calibrate(test.probabilities)
    model = _axon_model(subject.val, calibrate, subject.num_classes)
    posteriors, neurons_doc = _neurons(test, calibrated, model)
    odd_rows, suspects_doc = _suspects(subject, test)
    tables = tables_of(subject)
    document = {
        **_heading(subject, test, tables, options),
        **_scores(test, swept),
        "calibration": calibrated_doc,
        "neurons": neurons_doc,
        "suspects": suspects_doc,
        "stress": [_stress(subject, tau, name) for name in subject.stress],
    }
    say("strata")
    centers = centers_of(tables.train) if tables else None
    document["strata"] = score_strata(test, with_tags(subject, subject.test.frame), centers)
    say("baselines")
    document["baselines"] = _baselines(subject, tables, options)
    say("split audit")
    document["audit"] = [asdict(f) for f in _audit(subject, tables, options)]
    document["notes"] = [*options.notes, *_notes(subject, tables, options)]
    return Evaluation(
        subject=subject,
        document=document,
        test=test,
        calibrated=calibrated,
        sweep=swept,
        posteriors=posteriors,
        odd_rows=odd_rows,
    )


def _heading(
    subject: Subject, test: Scored, tables: Tables | None, options: Options
) -> dict[str, Any]:
    return {
        "name": subject.name,
        "split": "test",
        "class_names": list(subject.info.class_names),
        "n_synapses": len(test.labels),
        "n_neurons": test.num_groups,
        "n_unlabelled": subject.test.num_unlabelled,
        "counts": _counts(subject, tables),
        "tau": test.tau,
        "tau_from": None if test.tau is None else "val" if subject.val else "default",
        "criterion": options.criterion,
    }


def _sweep(val: Part | None, num_classes: int, criterion: str) -> Sweep | None:
    if val is None or num_classes > 2:
        return None
    return sweep(val.scored.labels, val.scored.probabilities[:, 1], criterion)


def as_json(intervals: dict[str, Interval]) -> dict[str, Any]:
    """Return intervals as plain values."""
    return {name: asdict(value) for name, value in intervals.items()}


def _scores(test: Scored, swept: Sweep | None) -> dict[str, Any]:
    counts = confusion(test.labels, test.predicted, test.probabilities.shape[1])
    shares = zip(precisions(counts.astype(float)), recalls(counts.astype(float)), strict=True)
    found = score(test)
    result = {
        "metrics": as_json(found),
        "confusion": counts.tolist(),
        "per_class": [{"precision": float(p), "recall": float(r)} for p, r in shares],
    }
    if swept is not None:
        half = replace(test, tau=HALF)
        gain, p_value = difference(half, test)
        result["at_half"] = as_json(score(half, ranks=False))
        result["tau_gain"] = {"balanced_accuracy": {**asdict(gain), "p_value": p_value}}
    return result


def _calibration(subject: Subject, test: Scored) -> tuple[calibration.Calibrator, dict[str, Any]]:
    if subject.val is None:
        return _same, {"chosen": None, "methods": {}}
    val = subject.val.scored
    chosen = calibration.choose(val.labels, val.probabilities, val.groups)
    fitted = {
        name: calibration.fit(name, val.labels, val.probabilities)
        for name in calibration.methods_for(subject.num_classes)
    }
    methods = {}
    for name, calibrate in fitted.items():
        values = replace(test, probabilities=calibrate(test.probabilities), tau=None)
        found = score(values, ranks=False, num=BASELINE_REPLICATES)
        methods[name] = as_json({key: found[key] for key in ("ece", "log_loss", "brier")})
    return fitted[chosen], {"chosen": chosen, "methods": methods}


def _axon_model(
    val: Part | None, calibrate: calibration.Calibrator, num_classes: int
) -> neurons.AxonModel:
    if val is None:
        even = np.full(num_classes, -np.log(num_classes))
        return neurons.AxonModel(correlation=1.0, log_rate=even, log_prior=even)
    calibrated = calibrate(val.scored.probabilities)
    return neurons.fit_axon_model(replace(val.scored, probabilities=calibrated))


def _neurons(
    test: Scored, calibrated: Floats, model: neurons.AxonModel
) -> tuple[Floats, dict[str, Any]]:
    methods = neurons.consensus(test, calibrated, model)
    keys = ("balanced_accuracy", "accuracy", "log_loss", "ece")
    scores = {}
    for name, values in methods.items():
        found = score(neurons.as_neurons(test, values), ranks=False, num=BASELINE_REPLICATES)
        kept = keys if name in {"independent", "correlated"} else keys[:2]
        scores[name] = as_json({key: found[key] for key in kept})
    curve = neurons.accuracy_by_synapses(test, calibrated, model)
    posteriors = methods["correlated"]
    truth = strata_of(test.labels, test.groups, test.num_groups)
    sure, right = posteriors.max(axis=1), (posteriors.argmax(axis=1) == truth).astype(float)
    own = np.take_along_axis(calibrated, test.predicted[:, None], axis=1)[:, 0]
    hits = (test.predicted == test.labels).astype(float)
    return posteriors, {
        "correlation": model.correlation,
        "methods": scores,
        "by_synapses": curve,
        "needed": {f"{t:.2f}": neurons.synapses_needed(curve, t) for t in neurons.TARGETS},
        "coverage": {
            "synapses": {f"{t:.2f}": neurons.coverage_at(own, hits, t) for t in neurons.TARGETS},
            "neurons": {f"{t:.2f}": neurons.coverage_at(sure, right, t) for t in neurons.TARGETS},
        },
        "synapses_per_neuron": float(np.median(np.bincount(test.groups))),
    }


def _suspects(subject: Subject, test: Scored) -> tuple[Ints, dict[str, Any]]:
    if subject.val:
        belief = suspects.learn(subject.val.scored)
    else:
        model = _axon_model(None, _same, subject.num_classes)
        belief = suspects.Belief(calibrate=_same, model=model)
    ids = subject.test.neuron_ids
    mixed = suspects.mixed_neurons(belief, test, ids)
    wrong = suspects.mislabelled_neurons(belief, test, ids)
    odd = suspects.odd_synapses(belief, test)
    calibrated = belief.calibrate(test.probabilities)
    return odd, {
        "val_neurons_left_out": belief.left_out,
        "mixed_neurons": {"count": len(mixed), "listed": mixed[: suspects.LISTED]},
        "mislabelled_neurons": {"count": len(wrong), "listed": wrong[: suspects.LISTED]},
        "odd_synapses": {
            "count": len(odd),
            "listed": suspects.describe(subject.test.frame, odd, calibrated),
        },
    }


def _same(probabilities: Floats) -> Floats:
    return probabilities


def _stress(subject: Subject, tau: float | None, name: str) -> dict[str, Any]:
    found = compare(subject.test, subject.stress[name], (tau, tau), ("balanced_accuracy", "auroc"))
    scored = score(replace(subject.stress[name].scored, tau=tau), num=BASELINE_REPLICATES)
    return {
        "name": name,
        "balanced_accuracy": asdict(scored["balanced_accuracy"]),
        "auroc": asdict(scored["auroc"]),
        "cost": found["metrics"],
    }


def _counts(subject: Subject, tables: Tables | None) -> dict[str, dict[str, dict[str, int]]]:
    frames = {"test": subject.test.frame}
    if subject.val:
        frames = {"val": subject.val.frame, **frames}
    if tables:
        frames = {"train": tables.train, **frames}
    names = subject.info.class_names
    return {split: _class_counts(frame, names) for split, frame in frames.items()}


def _class_counts(frame: pd.DataFrame, names: tuple[str, ...]) -> dict[str, dict[str, int]]:
    labels = baselines.labels_of(frame)
    ids = frame["neuron_id" if "neuron_id" in frame else "pre_root_id"].to_numpy(np.int64)
    return {
        name: {
            "synapses": int((labels == code).sum()),
            "neurons": len(pd.unique(ids[(labels == code) & (ids != 0)]))
            + int((ids[labels == code] == 0).sum()),
        }
        for code, name in enumerate(names)
    }


def _baselines(subject: Subject, tables: Tables | None, options: Options) -> dict[str, Any]:
    guesses: dict[str, Guess] = {}
    if tables is None:
        source = subject.val.frame if subject.val else subject.test.frame
        val = subject.val.frame if subject.val else source.iloc[:0]
        known = Tables(
            train=source, val=val, test=subject.test.frame, num_classes=subject.num_classes
        )
        guess = baselines.majority(known)
        split = "validation" if subject.val else "test"
        guesses["majority"] = replace(guess, note=f"the most frequent class of the {split} split")
    else:
        guesses["majority"] = baselines.majority(tables)
        guesses["metadata"] = baselines.metadata(tables)
        guesses["connectivity"] = baselines.connectivity(tables)
        guesses["connectivity_leaked"] = baselines.leaked_connectivity(tables)
        if options.images:
            guesses["hog_forest"] = baselines.hog_forest(tables, _reader(subject, tables))
    return {name: _score_guess(subject, guess, options) for name, guess in guesses.items()}


def _score_guess(subject: Subject, guess: Guess, options: Options) -> dict[str, Any]:
    tau = None if subject.num_classes > 2 else HALF
    if subject.val is not None and tau is not None:
        tau = sweep(subject.val.scored.labels, guess.val[:, 1], options.criterion).tau
    scored = replace(subject.test.scored, probabilities=guess.test, tau=tau)
    found = score(scored, num=BASELINE_REPLICATES)
    return {"note": guess.note, "tau": tau, "metrics": as_json(found)}


def _reader(subject: Subject, tables: Tables) -> Callable[[str, Ints], baselines.Images]:
    places = {"train": tables.train["row"].to_numpy(np.int64)}
    for split, frame in (("val", tables.val), ("test", tables.test)):
        if len(frame):
            places[split] = _found_rows(subject, split, frame)
    return lambda split, rows: images_of(subject, split, places[split][rows])


def _found_rows(subject: Subject, split: str, frame: pd.DataFrame) -> Ints:
    rows = rows_in_index(subject, split, frame)
    if (rows < 0).any():
        assert subject.shards is not None
        raise ValueError(
            f"{int((rows < 0).sum())} of {len(rows)} predicted samples are not in the {split} "
            f"split of {subject.shards.url}; give the set that was predicted by --data"
        )
    return rows


def _audit(subject: Subject, tables: Tables | None, options: Options) -> list[Finding]:
    shards = subject.shards
    if shards is None or tables is None:
        frames = {"test": subject.test.frame}
        if subject.val:
            frames = {"val": subject.val.frame, **frames}
        return audit_tables(frames, None)
    splits = [split for split in shards.manifest.splits if len(shards.index(split))]
    found = audit_tables({s: index_frame(shards, s) for s in splits}, box_nm(subject))
    if not options.images:
        return found
    images = {}
    for split in splits:
        length = len(shards.index(split))
        rows = np.linspace(0, length - 1, min(length, AUDIT_IMAGES)).astype(np.int64)
        images[split] = images_of(subject, split, rows)
    return found + audit_images(images)


def _notes(subject: Subject, tables: Tables | None, options: Options) -> list[str]:
    notes = []
    if subject.val is None:
        notes.append(
            "No validation predictions: the threshold is 0.5, nothing is calibrated, and the "
            "correlation within axons is taken as 1."
        )
    if tables is None:
        notes.append(
            "No shard set is known for these predictions: no pictures, no baselines that need "
            "the training split, and the split audit covers only the predictions' own tables."
        )
    elif not options.images:
        notes.append("Pictures were left out: no gallery, image baseline or image duplicates.")
    if subject.num_classes > 2:
        notes.append("More than two classes: the most probable one is predicted, no threshold.")
    for split, part in (("validation", subject.val), ("test", subject.test)):
        if part is None:
            continue
        own = strata_of(part.scored.labels, part.scored.groups, part.scored.num_groups)
        fewest = int(np.bincount(own, minlength=subject.num_classes).min())
        if fewest < FEW_NEURONS:
            notes.append(
                f"Few neurons: one class has {fewest} in {split}; what is read from them may not "
                "hold for others"
                + (", and a class of one neuron has no interval." if fewest < 2 else ".")
            )
        if part.num_alone:
            notes.append(
                f"{part.num_alone} of {len(part.frame)} {split} synapses have no known neuron: "
                "each counts as its own, so that intervals may be too narrow."
            )
    return notes
