"""Figures of the report, as SVG in data URIs, in colours that any eye tells apart (Okabe-Ito).

Every function takes arrays or parts of metrics.json and returns a `Figure`, an image with the text
that stands for it where it cannot be seen.
"""

import base64
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import LogitLocator, LogLocator, MaxNLocator
from sklearn.metrics import precision_recall_curve, roc_curve

from eval.inputs.predictions import Floats, Ints
from eval.metrics.metrics import ECE_BINS, confidence_and_hits
from eval.metrics.threshold import Sweep
from eval.report.text import show_probability
from eval.results import FromSynapses, Interval, Intervals

Names = tuple[str, ...]

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A6A00")
INK, FAINT = "#1f2933", "#b8c2cc"
CURVE_POINTS = 400
EXTREME = 0.01  # a threshold nearer to 0 or 1 is drawn over log odds
CURVE_ROWS = 200_000  # more draw the same curve
STYLE: Any = {
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.grid": True,
    "grid.color": "#e8ecf0",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "svg.hashsalt": "synshards",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """A picture for the report."""

    uri: str
    alt: str
    caption: str = ""


@contextmanager
def _canvas(width: float, height: float, panels: int = 1) -> Iterator[tuple[Canvas, list[Axes]]]:
    with mpl.rc_context(STYLE):
        canvas = Canvas(figsize=(width, height), layout="constrained")
        yield canvas, list(np.atleast_1d(canvas.subplots(1, panels)).ravel())


def _figure(canvas: Canvas, alt: str, caption: str = "") -> Figure:
    buffer = io.BytesIO()
    with mpl.rc_context(STYLE):
        canvas.savefig(buffer, format="svg", metadata={"Date": None})
    text = base64.b64encode(buffer.getvalue()).decode()
    return Figure(uri=f"data:image/svg+xml;base64,{text}", alt=alt, caption=caption)


def forest(rows: list[tuple[str, Interval, bool]], label: str, chance: float) -> Figure:
    """Draw values with intervals, one below the other; (name, interval, whether it is a model)."""
    with _canvas(7.0, 0.9 + 0.32 * len(rows)) as (canvas, (axes,)):
        for place, (_, value, is_model) in enumerate(reversed(rows)):
            colour = COLOURS[0] if is_model else "#5f6b76"
            if value.low is not None and value.high is not None:
                axes.plot([value.low, value.high], [place, place], color=colour, lw=2)
            marker = "o" if is_model else "D"
            axes.plot(value.value, place, marker, color=colour, ms=7 if is_model else 5)
        axes.axvline(chance, color=INK, lw=0.8, ls=":")
        axes.set_yticks(range(len(rows)), [name for name, _, _ in reversed(rows)])
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.set_xlabel(f"{label} (dotted: chance)")
        summary = "; ".join(f"{name} {value.value:.3f}" for name, value, _ in rows)
        return _figure(canvas, f"{label} with 95 % intervals: {summary}.")


def confusion_matrix(counts: Ints, names: Names) -> Figure:
    """Draw counts and the share of each true class."""
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = 1.2 + 0.95 * len(names)
    with _canvas(size + 0.6, size) as (canvas, (axes,)):
        axes.imshow(share, cmap="Blues", vmin=0.0, vmax=1.0)
        axes.grid(visible=False)
        for row, column in np.ndindex(counts.shape):
            colour = "white" if share[row, column] > 0.55 else INK
            text = f"{counts[row, column]:,}\n{share[row, column]:.0%}"
            axes.text(column, row, text, ha="center", va="center", color=colour)
        axes.set_xticks(range(len(names)), names)
        axes.set_yticks(range(len(names)), names, rotation=90, va="center")
        axes.set(xlabel="predicted", ylabel="true")
        summary = "; ".join(
            f"{counts[i, j]} {names[i]} predicted {names[j]}" for i, j in np.ndindex(counts.shape)
        )
        return _figure(canvas, f"Confusion matrix: {summary}.", "Confusion matrix on test")


def ranking_curves(labels: Ints, probabilities: Floats, names: Names, metrics: Intervals) -> Figure:
    """Draw the ROC curve and the precision-recall curve."""
    drawn = np.linspace(0, len(labels) - 1, min(len(labels), CURVE_ROWS)).astype(np.int64)
    labels, probabilities = labels[drawn], probabilities[drawn]
    with _canvas(7.0, 3.1, 2) as (canvas, (roc, recall)):
        classes = [1] if len(names) == 2 else range(len(names))
        for label in classes:
            scores, colour = probabilities[:, label], COLOURS[(label - len(classes)) % len(COLOURS)]
            false, true, _ = roc_curve(labels == label, scores)
            roc.plot(*_thin(false, true), color=colour, label=names[label])
            precision, recalled, _ = precision_recall_curve(labels == label, scores)
            recall.plot(*_thin(recalled, precision), color=colour, label=names[label])
        roc.plot([0, 1], [0, 1], color=FAINT, lw=1, ls=":")
        recall.axhline(float((labels == classes[0]).mean()), color=FAINT, lw=1, ls=":")
        roc.set(xlabel="false positive rate", ylabel="true positive rate")
        recall.set(xlabel="recall", ylabel="precision", ylim=(0.0, 1.03))
        if len(classes) > 1:
            roc.legend()
        areas = metrics["auroc"].value, metrics["average_precision"].value
        roc.set_title(f"ROC, area {areas[0]:.3f}", fontsize=9)
        recall.set_title(f"Precision-recall, average precision {areas[1]:.3f}", fontsize=9)
        alt = f"ROC curve with area {areas[0]:.3f}, precision-recall with {areas[1]:.3f}."
        return _figure(canvas, alt, "Ranking by score, over all thresholds")


def _thin(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    rows = np.unique(np.linspace(0, len(x) - 1, min(len(x), CURVE_POINTS)).astype(np.int64))
    return x[rows], y[rows]


def threshold_curve(swept: Sweep, criterion: str) -> Figure:
    """Draw the validation criterion against the threshold."""
    label, tau = criterion.replace("_", " "), show_probability(swept.tau)
    extreme = not EXTREME < swept.tau < 1.0 - EXTREME
    with _canvas(3.4, 2.8) as (canvas, (axes,)):
        axes.plot(swept.taus, swept.values, color=COLOURS[0], marker="." if extreme else "")
        axes.axvline(swept.tau, color=COLOURS[1], lw=1.2)
        axes.axvline(0.5, color=FAINT, lw=1, ls=":")
        axes.set(xlabel="threshold τ", ylabel=f"{label} on validation")
        if extreme:
            axes.set_xscale("logit", use_overline=True)
            axes.minorticks_off()
            axes.xaxis.set_major_locator(LogitLocator(nbins=4))
        else:
            axes.set_xlim(0, 1)
        alt = f"{label} on validation against τ; the best, {swept.value:.3f}, at {tau}."
        caption = f"τ = {tau} is the best on validation (dotted: 0.5)"
        return _figure(canvas, alt, caption)


def reliability(labels: Ints, before: Floats, after: Floats, chosen: str) -> Figure:
    """Draw predicted probability against observed frequency, before and after calibration."""
    with _canvas(3.4, 2.8) as (canvas, (axes,)):
        axes.plot([0, 1], [0, 1], color=FAINT, lw=1, ls=":")
        for values, name, colour, marker in (
            (before, "as predicted", COLOURS[1], "s"),
            (after, f"calibrated ({chosen})", COLOURS[0], "o"),
        )[: 1 + (chosen != "none")]:
            predicted, observed, share = _reliability_points(labels, values)
            axes.plot(predicted, observed, lw=1.0, color=colour, alpha=0.5)
            axes.scatter(
                predicted, observed, 4 + 160 * share, marker=marker, color=colour, label=name
            )
        two = before.shape[1] == 2
        axes.set(
            xlabel="predicted P(class 1)" if two else "confidence",
            ylabel="share of class 1" if two else "share right",
            xlim=(-0.02, 1.02), ylim=(-0.02, 1.02),
        )  # fmt: skip
        axes.legend()
        alt = "Reliability diagram: observed share against predicted probability, before and after"
        caption = "Reliability on test (the larger, the more synapses)"
        return _figure(canvas, alt + " calibration.", caption)


def _reliability_points(labels: Ints, probabilities: Floats) -> tuple[Floats, Floats, Floats]:
    """Return per filled bin the prediction, the observed frequency, and its share of samples."""
    predicted, hits = confidence_and_hits(labels, probabilities)
    cells = np.minimum((predicted * ECE_BINS).astype(np.int64), ECE_BINS - 1)
    count = np.bincount(cells, minlength=ECE_BINS)
    filled = count > 0
    sums = [np.bincount(cells, w, minlength=ECE_BINS)[filled] for w in (predicted, hits)]
    return sums[0] / count[filled], sums[1] / count[filled], count[filled] / len(predicted)


def per_neuron(truth: Ints, posteriors: Floats, counts: Ints, names: Names) -> Figure:
    """Draw each neuron's posterior of its own class against its number of synapses."""
    own = posteriors[np.arange(len(truth)), truth]
    rows = np.unique(np.linspace(0, len(own) - 1, min(len(own), 1500)).astype(np.int64))
    with _canvas(3.4, 2.8) as (canvas, (axes,)):
        for code, name in enumerate(names):
            kept = rows[truth[rows] == code]
            marker = "o^sDvPX"[code % 7]
            colour = COLOURS[code % len(COLOURS)]
            axes.scatter(counts[kept], own[kept], s=18, color=colour, marker=marker, alpha=0.7,
                         label=name, linewidths=0)  # fmt: skip
        axes.axhline(1.0 / len(names), color=FAINT, lw=1, ls=":")
        axes.set(xlabel="synapses of the neuron", ylabel="posterior of its class", xscale="log")
        axes.set_ylim(-0.04, 1.04)
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
        axes.legend()
        wrong = int((posteriors.argmax(axis=1) != truth).sum())
        alt = f"Each test neuron's posterior of its own class; {wrong} of {len(truth)} are wrong."
        return _figure(canvas, alt, "Neurons by consensus (correlated posterior)")


def by_synapses(curve: Sequence[FromSynapses]) -> Figure:
    """Draw neurons' accuracy against the number of synapses used."""
    with _canvas(3.4, 2.8) as (canvas, (axes,)):
        x = [row.synapses for row in curve]
        axes.plot(x, [row.balanced_accuracy for row in curve], "o-", color=COLOURS[0], ms=4)
        for target in (0.95, 0.99):
            axes.axhline(target, color=FAINT, lw=1, ls=":")
        axes.set(xlabel="synapses used", ylabel="neurons' balanced accuracy", xscale="log")
        axes.set_xticks(x, [f"{value:g}" for value in x])
        axes.minorticks_off()
        summary = "; ".join(f"{r.synapses}: {r.balanced_accuracy:.3f}" for r in curve)
        alt = f"Balanced accuracy of neurons against synapses used: {summary}."
        return _figure(canvas, alt, "Gain from more synapses (dotted: 95 %, 99 %)")


def coverage(curves: dict[str, tuple[Floats, Floats]]) -> Figure:
    """Draw accuracy against the share that is decided, surest first."""
    with _canvas(3.4, 2.8) as (canvas, (axes,)):
        for (name, (share, accuracy)), colour in zip(curves.items(), COLOURS, strict=False):
            axes.plot(share, accuracy, color=colour, label=name,
                      ls="-" if name == "synapses" else "--")  # fmt: skip
        axes.set(xlabel="share decided", ylabel="accuracy of the decided", xlim=(0, 1.02))
        axes.legend()
        alt = f"Accuracy against the share of {' and '.join(curves)} decided, surest first."
        return _figure(canvas, alt, "Accuracy against the share decided")


def learning_curves(curves: dict[str, dict[str, list[tuple[float, float]]]]) -> Figure | None:
    """Draw training loss and validation balanced accuracy by epoch; None when there are none.

    Predictions without a training run have no curves.
    """
    curves = {name: run for name, run in curves.items() if any(run.values())}
    if not curves:
        return None
    with _canvas(7.0, 2.8, 2) as (canvas, axes):
        for (name, run), colour in zip(curves.items(), COLOURS * 3, strict=False):
            for panel, (what, points) in zip(axes, run.items(), strict=True):
                panel.set(xlabel="epoch", ylabel=what)
                panel.xaxis.set_major_locator(MaxNLocator(integer=True))
                if points:
                    panel.plot(*zip(*points, strict=True), "o-", ms=3, color=colour, label=name)
        axes[0].legend()
        return _figure(canvas, "Learning curves of " + ", ".join(curves) + ".")
