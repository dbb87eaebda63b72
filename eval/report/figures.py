"""Figures of the report, as SVG in data URIs, in colors that any eye tells apart (Okabe-Ito).

Every function takes arrays or parts of metrics.json and returns a `Figure`, an image with the text
that stands for it where it cannot be seen.
"""

import base64
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
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

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A6A00")
PANEL = (3.4, 2.9)  # inches of a small figure, of which three stand side by side
WIDE, NARROW = 9.6, 3.7  # inches of a figure as wide as the page, and as a phone
LEGEND_LETTERS = 44  # that fit above a panel
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
    """A picture for the report; `narrow` is its form for a narrow screen."""

    uri: str
    alt: str
    caption: str = ""
    narrow: str = ""


@contextmanager
def _canvas(width: float = PANEL[0], height: float = PANEL[1]) -> Iterator[tuple[Canvas, Axes]]:
    with mpl.rc_context(STYLE):
        canvas = Canvas(figsize=(width, height), layout="constrained")
        yield canvas, canvas.subplots()


def _legend(axes: Axes) -> None:
    """Name the curves above the axes, where nothing is drawn."""
    handles, names = axes.get_legend_handles_labels()
    longest = max((len(name) for name in names), default=0)
    columns = max(1, min(len(names), LEGEND_LETTERS // (longest + 4)))
    axes.legend(
        handles, names, loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=columns,
        borderaxespad=0.3, borderpad=0.0, columnspacing=1.2, handlelength=1.5,
    )  # fmt: skip


def _figure(canvas: Canvas, alt: str, caption: str = "") -> Figure:
    buffer = io.BytesIO()
    with mpl.rc_context(STYLE):
        canvas.savefig(buffer, format="svg", metadata={"Date": None})
    text = base64.b64encode(buffer.getvalue()).decode()
    return Figure(uri=f"data:image/svg+xml;base64,{text}", alt=alt, caption=caption)


def forest(rows: list[tuple[str, Interval, bool]], label: str, chance: float) -> Figure:
    """Draw values with intervals, one below the other; (name, interval, whether it is a model)."""
    summary = "; ".join(f"{name} {value.value:.3f}" for name, value, _ in rows)
    alt = f"{label} with 95 % intervals: {summary}."
    wide, narrow = (_forest(rows, label, chance, alt, width=width) for width in (WIDE, NARROW))
    return replace(wide, narrow=narrow.uri)


def _forest(
    rows: list[tuple[str, Interval, bool]], label: str, chance: float, alt: str, *, width: float
) -> Figure:
    with _canvas(width, 0.9 + 0.32 * len(rows)) as (canvas, axes):
        for place, (_, value, is_model) in enumerate(reversed(rows)):
            color = COLORS[0] if is_model else "#5f6b76"
            if value.low is not None and value.high is not None:
                axes.plot([value.low, value.high], [place, place], color=color, lw=2)
            marker = "o" if is_model else "D"
            axes.plot(value.value, place, marker, color=color, ms=7 if is_model else 5)
        axes.axvline(chance, color=INK, lw=0.8, ls=":")
        axes.set_yticks(range(len(rows)), [name for name, _, _ in reversed(rows)])
        axes.set_ylim(-0.6, len(rows) - 0.4)
        gap = " " if width == WIDE else "\n"
        axes.set_xlabel(f"{label}{gap}(dotted: chance)")
        return _figure(canvas, alt)


def confusion_matrix(counts: Ints, names: Names) -> Figure:
    """Draw counts and the share of each true class."""
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    larger = max(1.0, len(names) / 4)
    with _canvas(PANEL[0] * larger, PANEL[1] * larger) as (canvas, axes):
        axes.imshow(share, cmap="Blues", vmin=0.0, vmax=1.0)
        axes.grid(visible=False)
        for row, column in np.ndindex(counts.shape):
            color = "white" if share[row, column] > 0.55 else INK
            text = f"{counts[row, column]:,}\n{share[row, column]:.0%}"
            axes.text(column, row, text, ha="center", va="center", color=color)
        axes.set_xticks(range(len(names)), names)
        axes.set_yticks(range(len(names)), names, rotation=90, va="center")
        axes.set(xlabel="predicted", ylabel="true")
        summary = "; ".join(
            f"{counts[i, j]} {names[i]} predicted {names[j]}" for i, j in np.ndindex(counts.shape)
        )
        return _figure(canvas, f"Confusion matrix: {summary}.", "Confusion matrix on test")


def ranking_curves(
    labels: Ints, probabilities: Floats, names: Names, metrics: Intervals
) -> dict[str, Figure]:
    """Draw the ROC curve and the precision-recall curve; of two classes, those of the second."""
    drawn = np.linspace(0, len(labels) - 1, min(len(labels), CURVE_ROWS)).astype(np.int64)
    labels, probabilities = labels[drawn], probabilities[drawn]
    of, others = (names[1], names[0]) if len(names) == 2 else ("the class", "others")
    classes = [1] if len(names) == 2 else range(len(names))
    with _canvas() as (canvas, axes):
        for label in classes:
            false, true, _ = roc_curve(labels == label, probabilities[:, label])
            color = COLORS[(label - len(classes)) % len(COLORS)]
            axes.plot(*_thin(false, true), color=color, label=names[label])
        axes.plot([0, 1], [0, 1], color=FAINT, lw=1, ls=":")
        axes.set(xlabel=f"share of {others} called {of}", ylabel=f"share of {of} found")
        if len(classes) > 1:
            _legend(axes)
        area = f"area {metrics['auroc'].value:.3f}"
        roc = _figure(canvas, f"ROC curve of {of} with {area}.", f"ROC on test, {area}")
    with _canvas() as (canvas, axes):
        for label in classes:
            precision, recall, _ = precision_recall_curve(labels == label, probabilities[:, label])
            color = COLORS[(label - len(classes)) % len(COLORS)]
            axes.plot(*_thin(recall, precision), color=color, label=names[label])
        axes.axhline(float((labels == classes[0]).mean()), color=FAINT, lw=1, ls=":")
        axes.set(xlabel=f"recall of {of}", ylabel=f"precision of {of}", ylim=(0.0, 1.03))
        if len(classes) > 1:
            _legend(axes)
        average = f"average precision {metrics['average_precision'].value:.3f}"
        alt = f"Precision against recall of {of}, {average}."
        return {"roc": roc, "recall": _figure(canvas, alt, f"Precision-recall, {average}")}


def _thin(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    rows = np.unique(np.linspace(0, len(x) - 1, min(len(x), CURVE_POINTS)).astype(np.int64))
    return x[rows], y[rows]


def threshold_curve(swept: Sweep, criterion: str, positive: str) -> Figure:
    """Draw the validation criterion against the threshold."""
    label, tau = criterion.replace("_", " "), show_probability(swept.tau)
    extreme = not EXTREME < swept.tau < 1.0 - EXTREME
    with _canvas() as (canvas, axes):
        axes.plot(swept.taus, swept.values, color=COLORS[0], marker="." if extreme else "")
        axes.axvline(swept.tau, color=COLORS[1], lw=1.2)
        axes.axvline(0.5, color=FAINT, lw=1, ls=":")
        axes.set(xlabel=f"threshold τ on P({positive})", ylabel=f"{label} on validation")
        if extreme:
            axes.set_xscale("logit", use_overline=True)
            axes.minorticks_off()
            axes.xaxis.set_major_locator(LogitLocator(nbins=4))
        else:
            axes.set_xlim(0, 1)
        alt = f"{label} on validation against τ; the best, {swept.value:.3f}, at {tau}."
        caption = f"τ = {tau} is the best on validation (dotted: 0.5)"
        return _figure(canvas, alt, caption)


def reliability(labels: Ints, before: Floats, after: Floats, chosen: str, names: Names) -> Figure:
    """Draw predicted probability against observed frequency, before and after calibration."""
    with _canvas() as (canvas, axes):
        axes.plot([0, 1], [0, 1], color=FAINT, lw=1, ls=":")
        for values, name, color, marker in (
            (before, "as predicted", COLORS[1], "s"),
            (after, f"calibrated ({chosen})", COLORS[0], "o"),
        )[: 1 + (chosen != "none")]:
            predicted, observed, share = _reliability_points(labels, values)
            axes.plot(predicted, observed, lw=1.0, color=color, alpha=0.5)
            axes.scatter(
                predicted, observed, 4 + 160 * share, marker=marker, color=color, label=name
            )
        two = len(names) == 2
        axes.set(
            xlabel=f"predicted P({names[1]})" if two else "P(predicted class)",
            ylabel=f"share of {names[1]}" if two else "share right",
            xlim=(-0.02, 1.02), ylim=(-0.02, 1.02),
        )  # fmt: skip
        _legend(axes)
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
    with _canvas() as (canvas, axes):
        for code, name in enumerate(names):
            kept = rows[truth[rows] == code]
            marker = "o^sDvPX"[code % 7]
            color = COLORS[code % len(COLORS)]
            axes.scatter(counts[kept], own[kept], s=18, color=color, marker=marker, alpha=0.7,
                         label=name, linewidths=0)  # fmt: skip
        axes.axhline(1.0 / len(names), color=FAINT, lw=1, ls=":")
        axes.set(xlabel="synapses of the neuron", ylabel="posterior of its class", xscale="log")
        axes.set_ylim(-0.04, 1.04)
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
        _legend(axes)
        wrong = int((posteriors.argmax(axis=1) != truth).sum())
        alt = f"Each test neuron's posterior of its own class; {wrong} of {len(truth)} are wrong."
        return _figure(canvas, alt, "Neurons by consensus (correlated posterior)")


def by_synapses(curve: Sequence[FromSynapses]) -> Figure:
    """Draw neurons' accuracy against the number of synapses used."""
    with _canvas() as (canvas, axes):
        x = [row.synapses for row in curve]
        axes.plot(x, [row.balanced_accuracy for row in curve], "o-", color=COLORS[0], ms=4)
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
    with _canvas() as (canvas, axes):
        for (name, (share, accuracy)), color in zip(curves.items(), COLORS, strict=False):
            axes.plot(share, accuracy, color=color, label=name,
                      ls="-" if name == "synapses" else "--")  # fmt: skip
        axes.set(xlabel="share decided", ylabel="accuracy of the decided", xlim=(0, 1.02))
        _legend(axes)
        alt = f"Accuracy against the share of {' and '.join(curves)} decided, surest first."
        return _figure(canvas, alt, "Accuracy against the share decided")


def learning_curves(curves: dict[str, dict[str, list[tuple[float, float]]]]) -> list[Figure]:
    """Draw training loss and validation balanced accuracy by epoch.

    Predictions without a training run have no curves, and no figure.
    """
    drawn = {what: points for run in curves.values() for what, points in run.items() if points}
    return [_learning(curves, what) for what in drawn]


def _learning(curves: dict[str, dict[str, list[tuple[float, float]]]], what: str) -> Figure:
    with _canvas(WIDE / 2, PANEL[1]) as (canvas, axes):
        for (name, run), color in zip(curves.items(), COLORS * 3, strict=False):
            if run.get(what):
                axes.plot(*zip(*run[what], strict=True), "o-", ms=3, color=color, label=name)
        axes.set(xlabel="epoch", ylabel=what)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _legend(axes)
        return _figure(canvas, f"{what} by epoch of " + ", ".join(curves) + ".")
