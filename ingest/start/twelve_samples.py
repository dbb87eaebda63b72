"""A picture of twelve samples of a job that is not planned yet, their positions marked."""

from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image as Picture
from PIL import ImageDraw

from ingest.dataset import image_specs
from ingest.job.image_config import ViewConfig
from ingest.job.job_config import JobConfig
from ingest.plan.image_samples import with_names
from ingest.plan.labels import Funnel
from ingest.qc.sample_sheets import captioned, write_tiles
from ingest.volume.files.image_files import read_image
from ingest.volume.files.image_folder import local_folder
from ingest.volume.geometry import inside
from ingest.volume.open import open_volume
from ingest.volume.sample_boxes import boxes_of, centers_vx
from ingest.volume.scale import Scale
from shards.images.gray import ImageError

Image = npt.NDArray[np.uint8]
TWELVE, READERS = 12, 8
MARK = (255, 60, 40)
GAP_PX, ARM_PX = 5, 9  # of the cross, so that what it marks is seen


def draw_twelve(
    job: JobConfig, samples: pd.DataFrame, scales: Mapping[int, Scale], path: Path
) -> list[str]:
    """Draw labeled samples of all classes, in their first view; return lines on what was seen."""
    name, view = next(iter(job.samples.views.items()))
    size_nm = scales[view.mip].voxel_size_nm
    spec = image_specs(job, dict.fromkeys(job.samples.views, size_nm))[name]
    tiles, flat, classes = [], 0, job.labels.class_names
    for image, row in _images(job, samples, scales, view, name):
        middle = image[0] if image.ndim == 3 else image[0, image.shape[1] // 2]
        flat += not np.ptp(middle)
        key = str(row.get("key", row.get("synapse_name", row.synapse_id)))
        label = classes[row.label] if row.label >= 0 else "not labeled"
        marked = _marked(middle, cross=not job.has_images)
        tiles.append(captioned(marked, [key[:24], label[:24]], spec))
    if not tiles:
        return ["no sheet: no image lies in the volume"]
    write_tiles(path, tiles, f"{name}: {len(tiles)} of {len(samples)} samples", spec)
    note = f"{flat} of them of one gray value: their positions are on no tissue" if flat else ""
    return [f"{len(tiles)} samples drawn: {path}", *([note] if note else [])]


def _images(
    job: JobConfig,
    samples: pd.DataFrame,
    scales: Mapping[int, Scale],
    view: ViewConfig,
    name: str,
) -> Iterator[tuple[Image, pd.Series]]:
    if job.has_images:
        folder = local_folder(job.volume.path)
        samples = _some(with_names(samples, job, folder, Funnel()))
        for _, row in samples.iterrows():
            try:
                yield read_image(folder / row.file, job.samples.image_shape(name)), row
            except ImageError:
                continue  # `plan` counts them by reason
        return
    scale = scales[view.mip]
    fits = inside(centers_vx(samples, scale.voxel_size_nm), view.size_zyx, scale.grid.bounds)
    samples = _some(samples[fits])
    boxes = boxes_of(samples, view, scale.voxel_size_nm)
    with closing(open_volume(job.volume, view.mip, concurrency=READERS)) as volume:
        for image, (_, row) in zip(volume.read_many(boxes), samples.iterrows(), strict=True):
            if image is not None:
                yield np.array(image), row


def _some(samples: pd.DataFrame) -> pd.DataFrame:
    """Return twelve samples, the classes in turn."""
    shuffled = samples.sample(len(samples), random_state=0)
    turn = shuffled.groupby("label").cumcount()
    return shuffled.assign(turn=turn).sort_values(["turn", "label"], kind="stable").head(TWELVE)


def _marked(plane: Image, *, cross: bool) -> Picture.Image:
    """Return a plane (y, x) in color, a cross around its middle voxel."""
    picture = Picture.fromarray(plane).convert("RGB")
    if cross:
        draw, x, y = ImageDraw.Draw(picture), plane.shape[1] // 2, plane.shape[0] // 2
        for dx, dy in ((1, 0), (-1, 0), (0, 1), (0, -1)):
            ends = [(x + dx * at, y + dy * at) for at in (GAP_PX, GAP_PX + ARM_PX)]
            draw.line(ends, fill=MARK)
    return picture
