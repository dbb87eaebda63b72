"""Pictures of a data set: where its samples lie, how many a neuron has, and sheets of them."""

from itertools import product
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import zarr
from matplotlib.figure import Figure

from ingest.image_config import QcConfig
from ingest.sheets import COLUMNS, ROWS, sheet_of_some, sheet_of_worst
from shards.documents import parse_plain
from shards.plan import UNLABELLED_NAME
from shards.schema import SPLITS, UNLABELLED, Dataset
from shards.store import ARRAYS

MOST_POINTS = 20_000
NM_PER_UM = 1000.0


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
                rows = some.row.sort_values().tolist()
                sheet_of_some(folder / f"{view}-{split}-{name}.png", array, spec, rows)


def _by_class(dataset: Dataset, samples: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the samples of each class that occurs, and those without a label."""
    names = {UNLABELLED: UNLABELLED_NAME, **dict(enumerate(dataset.class_names))}
    parts = {name: samples[samples.label == code] for code, name in names.items()}
    return {name: part for name, part in parts.items() if len(part)}


def positions_picture(
    folder: Path, dataset: Dataset, kept: pd.DataFrame, rejects: pd.DataFrame
) -> None:
    """Draw where samples lie, by split (upper row) and class (lower row), from two sides."""
    figure = _figure(11, 9)
    axes = figure.subplots(2, 2)
    shown = kept.sample(min(len(kept), MOST_POINTS), random_state=0)
    codes = {split: shown[shown.split == split] for split in SPLITS}
    classes = _by_class(dataset, shown)
    for row, groups in enumerate((codes, classes)):
        for column, across in enumerate(("y", "z")):
            axis = axes[row, column]
            for name, part in groups.items():
                _scatter(axis, part, across, f"{name} ({len(part)})")
            if row == 0 and len(rejects):
                _scatter(axis, rejects, across, f"rejected ({len(rejects)})")
            axis.set(xlabel="x (µm)", ylabel=f"{across} (µm)")
            axis.invert_yaxis()
            axis.legend(markerscale=4, fontsize=8)
    _save(figure, folder / "positions.png")


def neurons_picture(folder: Path, kept: pd.DataFrame) -> None:
    """Draw how many samples the neurons of each split have."""
    figure = _figure(6, 4)
    axis = figure.subplots()
    for split in SPLITS:
        sizes = np.sort(kept[kept.split == split].groupby("neuron_id").size().to_numpy())[::-1]
        axis.plot(np.arange(1, len(sizes) + 1), sizes, marker=".", label=f"{split} ({len(sizes)})")
    axis.set(xlabel="neuron, by rank", ylabel="samples", xscale="log", yscale="log")
    axis.legend(title="split (neurons)")
    _save(figure, folder / "neurons.png")


def _scatter(axis: Any, part: pd.DataFrame, across: str, label: str) -> None:
    x, y = part.center_x_nm / NM_PER_UM, part[f"center_{across}_nm"] / NM_PER_UM
    axis.scatter(x, y, s=2, label=label, linewidths=0)


def _figure(width: float, height: float) -> Figure:
    with mpl.rc_context({"figure.constrained_layout.use": True}):
        return Figure(figsize=(width, height), dpi=100)


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, metadata={"Software": None})
