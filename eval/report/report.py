"""metrics.json and the report: one HTML file that opens from disk, without a network."""

import json
import platform
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from importlib.metadata import version
from itertools import combinations
from pathlib import Path

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from eval.checks.compare import common_rows, compare
from eval.evaluate import Evaluation, sure_and_right
from eval.metrics.bootstrap import LEVEL, REPLICATES, strata_of
from eval.metrics.metrics import LOWER_IS_BETTER
from eval.neurons import consensus as neurons
from eval.report import figures
from eval.report.gallery import Card, gallery, suspect_links
from eval.report.run_summary import summary
from eval.report.text import (
    BASELINE_NAMES,
    METRIC_NAMES,
    audit_of_clean,
    leaks,
    show_probability,
    show_range,
    show_share,
    show_signed,
    synapses_of_neurons,
)
from eval.results import Comparison, Interval, IntervalNote, Metrics, Run
from shards.contract.documents import write_document
from shards.storage.atomic import atomic_write
from shards.storage.urls import without_secrets

METRICS, REPORT = "metrics.json", "report.html"


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """One run as the page shows it."""

    name: str
    run: Run
    figures: dict[str, figures.Figure]
    cards: dict[str, list[Card]]
    links: dict[str, list[str | None]]  # of the lists of suspects
    provenance: dict[str, str]  # title, text
    summary: dict[str, str]  # what was trained, and on what


def metrics_of(evaluations: list[Evaluation], command: list[str]) -> Metrics:
    """Return metrics.json."""
    return Metrics(
        command=tuple(command),
        interval=IntervalNote(level=LEVEL, replicates=REPLICATES),
        versions={
            "python": platform.python_version(),
            **{name: version(name) for name in ("synshards", "numpy", "scikit-learn")},
        },
        runs=tuple(evaluation.run for evaluation in evaluations),
        comparisons=tuple(_comparison(a, b) for a, b in combinations(evaluations, 2)),
    )


def _comparison(first: Evaluation, second: Evaluation) -> Comparison:
    result = Comparison(first=first.subject.name, second=second.subject.name)
    if first.subject.info.class_names != second.subject.info.class_names:
        return replace(result, not_paired="their classes differ")
    own, _ = common_rows(first.subject.test.frame, second.subject.test.frame)
    if not len(own):
        return replace(result, not_paired="they have no sample in common")
    gaps = compare(first.subject.test, second.subject.test, (first.run.tau, second.run.tau))
    return replace(result, n_synapses=len(own), metrics=gaps)


def write_report(
    evaluations: list[Evaluation],
    metrics: Metrics,
    folder: Path,
    *,
    images: bool,
    segmentation: str | None,
    now: datetime,
) -> tuple[Path, Path]:
    """Write metrics.json and report.html to `folder` and return their paths."""
    sections = [
        section(evaluation, images=images, segmentation=segmentation) for evaluation in evaluations
    ]
    environment = Environment(
        loader=PackageLoader("eval.report"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {
        "interval": _interval_cell,
        "signed": show_signed,
        "share": show_share,
        "probability": show_probability,
    }
    page = environment.get_template("report.html.j2").render(
        metrics=metrics,
        sections=sections,
        overview=overview(evaluations),
        units=_together((s.name, s.run.interval_unit) for s in sections),
        leaks=[(s.name, texts) for s in sections if (texts := leaks(s.run))],
        clean=_together((s.name, t) for s in sections if (t := audit_of_clean(s.run))),
        notes=_together((s.name, note) for s in sections for note in s.run.notes),
        learning=figures.learning_curves(
            {evaluation.subject.name: evaluation.subject.learning for evaluation in evaluations}
        ),
        metric_names=METRIC_NAMES,
        baseline_names=BASELINE_NAMES,
        lower_is_better=LOWER_IS_BETTER,
        synapses_of_neurons=synapses_of_neurons,
        now=now.strftime("%Y-%m-%d %H:%M UTC"),
    )
    paths = folder / METRICS, folder / REPORT
    write_document(paths[0], metrics)
    with atomic_write(paths[1]) as file:
        file.write(without_secrets(page).encode())
    return paths


def _interval_cell(value: Interval) -> Markup:
    return Markup('{:.3f} <span class="ci">{}</span>').format(value.value, show_range(value))


def _together(pairs: Iterable[tuple[str, str]]) -> list[tuple[list[str], str]]:
    """Return each text once, with the names of the runs that it describes."""
    names: dict[str, list[str]] = {}
    for name, text in pairs:
        names.setdefault(text, []).append(name)
    return [(subjects, text) for text, subjects in names.items()]


def overview(evaluations: list[Evaluation]) -> figures.Figure:
    """Draw every run and its baselines in one picture."""
    rows = [
        (evaluation.subject.name, evaluation.run.metrics["balanced_accuracy"], True)
        for evaluation in evaluations
    ]
    for evaluation in evaluations:
        for key, value in evaluation.run.baselines.items():
            name = BASELINE_NAMES[key] + (
                f" ({evaluation.subject.name})" if key == "hog_forest" else ""
            )
            if all(name != shown for shown, _, _ in rows):
                rows.append((name, value.metrics["balanced_accuracy"], False))
    chance = 1.0 / evaluations[0].subject.num_classes
    return figures.forest(rows, "balanced accuracy on test", chance)


def section(evaluation: Evaluation, *, images: bool, segmentation: str | None) -> Section:
    """Draw all that the page shows of one run."""
    with_images = images and evaluation.subject.shards is not None
    return Section(
        name=evaluation.subject.name,
        run=evaluation.run,
        figures=draw(evaluation),
        cards=gallery(evaluation, segmentation) if with_images else {},
        links=suspect_links(evaluation, segmentation),
        provenance=provenance(evaluation),
        summary=summary(evaluation),
    )


def draw(evaluation: Evaluation) -> dict[str, figures.Figure]:
    """Return a run's figures by name."""
    run, test = evaluation.run, evaluation.test
    names = run.class_names
    result = {"confusion": figures.confusion_matrix(np.array(run.confusion), names)}
    if "auroc" in run.metrics:
        result |= figures.ranking_curves(test.labels, test.probabilities, names, run.metrics)
    if evaluation.sweep is not None:
        result["threshold"] = figures.threshold_curve(evaluation.sweep, run.criterion, names[1])
    chosen = run.calibration.chosen or "none"
    result["reliability"] = figures.reliability(
        test.labels, test.probabilities, evaluation.calibrated, chosen, names
    )
    if evaluation.neurons is not None and run.neurons is not None:
        known = evaluation.neurons.scored
        truth = strata_of(known.labels, known.groups, known.num_groups)
        counts = np.bincount(known.groups, minlength=known.num_groups)
        result["neurons"] = figures.per_neuron(truth, evaluation.neurons.posteriors, counts, names)
        result["by_synapses"] = figures.by_synapses(run.neurons.by_synapses)
    pairs = sure_and_right(test, evaluation.calibrated, evaluation.neurons)
    curves = {what: neurons.abstention(sure, right) for what, (sure, right) in pairs.items()}
    result["coverage"] = figures.coverage(curves)
    return result


def provenance(evaluation: Evaluation) -> dict[str, str]:
    """Return where the predictions came from, as far as it is known, as text by title."""
    subject = evaluation.subject
    texts = {
        "predictions": _json_text({"file": str(subject.path), **asdict(subject.info)}),
        "run": subject.run_text or "unknown: a predictions file without a run",
    }
    if subject.shards is not None:
        manifest = subject.shards.manifest
        texts["shards"] = _json_text(
            {
                "url": subject.shards.url,
                "manifest_sha256": subject.shards.manifest_sha256,
                "pack": asdict(manifest.pack),
            }
        )
        texts["data set"] = _json_text(manifest.dataset)
    return texts


def _json_text(value: object) -> str:
    # Before the page escapes it: a URL's query is not recognized behind "&amp;".
    return without_secrets(json.dumps(value, indent=2, sort_keys=True))
