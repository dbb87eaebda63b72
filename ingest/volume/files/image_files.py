"""Images that exist already, one file per sample: listed, checked and read."""

from collections import Counter
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from ingest.job.job_config import JobConfig
from ingest.plan.labels import Funnel
from ingest.tables.synapse_tables import IMAGE_NAME
from ingest.volume.files.image_folder import is_image, local_folder
from shards.cli.progress import progress
from shards.images.decode import read_image_file
from shards.images.gray import ImageError
from shards.workers.threads import Pool

Image = npt.NDArray[np.uint8]

READERS = 8  # threads
NAMED = 5  # files that an error names


def with_images(
    samples: pd.DataFrame, job: JobConfig, funnel: Funnel
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the samples that have an image, with its `file`, and the others, with a `reason`.

    Every file is read and must be what `read_image` expects. None that is, or more others than
    `qc.max_reject_fraction`, is a `ValueError`.
    """
    folder = local_folder(job.volume.path)
    samples = _with_names(samples, job, folder, funnel)
    shape = job.samples.image_shape(next(iter(job.samples.views)))
    bad: dict[str, ImageError] = {}

    def check(name: str) -> None:
        try:
            read_image(folder / name, shape)
        except ImageError as error:
            bad[name] = error

    with progress("check images", len(samples)) as advance, Pool(READERS, "image") as pool:
        for _ in pool.map(check, samples.file):
            advance(1)
    reasons = samples.file.map(lambda name: bad[name].reason if name in bad else "")
    share = len(bad) / len(samples)
    if share == 1 or share > job.qc.max_reject_fraction:
        first = [name for name in samples.file if name in bad][:NAMED]
        raise ValueError(
            f"{folder}: {len(samples) - len(bad)} valid images of {len(samples)} "
            f"({_counts(reasons)}); first {', '.join(first)}; {first[0]}: {bad[first[0]]}; repair "
            "or remove them, correct samples.views, or raise qc.max_reject_fraction"
        )
    funnel.drop("image file that cannot be used", len(bad))
    rejects = samples[reasons != ""].assign(reason=reasons[reasons != ""])
    return samples[reasons == ""], rejects


def read_image(path: Path, shape: tuple[int, ...]) -> Image:
    """Return a file's image (c, [z], y, x); `ImageError` unless it is uint8 of that shape.

    Its first channel must not be of one value. TIFF pages are sections unless the file says that
    they are channels.
    """
    expected = shape if len(shape) == 4 else (shape[0], 1, *shape[1:])
    try:
        image = read_image_file(path, gray=shape[0] == 1)
    except FileNotFoundError:
        raise ImageError("no_file", "no such file") from None
    if image.shape != expected:
        raise ImageError("wrong_shape", f"found {image.shape} (c, z, y, x), expected {expected}")
    image = image.reshape(shape)
    if image[0].min() == image[0].max():
        raise ImageError("constant", f"all voxels are {image[0].flat[0]}")
    return image


def _with_names(
    samples: pd.DataFrame, job: JobConfig, folder: Path, funnel: Funnel
) -> pd.DataFrame:
    """Add `file`, the path below the folder; where the table gives it, also a key made of it."""
    if job.synapses.columns.file is None:
        here: dict[str, str] = {}
        for path in sorted(folder.iterdir()):
            if is_image(path) and here.setdefault(path.stem, path.name) != path.name:
                raise ValueError(
                    f"{folder}: {here[path.stem]} and {path.name} are both named by one id; "
                    "remove one of them"
                )
        ids = samples.synapse_id.astype(str)
        if unnamed := len(set(here) - set(ids)):
            funnel.note("image files of no labelled synapse", unnamed)
        return samples.assign(file=[here.get(number, f"{number}.tif") for number in ids])
    names = samples[IMAGE_NAME].astype(str)
    keys = names.str.replace(r"\.\w+$", "", regex=True).str.replace(r"[^\w-]", "-", regex=True)
    if keys.duplicated().any():
        twice = names[keys.duplicated(keep=False)].head(2)
        raise ValueError(f"{folder}: {' and '.join(twice)} make the same key; rename one of them")
    return samples.assign(file=names, key=keys)


def _counts(reasons: "pd.Series[str]") -> str:
    counts = Counter(reason for reason in reasons if reason)
    return ", ".join(f"{reason}: {count}" for reason, count in counts.most_common())
