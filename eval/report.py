"""metrics.json and the report: one HTML file that opens from disk and asks nothing of a net."""

import json
import platform
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from datetime import datetime
from importlib.metadata import version
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from eval import figures, neurons
from eval.bootstrap import LEVEL, REPLICATES, strata_of
from eval.compare import common_rows, compare
from eval.evaluate import Evaluation
from eval.gallery import Card, gallery, suspect_links
from eval.metrics import LOWER_IS_BETTER
from shards.files import atomic_write, write_json
from shards.schema import SCHEMA_VERSION

METRIC_NAMES = {
    "balanced_accuracy": "balanced accuracy",
    "accuracy": "accuracy",
    "auroc": "AUROC",
    "average_precision": "average precision",
    "f1": "F1",
    "mcc": "MCC",
    "precision": "precision",
    "recall": "recall",
    "log_loss": "log loss",
    "brier": "Brier score",
    "ece": "expected calibration error",
}
BASELINE_NAMES = {
    "majority": "majority class",
    "metadata": "metadata only",
    "connectivity": "connectivity only",
    "connectivity_leaked": "connectivity, leaking",
    "hog_forest": "HOG + random forest",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """What the page shows of one run beside its document."""

    name: str
    document: dict[str, Any]
    figures: dict[str, figures.Figure]
    cards: dict[str, list[Card]]
    links: dict[str, list[str | None]]  # of the lists of suspects
    provenance: dict[str, Any]


def document_of(found: list[Evaluation], command: list[str]) -> dict[str, Any]:
    """Return metrics.json."""
    return {
        "schema_version": SCHEMA_VERSION,
        "command": command,
        "interval": {"level": LEVEL, "replicates": REPLICATES, "unit": "presynaptic neuron"},
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("synshards", "numpy", "scikit-learn")},
        },
        "runs": [one.document for one in found],
        "comparisons": [_comparison(first, second) for first, second in combinations(found, 2)],
    }


def _comparison(first: Evaluation, second: Evaluation) -> dict[str, Any]:
    names = {"first": first.subject.name, "second": second.subject.name}
    if first.subject.info.class_names != second.subject.info.class_names:
        return {**names, "not_paired": "their classes differ"}
    own, _ = common_rows(first.subject.test.frame, second.subject.test.frame)
    if not len(own):
        return {**names, "not_paired": "they have no sample in common"}
    taus = first.document["tau"], second.document["tau"]
    return {**names, **compare(first.subject.test, second.subject.test, taus)}


def write_report(
    found: list[Evaluation],
    document: dict[str, Any],
    folder: Path,
    *,
    images: bool,
    segmentation: str | None,
    now: datetime,
) -> tuple[Path, Path]:
    """Write metrics.json and report.html to `folder` and return their paths."""
    sections = [section(one, images=images, segmentation=segmentation) for one in found]
    environment = Environment(
        loader=PackageLoader("eval"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"interval": _interval_cell, "signed": show_signed, "share": show_share}
    page = environment.get_template("report.html.j2").render(
        document=document,
        sections=sections,
        overview=overview(found),
        clean=_together((s.name, _checks(s.document)) for s in sections if not _leaks(s.document)),
        notes=_together((s.name, note) for s in sections for note in s.document["notes"]),
        learning=figures.learning_curves({s.subject.name: learning(s) for s in found}),
        metric_names=METRIC_NAMES,
        baseline_names=BASELINE_NAMES,
        lower_is_better=LOWER_IS_BETTER,
        now=now.strftime("%Y-%m-%d %H:%M UTC"),
    )
    paths = folder / "metrics.json", folder / "report.html"
    write_json(paths[0], document)
    with atomic_write(paths[1]) as file:
        file.write(page.encode())
    return paths


def show_interval(value: dict[str, Any]) -> str:
    """Return `0.912 [0.880, 0.940]`."""
    return f"{value['value']:.3f} {_range(value)}"


def _range(value: dict[str, Any]) -> str:
    if value["low"] is None:
        return "[no interval]"
    return f"[{value['low']:.3f}, {value['high']:.3f}]"


def _interval_cell(value: dict[str, Any]) -> Markup:
    return Markup('{:.3f} <span class="ci">{}</span>').format(value["value"], _range(value))


def show_signed(value: dict[str, Any]) -> str:
    """Return `+0.021 [−0.003, +0.046]`."""
    numbers = [value["value"], value["low"], value["high"]]
    texts = ["none" if x is None else f"{x:+.3f}".replace("-", "−") for x in numbers]
    return f"{texts[0]} [{texts[1]}, {texts[2]}]"


def show_share(value: float) -> str:
    """Return `93 %`."""
    return f"{value:.0%}".replace("%", " %")


def _together(pairs: Iterable[tuple[str, str]]) -> list[tuple[list[str], str]]:
    """Return each text once, with the names that it is said of."""
    names: dict[str, list[str]] = {}
    for name, text in pairs:
        names.setdefault(text, []).append(name)
    return [(said_of, text) for text, said_of in names.items()]


def _leaks(document: dict[str, Any]) -> bool:
    return any(finding["found"] for finding in document["audit"])


def _checks(document: dict[str, Any]) -> str:
    return ", ".join(dict.fromkeys(f["check"] for f in document["audit"])) or "one split only"


def overview(found: list[Evaluation]) -> figures.Figure:
    """Draw every run and its baselines in one picture."""
    rows = [(one.subject.name, one.document["metrics"]["balanced_accuracy"], True) for one in found]
    for one in found:
        for key, value in one.document["baselines"].items():
            name = BASELINE_NAMES[key] + (f" ({one.subject.name})" if key == "hog_forest" else "")
            if all(name != shown for shown, _, _ in rows):
                rows.append((name, value["metrics"]["balanced_accuracy"], False))
    chance = 1.0 / found[0].subject.num_classes
    return figures.forest(rows, "balanced accuracy on test", chance)


def section(found: Evaluation, *, images: bool, segmentation: str | None) -> Section:
    """Draw all that the page shows of one run."""
    with_images = images and found.subject.shards is not None
    return Section(
        name=found.subject.name,
        document=found.document,
        figures=draw(found),
        cards=gallery(found, segmentation) if with_images else {},
        links=suspect_links(found, segmentation),
        provenance=provenance(found),
    )


def draw(found: Evaluation) -> dict[str, figures.Figure]:
    """Return a run's figures by name."""
    document, test = found.document, found.test
    names = document["class_names"]
    truth = strata_of(test.labels, test.groups, test.num_groups)
    counts = np.bincount(test.groups, minlength=test.num_groups)
    result = {"confusion": figures.confusion_matrix(np.array(document["confusion"]), names)}
    if "auroc" in document["metrics"]:
        result["ranking"] = figures.ranking_curves(
            test.labels, test.probabilities, names, document["metrics"]
        )
    if found.sweep is not None:
        result["threshold"] = figures.threshold_curve(found.sweep, document["criterion"])
    chosen = document["calibration"]["chosen"] or "none"
    result["reliability"] = figures.reliability(
        test.labels, test.probabilities, found.calibrated, chosen
    )
    result["neurons"] = figures.per_neuron(truth, found.posteriors, counts, names)
    result["by_synapses"] = figures.by_synapses(document["neurons"]["by_synapses"])
    result["coverage"] = figures.coverage(_coverage_curves(found, truth))
    return result


def _coverage_curves(found: Evaluation, truth: Any) -> dict[str, tuple[Any, Any]]:
    test, posteriors = found.test, found.posteriors
    own = np.take_along_axis(found.calibrated, test.predicted[:, None], axis=1)[:, 0]
    right = (posteriors.argmax(axis=1) == truth).astype(float)
    return {
        "synapses": neurons.abstention(own, (test.predicted == test.labels).astype(float)),
        "neurons": neurons.abstention(posteriors.max(axis=1), right),
    }


def learning(found: Evaluation) -> dict[str, list[tuple[float, float]]]:
    """Return training loss and validation balanced accuracy by epoch, from metrics.jsonl."""
    path = found.subject.folder / "metrics.jsonl"
    lines = path.read_text().splitlines() if found.subject.run and path.is_file() else []
    rows = [row for row in map(json.loads, lines) if row.get("kind") == "val"]
    wanted = {
        "training loss": "train_loss",
        "validation balanced accuracy": "balanced_accuracy",
    }
    return {
        name: [(row["epoch"] + 1.0, row[key]) for row in rows if row.get(key) is not None]
        for name, key in wanted.items()
    }


def provenance(found: Evaluation) -> dict[str, Any]:
    """Return where the predictions came from, as far as it is known."""
    subject = found.subject
    result: dict[str, Any] = {
        "predictions": {"file": str(subject.path), **asdict(subject.info)},
        "run": subject.run or "unknown: a predictions file without a run",
    }
    if subject.shards is not None:
        manifest = subject.shards.manifest
        result["shards"] = {
            "url": subject.shards.url,
            "manifest_sha256": subject.shards.manifest_sha256,
            "pack": asdict(manifest.pack),
        }
        result["data set"] = manifest.dataset
    return result


def headline(document: dict[str, Any], say: Callable[[str], None]) -> None:
    """Print the figures that matter as a small table."""
    for run in document["runs"]:
        synapses, cells = f"{run['n_synapses']:,} synapses", f"{run['n_neurons']:,} neurons"
        tau = "" if run["tau"] is None else f", τ = {run['tau']:.3f} from {run['tau_from']}"
        say(f"{run['name']}: test, {synapses} of {cells}{tau}")
        for key in ("balanced_accuracy", "accuracy", "auroc", "f1", "mcc", "ece"):
            if key in run["metrics"]:
                say(f"  {METRIC_NAMES[key]:<28}{show_interval(run['metrics'][key])}")
        consensus = run["neurons"]["methods"]["correlated"]["balanced_accuracy"]
        say(f"  {'neurons, by consensus':<28}{show_interval(consensus)}")
        for key, value in run["baselines"].items():
            name = f"baseline: {BASELINE_NAMES[key]}"
            say(f"  {name:<34}{show_interval(value['metrics']['balanced_accuracy'])}")
        for note in run["notes"]:
            say(f"  note: {note}")
    for pair in document["comparisons"]:
        if "metrics" in pair:
            gap = pair["metrics"]["balanced_accuracy"]
            say(
                f"{pair['second']} − {pair['first']}: balanced accuracy {show_signed(gap)}, "
                f"p = {gap['p_value']:.3f} ({pair['n_synapses']:,} common synapses)"
            )
