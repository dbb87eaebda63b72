"""Pictures of a data set: where its samples lie, how many a neuron has, and sheets of them."""

import re
from itertools import cycle, product
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import zarr
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from ingest.job.image_config import QcConfig
from ingest.qc.sample_sheets import COLUMNS, ROWS, sheet_of_some, sheet_of_worst
from shards.contract.documents import parse_plain
from shards.contract.sample_store import ARRAYS
from shards.contract.schema import SPLITS, UNLABELLED, Dataset
from shards.pack.make_manifest import UNLABELLED_NAME
from shards.storage.atomic import atomic_write

MOST_POINTS = 20_000
NM_PER_UM = 1000.0
UNSAFE = re.compile(r"[^\w.-]+")  # in the name of a file
COLORS = ("#0072B2", "#D55E00", "#009E73", "#8a929a", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe-Ito
MARKERS = ("o", "^", "s", "X", "D", "v", "P")
DOTS_AREA, SMALLEST_DOT, LARGEST_DOT = 6000.0, 4.0, 36.0  # square points
THINNEST = 0.05  # a picture of one scale is no flatter than that
WIDE = 50  # more neurons, or samples, are drawn over a logarithm


def draw_all(root: Path, dataset: Dataset, kept: pd.DataFrame, rejects: pd.DataFrame) -> None:
    """Write the pictures of a data set to its folder qc/; what is not known is not drawn.

    `kept` are the samples with the measurements of their images.
    """
    folder = root / "qc"
    folder.mkdir(parents=True, exist_ok=True)
    if kept.center_x_nm.notna().any():
        positions_picture(folder, dataset, kept, rejects)
    if kept.neuron_id.any():
        neurons_picture(folder, kept)
    group = zarr.open_group(root / ARRAYS, mode="r")
    limits = parse_plain(QcConfig, dataset.config["qc"], where=str(root), cure="plan it again")
    for view, spec in dataset.views.items():
        array = group[view]
        assert isinstance(array, zarr.Array)
        measured = kept.set_axis([str(name).removeprefix(f"{view}_") for name in kept], axis=1)
        sheet_of_worst(folder / f"worst-{view}.png", array, spec, measured, limits)
        for split, (name, own) in product(SPLITS, _by_class(dataset, kept).items()):
            chosen = own[own.split == split]
            some = chosen.sample(min(len(chosen), COLUMNS * ROWS), random_state=0)
            if len(some):
                file = UNSAFE.sub("_", f"{view}-{split}-{name}.png")
                title = f"{view}, {split}, {name}: {len(some)} of {len(chosen)} samples"
                sheet_of_some(folder / file, array, spec, some.sort_values("row"), title)


def _by_class(dataset: Dataset, samples: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the samples of each class that occurs, and those without a label."""
    names = {UNLABELLED: UNLABELLED_NAME, **dict(enumerate(dataset.class_names))}
    parts = {name: samples[samples.label == code] for code, name in names.items()}
    return {name: part for name, part in parts.items() if len(part)}


def positions_picture(
    folder: Path, dataset: Dataset, kept: pd.DataFrame, rejects: pd.DataFrame
) -> None:
    """Draw where samples lie, by split (upper row) and class (lower row), from two sides."""
    figure = _figure(12, 9)
    axes = figure.subplots(2, 2, sharex="col", sharey="col")
    shown = kept.sample(min(len(kept), MOST_POINTS), random_state=0)
    splits = {
        f"{split} ({(kept.split == split).sum()})": shown[shown.split == split] for split in SPLITS
    }
    if len(rejects):
        some = rejects.sample(min(len(rejects), MOST_POINTS), random_state=0)
        splits[f"rejected ({len(rejects)})"] = some
    whole = _by_class(dataset, kept)
    classes = {
        f"{name} ({len(whole[name])})": part for name, part in _by_class(dataset, shown).items()
    }
    dot = float(np.clip(DOTS_AREA / len(shown), SMALLEST_DOT, LARGEST_DOT))
    for row, (title, groups) in enumerate((("By split", splits), ("By class", classes))):
        for column, across in enumerate(("y", "z")):
            axis = axes[row, column]
            for (name, part), color, marker in zip(groups.items(), cycle(COLORS), cycle(MARKERS)):
                _scatter(axis, part, across, label=name, s=dot, color=color, marker=marker)
            axis.set(xlabel="x (µm)", ylabel=f"{across} (µm)", title=f"{title}, x and {across}")
            axis.tick_params(labelbottom=True)
        axes[row, 1].legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), markerscale=1.5)
    for axis in axes[0]:
        axis.invert_yaxis()
    for axis in axes.flat:
        _same_scale(axis)
    _save(figure, folder / "positions.png")


def _same_scale(axis: Any) -> None:
    """Give both axes one scale, unless the picture would be a thin line."""
    width, height = (abs(np.ptp(limits)) for limits in (axis.get_xlim(), axis.get_ylim()))
    if THINNEST <= height / width <= 1 / THINNEST:
        axis.set_aspect("equal", adjustable="box")
    else:
        axis.set_title(f"{axis.get_title()} (axes differ in scale)")


def neurons_picture(folder: Path, kept: pd.DataFrame) -> None:
    """Draw how many samples the known neurons of each split have, most first."""
    figure = _figure(7, 4)
    axis = figure.subplots()
    known = kept[kept.neuron_id != 0]
    for split, color, marker in zip(SPLITS, COLORS, MARKERS, strict=False):
        sizes = np.sort(known[known.split == split].groupby("neuron_id").size().to_numpy())[::-1]
        ranks, label = np.arange(1, len(sizes) + 1), f"{split} ({len(sizes)})"
        axis.plot(ranks, sizes, marker=marker, ms=5, lw=1, color=color, label=label)
    unknown = len(kept) - len(known)
    axis.set(
        xlabel="neuron, by its number of samples",
        ylabel="samples of the neuron",
        title=f"{unknown} samples of unknown neurons are left out" if unknown else "",
    )
    for which, (_, most) in (("x", axis.get_xlim()), ("y", axis.get_ylim())):
        scaled = getattr(axis, f"{which}axis")
        if most > WIDE:
            getattr(axis, f"set_{which}scale")("log")
            scaled.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            scaled.set_major_formatter("{x:g}")
            scaled.set_minor_locator(NullLocator())
        else:
            scaled.set_major_locator(MaxNLocator(integer=True))
            getattr(axis, f"set_{which}lim")(0)
    axis.grid(color="#e8ecf0")
    axis.legend(title="split (neurons)")
    _save(figure, folder / "neurons.png")


def _scatter(axis: Any, part: pd.DataFrame, across: str, **style: Any) -> None:
    x, y = part.center_x_nm / NM_PER_UM, part[f"center_{across}_nm"] / NM_PER_UM
    axis.scatter(x, y, linewidths=0, alpha=0.8, **style)


def _figure(width: float, height: float) -> Figure:
    with mpl.rc_context({"figure.constrained_layout.use": True}):
        return Figure(figsize=(width, height), dpi=100)


def _save(figure: Figure, path: Path) -> None:
    with atomic_write(path) as file:
        figure.savefig(file, format="png", metadata={"Software": None})
