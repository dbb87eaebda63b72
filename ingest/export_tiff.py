"""A data set's images as TIFF files that ImageJ and napari open to scale."""

from pathlib import Path

import numpy as np
import pandas as pd
import tifffile

from shards.cli.progress import progress
from shards.contract.sample_store import open_store
from shards.contract.schema import IDENTITY_COLUMNS, ImageSpec
from shards.storage.atomic import TEMPORARY_PATTERN, atomic_write
from shards.storage.locks import sole_writer

NM_PER_UM = 1000.0


def export_tiff(root: Path, out: Path, view: str | None) -> int:
    """Write a finished data set's images as `out`/ID.tif and their labels as `out`/labels.csv.

    `view` is one of the data set's; None takes the cube where there is one. Axes are ImageJ's
    (z, c, y, x), voxel size in micrometres. The job `tiff_folder.yaml` reads them back. Returns
    the number of files.
    """
    store = open_store(root)
    name, samples = view or min(store.dataset.views), store.samples.to_pandas()
    if name not in store.dataset.views:
        raise ValueError(f"{root}: no view {name}; it has {', '.join(store.dataset.views)}")
    files = store.files(name)
    with sole_writer(out), progress("export", len(samples)) as advance:
        for path in out.glob(TEMPORARY_PATTERN):  # what a killed export left
            path.unlink()
        for number, row in zip(samples.synapse_id, samples.row, strict=True):
            (image,) = files.read([row])
            write_tiff(out / f"{number}.tif", image, store.dataset.views[name])
            advance(1)
        _write_labels(out / "labels.csv", samples, store.dataset.class_names)
    return len(samples)


def write_tiff(path: Path, image: np.ndarray, spec: ImageSpec) -> None:
    """Write an image (c, [z], y, x) as ImageJ does: to scale, channels named and laid over."""
    z_nm, y_nm, x_nm = spec.size_nm
    sections_zcyx = image[None] if spec.view == "patch" else image.transpose(1, 0, 2, 3)
    metadata: dict[str, object] = {"axes": "ZCYX", "spacing": z_nm / NM_PER_UM, "unit": "um"}
    if len(image) > 1:
        metadata |= {"mode": "composite", "Labels": list(spec.channels) * len(sections_zcyx)}
    resolution = NM_PER_UM / x_nm, NM_PER_UM / y_nm
    with atomic_write(path) as file:
        tifffile.imwrite(file, sections_zcyx, imagej=True, resolution=resolution, metadata=metadata)


def _write_labels(path: Path, samples: pd.DataFrame, class_names: tuple[str, ...]) -> None:
    names = dict(enumerate(class_names))
    labels = samples[[*IDENTITY_COLUMNS, "split"]].assign(label=samples.label.map(names))
    with atomic_write(path) as file:
        file.write(labels.to_csv(index=False).encode())
