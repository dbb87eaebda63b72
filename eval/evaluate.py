"""One model's evaluation: everything that metrics.json says about it.

Thresholds, calibration and the axon model come from validation, scores from test. Without
validation the threshold is 0.5, nothing is calibrated, and the notes say so.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from eval.checks import baselines
from eval.checks.audit import audit_images, audit_tables, selection_notes, unchecked
from eval.checks.baselines import Guess
from eval.checks.compare import compare
from eval.checks.notes import notes_of
from eval.inputs.predictions import Floats, Ints
from eval.inputs.rows import Images, Tables
from eval.metrics import calibration
from eval.metrics.bootstrap import Scored, difference, score, strata_of
from eval.metrics.metrics import confusion, precisions, recalls
from eval.metrics.strata import score_strata, subset
from eval.metrics.threshold import HALF, Sweep, sweep
from eval.neurons import consensus as neurons
from eval.neurons import suspects
from eval.results import (
    Audit,
    Baseline,
    Calibration,
    ClassScore,
    Count,
    Finding,
    Intervals,
    MislabelledNeurons,
    MixedNeurons,
    Neurons,
    OddSynapses,
    Run,
    Stress,
    Suspects,
)
from eval.subject import (
    Part,
    Subject,
    box_nm,
    centers_of,
    images_of,
    index_frame,
    neuron_ids_of,
    rows_in_index,
    tables_of,
    with_tags,
)
from shards.contract.schema import SPLITS

BASELINE_REPLICATES = 1000
AUDIT_IMAGES = 4000  # per split


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """Options of an evaluation."""

    criterion: str = "balanced_accuracy"
    images: bool = True  # gallery, image baseline, image duplicates
    notes: tuple[str, ...] = ()  # what the report says first


@dataclass(frozen=True, kw_only=True, slots=True)
class OfNeurons:
    """The test samples of known neurons: n of them, of m neurons."""

    scored: Scored
    neuron_ids: Ints  # (m,)
    posteriors: Floats  # (m, k)


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """The source of the report: the record in metrics.json, and arrays."""

    subject: Subject
    run: Run
    test: Scored  # with its threshold
    calibrated: Floats  # (n, k) test probabilities
    sweep: Sweep | None
    neurons: OfNeurons | None  # None where neurons are unknown
    odd_rows: Ints  # test rows at odds with their neuron


def evaluate(subject: Subject, options: Options, say: Callable[[str], None]) -> Evaluation:
    """Evaluate one subject; `say` is told each step as it begins."""
    say("metrics")
    swept = _sweep(subject.val, subject.num_classes, options.criterion)
    tau = None if subject.num_classes > 2 else swept.tau if swept else HALF
    test = replace(subject.test.scored, tau=tau)
    metrics = score(test)
    counts = confusion(test.labels, test.predicted, subject.num_classes)
    say("calibration and neurons")
    calibrate, calibrations = _calibration(subject, test)
    calibrated = calibrate(test.probabilities)
    consensus, of_neurons = _neurons(subject, test, calibrate)
    odd_rows, suspected = _suspects(subject, test)
    say("strata")
    tables = tables_of(subject)
    if tables:
        _predicted_places(subject, tables)  # or baselines would learn from what is scored
    centers = centers_of(tables.train) if tables else None
    known = subject.test.known
    strata = score_strata(test, known, with_tags(subject, subject.test.frame), centers)
    say("baselines")
    scored_baselines = _baselines(subject, tables, options)
    say("split audit")
    audit = _audit(subject, tables, options)
    run = Run(
        name=subject.name,
        split=subject.split,
        class_names=subject.info.class_names,
        n_synapses=len(test.labels),
        n_neurons=subject.test.num_neurons,
        n_unlabelled=subject.test.num_unlabelled,
        counts=_counts(subject, tables),
        tau=tau,
        tau_from=None if tau is None else "val" if subject.val else "default",
        criterion=options.criterion,
        interval_unit="presynaptic neuron" if subject.test.has_neurons else "synapse",
        metrics=metrics,
        confusion=tuple(tuple(row) for row in counts.tolist()),
        per_class=_per_class(counts),
        at_half=score(replace(test, tau=HALF), ranks=False) if swept else None,
        tau_gain=difference(replace(test, tau=HALF), test) if swept else None,
        calibration=calibrations,
        coverage=_coverage(test, calibrated, of_neurons),
        neurons=consensus,
        suspects=suspected,
        stress=tuple(_stress(subject, tau, name) for name in subject.stress),
        strata=strata,
        baselines=scored_baselines,
        audit=audit,
        notes=(
            *options.notes,
            *selection_notes(list(audit.findings)),
            *notes_of(subject, tables, metrics, consensus, images=options.images),
        ),
    )
    return Evaluation(
        subject=subject,
        run=run,
        test=test,
        calibrated=calibrated,
        sweep=swept,
        neurons=of_neurons,
        odd_rows=odd_rows,
    )


def _sweep(val: Part | None, num_classes: int, criterion: str) -> Sweep | None:
    if val is None or num_classes > 2:
        return None
    return sweep(val.scored.labels, val.scored.probabilities[:, 1], criterion)


def _per_class(counts: Ints) -> tuple[ClassScore, ...]:
    shares = zip(precisions(counts.astype(float)), recalls(counts.astype(float)), strict=True)
    return tuple(ClassScore(precision=float(p), recall=float(r)) for p, r in shares)


def _calibration(subject: Subject, test: Scored) -> tuple[calibration.Calibrator, Calibration]:
    if subject.val is None:
        return _same, Calibration(chosen=None, methods={})
    val = subject.val.scored
    chosen = calibration.choose(val.labels, val.probabilities, val.groups)
    fitted = {
        name: calibration.fit(name, val.labels, val.probabilities)
        for name in calibration.methods_for(subject.num_classes)
    }
    methods = {}
    for name, calibrate in fitted.items():
        values = replace(test, probabilities=calibrate(test.probabilities), tau=None)
        scores = score(values, ranks=False, num=BASELINE_REPLICATES)
        methods[name] = {key: scores[key] for key in ("ece", "log_loss", "brier")}
    return fitted[chosen], Calibration(chosen=chosen, methods=methods)


def _axon_model(
    val: Part | None, calibrate: calibration.Calibrator, num_classes: int
) -> neurons.AxonModel:
    if val is None or not val.has_neurons:
        return neurons.even_axon_model(num_classes)
    known = subset(val.scored, val.known)
    return neurons.fit_axon_model(replace(known, probabilities=calibrate(known.probabilities)))


def _neurons(
    subject: Subject, test: Scored, calibrate: calibration.Calibrator
) -> tuple[Neurons | None, OfNeurons | None]:
    if not subject.test.has_neurons:
        return None, None
    test = subset(test, subject.test.known)
    model = _axon_model(subject.val, calibrate, subject.num_classes)
    calibrated = calibrate(test.probabilities)
    methods = neurons.consensus(test, calibrated, model)
    keys = ("balanced_accuracy", "accuracy", "log_loss", "ece")
    scores: dict[str, Intervals] = {}
    for name, values in methods.items():
        intervals = score(neurons.as_neurons(test, values), ranks=False, num=BASELINE_REPLICATES)
        kept = keys if name in {"independent", "correlated"} else keys[:2]
        scores[name] = {key: intervals[key] for key in kept}
    curve = neurons.accuracy_by_synapses(test, calibrated, model)
    consensus = Neurons(
        correlation=model.correlation if model.measured else None,
        methods=scores,
        by_synapses=curve,
        needed={f"{t:.2f}": neurons.synapses_needed(curve, t) for t in neurons.TARGETS},
        synapses_per_neuron=float(np.median(np.bincount(test.groups))),
    )
    ids = subject.test.neuron_ids[: test.num_groups]
    return consensus, OfNeurons(scored=test, neuron_ids=ids, posteriors=methods["correlated"])


def sure_and_right(
    test: Scored, calibrated: Floats, of_neurons: OfNeurons | None
) -> dict[str, tuple[Floats, Floats]]:
    """Return how sure each synapse, and each known neuron, is called, and whether rightly."""
    own = np.take_along_axis(calibrated, test.predicted[:, None], axis=1)[:, 0]
    result = {"synapses": (own, (test.predicted == test.labels).astype(float))}
    if of_neurons is not None:
        known, posteriors = of_neurons.scored, of_neurons.posteriors
        truth = strata_of(known.labels, known.groups, known.num_groups)
        right = (posteriors.argmax(axis=1) == truth).astype(float)
        result["neurons"] = posteriors.max(axis=1), right
    return result


def _coverage(
    test: Scored, calibrated: Floats, of_neurons: OfNeurons | None
) -> dict[str, dict[str, float]]:
    return {
        what: {f"{t:.2f}": neurons.coverage_at(sure, right, t) for t in neurons.TARGETS}
        for what, (sure, right) in sure_and_right(test, calibrated, of_neurons).items()
    }


def _suspects(subject: Subject, test: Scored) -> tuple[Ints, Suspects | None]:
    part, val = subject.test, subject.val
    if not part.has_neurons:
        return np.zeros(0, np.int64), None
    if val and val.has_neurons:
        belief = suspects.learn(subset(val.scored, val.known))
    else:
        model = neurons.even_axon_model(subject.num_classes)
        belief = suspects.Belief(calibrate=_calibration_of(val), model=model)
    known = subset(test, part.known)
    mixed = suspects.mixed_neurons(belief, known, part.neuron_ids)
    wrong = suspects.mislabelled_neurons(belief, known, part.neuron_ids)
    odd = np.flatnonzero(part.known)[suspects.odd_synapses(belief, known)]
    listed = suspects.describe(part.frame, odd, belief.calibrate(test.probabilities))
    most = suspects.LISTED
    return odd, Suspects(
        val_neurons_left_out=belief.left_out,
        mixed_neurons=MixedNeurons(count=len(mixed), listed=tuple(mixed[:most])),
        mislabelled_neurons=MislabelledNeurons(count=len(wrong), listed=tuple(wrong[:most])),
        odd_synapses=OddSynapses(count=len(odd), listed=listed),
    )


def _calibration_of(val: Part | None) -> calibration.Calibrator:
    if val is None:
        return _same
    labels, values = val.scored.labels, val.scored.probabilities
    return calibration.fit(calibration.choose(labels, values, val.scored.groups), labels, values)


def _same(probabilities: Floats) -> Floats:
    return probabilities


def _stress(subject: Subject, tau: float | None, name: str) -> Stress:
    cost = compare(subject.test, subject.stress[name], (tau, tau), ("balanced_accuracy", "auroc"))
    scored = score(replace(subject.stress[name].scored, tau=tau), num=BASELINE_REPLICATES)
    return Stress(
        name=name,
        balanced_accuracy=scored["balanced_accuracy"],
        auroc=scored["auroc"],
        cost=cost,
    )


def _counts(subject: Subject, tables: Tables | None) -> dict[str, dict[str, Count]]:
    frames = {subject.split: subject.test.frame}
    if subject.val:
        frames = {"val": subject.val.frame, **frames}
    if tables:
        frames = {"train": tables.train, **frames}
    names = subject.info.class_names
    return {split: _class_counts(frame, names) for split, frame in frames.items()}


def _class_counts(frame: pd.DataFrame, names: tuple[str, ...]) -> dict[str, Count]:
    labels, ids = baselines.labels_of(frame), neuron_ids_of(frame)
    known = np.unique(ids[ids != 0])
    return {
        name: Count(
            synapses=int((labels == code).sum()),
            neurons=len(np.intersect1d(ids[labels == code], known)) if len(known) > 1 else None,
        )
        for code, name in enumerate(names)
    }


def _baselines(subject: Subject, tables: Tables | None, options: Options) -> dict[str, Baseline]:
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
        if baselines.known_features(tables):
            guesses["metadata"] = baselines.metadata(tables)
        if baselines.has_partners(tables):
            guesses["connectivity"] = baselines.connectivity(tables)
            guesses["connectivity_leaked"] = baselines.leaked_connectivity(tables)
        if options.images:
            guesses["hog_forest"] = baselines.hog_forest(tables, _reader(subject, tables))
    return {name: _score_guess(subject, guess, options) for name, guess in guesses.items()}


def _score_guess(subject: Subject, guess: Guess, options: Options) -> Baseline:
    tau = None if subject.num_classes > 2 else HALF
    if subject.val is not None and tau is not None:
        tau = sweep(subject.val.scored.labels, guess.val[:, 1], options.criterion).tau
    scored = replace(subject.test.scored, probabilities=guess.test, tau=tau)
    metrics = score(scored, num=BASELINE_REPLICATES)
    return Baseline(note=guess.note, tau=tau, metrics=metrics)


def _reader(subject: Subject, tables: Tables) -> Callable[[str, Ints], Images]:
    places = {"train": tables.train["row"].to_numpy(np.int64), **_predicted_places(subject, tables)}
    return lambda split, rows: images_of(subject, split, places[split][rows])


def _predicted_places(subject: Subject, tables: Tables) -> dict[str, Ints]:
    """Return where predicted samples stand in their split's index; all must be there."""
    frames = {"val": tables.val, "test": tables.test}
    return {s: _index_rows(subject, s, frame) for s, frame in frames.items() if len(frame)}


def _index_rows(subject: Subject, split: str, frame: pd.DataFrame) -> Ints:
    rows = rows_in_index(subject, split, frame)
    if (rows < 0).any():
        assert subject.shards is not None
        raise ValueError(
            f"{int((rows < 0).sum())} of {len(rows)} predicted samples are not in the {split} "
            f"split of {subject.shards.url}; name the predicted set with --data"
        )
    return rows


def _audit(subject: Subject, tables: Tables | None, options: Options) -> Audit:
    shards = subject.shards
    if shards is None or tables is None:
        frames = {subject.split: subject.test.frame}
        if subject.val:
            frames = {"val": subject.val.frame, **frames}
        return _audited(audit_tables(frames, None), list(frames))
    splits = [s for s in SPLITS if s in shards.manifest.splits and len(shards.index(s))]
    findings = audit_tables({s: index_frame(shards, s) for s in splits}, box_nm(subject))
    if not options.images:
        return _audited(findings, splits)
    images = {}
    for split in splits:
        length = len(shards.index(split))
        rows = np.linspace(0, length - 1, min(length, AUDIT_IMAGES)).astype(np.int64)
        images[split] = images_of(subject, split, rows)
    return _audited(findings + audit_images(images), splits)


def _audited(findings: list[Finding], splits: list[str]) -> Audit:
    return Audit(findings=tuple(findings), unchecked=unchecked(findings, splits))
