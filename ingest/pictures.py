"""Pictures of a data set: sheets of samples, and where they lie."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import pandas as pd
import zarr
from matplotlib.figure import Figure
from PIL import Image as PilImage

from shards.schema import SPLITS, Dataset
from shards.store import ARRAYS

SHEET_COLUMNS, SHEET_ROWS, GAP_PX = 8, 4, 2
MOST_POINTS = 20_000
NM_PER_UM = 1000.0


def draw_all(root: Path, dataset: Dataset, kept: pd.DataFrame, rejects: pd.DataFrame) -> list[Path]:
    """Write the pictures of a data set to its folder qc/, and return their paths."""
    folder = root / "qc"
    folder.mkdir(parents=True, exist_ok=True)
    paths = [positions_picture(folder, dataset, kept, rejects), neurons_picture(folder, kept)]
    group = zarr.open_group(root / ARRAYS, mode="r")
    for view in dataset.views:
        array = group[view]
        assert isinstance(array, zarr.Array)
        for split in SPLITS:
            for code, name in enumerate(dataset.class_names):
                chosen = kept[(kept.split == split) & (kept.label == code)]
                paths.append(_sheet_of(folder / f"{view}-{split}-{name}.png", array, chosen))
    return paths


def contact_sheet(images: list[npt.NDArray[np.uint8]]) -> npt.NDArray[np.uint8]:
    """Lay grey images (y, x) of one size out as rows of a page."""
    height, width = images[0].shape
    rows = -(-len(images) // SHEET_COLUMNS)
    columns = min(len(images), SHEET_COLUMNS)
    page = np.full((rows * (height + GAP_PX), columns * (width + GAP_PX)), 255, dtype=np.uint8)
    for place, image in enumerate(images):
        row, column = divmod(place, SHEET_COLUMNS)
        y, x = row * (height + GAP_PX), column * (width + GAP_PX)
        page[y : y + height, x : x + width] = image
    return page


def positions_picture(
    folder: Path, dataset: Dataset, kept: pd.DataFrame, rejects: pd.DataFrame
) -> Path:
    """Draw where samples lie, by split (upper row) and class (lower row), from two sides."""
    figure = _figure(11, 9)
    axes = figure.subplots(2, 2)
    shown = kept.sample(min(len(kept), MOST_POINTS), random_state=0)
    codes = {split: shown[shown.split == split] for split in SPLITS}
    classes = {name: shown[shown.label == i] for i, name in enumerate(dataset.class_names)}
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
    return _save(figure, folder / "positions.png")


def neurons_picture(folder: Path, kept: pd.DataFrame) -> Path:
    """Draw how many samples the neurons of each split have."""
    figure = _figure(6, 4)
    axis = figure.subplots()
    for split in SPLITS:
        sizes = np.sort(kept[kept.split == split].groupby("neuron_id").size().to_numpy())[::-1]
        axis.plot(np.arange(1, len(sizes) + 1), sizes, marker=".", label=f"{split} ({len(sizes)})")
    axis.set(xlabel="neuron, by rank", ylabel="samples", xscale="log", yscale="log")
    axis.legend(title="split (neurons)")
    return _save(figure, folder / "neurons.png")


def _sheet_of(path: Path, array: "zarr.Array[Any]", samples: pd.DataFrame) -> Path:
    count = min(len(samples), SHEET_COLUMNS * SHEET_ROWS)
    rows = samples.sample(count, random_state=0).row.sort_values().tolist()
    images = [np.asarray(array[row]) for row in rows]
    middle = [image[0, image.shape[1] // 2] if image.ndim == 4 else image[0] for image in images]
    PilImage.fromarray(contact_sheet(middle)).save(path)
    return path


def _scatter(axis: Any, part: pd.DataFrame, across: str, label: str) -> None:
    x, y = part.center_x_nm / NM_PER_UM, part[f"center_{across}_nm"] / NM_PER_UM
    axis.scatter(x, y, s=2, label=label, linewidths=0)


def _figure(width: float, height: float) -> Figure:
    with mpl.rc_context({"figure.constrained_layout.use": True}):
        return Figure(figsize=(width, height), dpi=100)


def _save(figure: Figure, path: Path) -> Path:
    figure.savefig(path, metadata={"Software": None})
    return path
