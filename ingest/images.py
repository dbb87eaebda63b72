"""Images that exist already, a file a sample: found, checked and read."""

import logging
import struct
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import tifffile
from PIL import Image as Picture

from ingest.config import JobConfig
from ingest.labels import Funnel
from ingest.tree import is_image, local_folder
from shards.progress import progress

Image = npt.NDArray[np.uint8]

READERS = 8  # threads
NAMED = 5  # files that an error names
logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # errors here say it, and once
PAGES = str.maketrans("IQT", "ZZZ")  # TIFF axes that are sections when nobody says what they are
# What tifffile and Pillow raise on files that are not what their first bytes say.
BROKEN = (
    tifffile.TiffFileError,
    struct.error,
    zlib.error,
    OSError,
    ValueError,
    LookupError,
    TypeError,
    SyntaxError,
    RuntimeError,
)


class BadImageError(ValueError):
    """A file that cannot be used: `reason` in a word, and what was found."""

    def __init__(self, reason: str, found: str) -> None:
        super().__init__(found)
        self.reason = reason


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
    bad: dict[str, BadImageError] = {}

    def check(name: str) -> None:
        try:
            read_image(folder / name, shape)
        except BadImageError as error:
            bad[name] = error

    with progress("check images", len(samples)) as advance, ThreadPoolExecutor(READERS) as pool:
        for _ in pool.map(check, samples.file):
            advance(1)
    reasons = samples.file.map(lambda name: bad[name].reason if name in bad else "")
    share = len(bad) / len(samples)
    if share == 1 or share > job.qc.max_reject_fraction:
        first = [name for name in samples.file if name in bad][:NAMED]
        raise ValueError(
            f"{folder}: {len(samples) - len(bad)} valid images of {len(samples)} "
            f"({_counts(reasons)}); first {', '.join(first)}; {first[0]}: {bad[first[0]]}; mend or "
            "remove them, correct samples.views, or raise qc.max_reject_fraction"
        )
    funnel.drop("image file that cannot be used", len(bad))
    rejects = samples[reasons != ""].assign(reason=reasons[reasons != ""])
    return samples[reasons == ""], rejects


def read_image(path: Path, shape: tuple[int, ...]) -> Image:
    """Return a file's image (c, [z], y, x); `BadImageError` unless it is uint8 of that shape.

    Its first channel must not be of one value. TIFF pages are sections unless the file says that
    they are channels.
    """
    try:
        image = _png(path) if path.suffix.lower() == ".png" else _tiff(path)
    except FileNotFoundError:
        raise BadImageError("no_file", "no such file") from None
    except BadImageError:
        raise
    except BROKEN as error:
        raise BadImageError("unreadable", str(error) or type(error).__name__) from None
    if image.dtype != np.uint8:
        raise BadImageError("wrong_dtype", f"{image.dtype}, expected 8-bit grey")
    # Sides of one are left out by writers: one channel, one section.
    if [n for n in image.shape if n > 1] != [n for n in shape if n > 1]:
        raise BadImageError("wrong_shape", f"{image.shape} (c, z, y, x), expected {shape}")
    image = image.reshape(shape)
    if image[0].min() == image[0].max():
        raise BadImageError("constant", f"all voxels are {image[0].flat[0]}")
    return image


def _with_names(
    samples: pd.DataFrame, job: JobConfig, folder: Path, funnel: Funnel
) -> pd.DataFrame:
    """Add `file`, the path below the folder; where the table gives it, also a key made of it."""
    if (column := job.synapses.columns.file) is None:
        here = {path.stem: path.name for path in folder.iterdir() if is_image(path)}
        ids = samples.synapse_id.astype(str)
        if unnamed := len(set(here) - set(ids)):
            funnel.note("image files of no labelled synapse", unnamed)
        return samples.assign(file=[here.get(number, f"{number}.tif") for number in ids])
    names = samples[column].astype(str)
    keys = names.str.replace(r"\.\w+$", "", regex=True).str.replace(r"[^\w-]", "-", regex=True)
    if keys.duplicated().any():
        twice = names[keys.duplicated(keep=False)].head(2)
        raise ValueError(f"{folder}: {' and '.join(twice)} make the same key; rename one of them")
    return samples.assign(file=names, key=keys)


def _counts(reasons: "pd.Series[str]") -> str:
    counts = Counter(reason for reason in reasons if reason)
    return ", ".join(f"{reason}: {count}" for reason, count in counts.most_common())


def _tiff(path: Path) -> npt.NDArray[Any]:
    """Return the first series as (c, z, y, x), less the axes that it does not have."""
    with tifffile.TiffFile(path) as file:
        axes, image = file.series[0].axes.translate(PAGES), file.series[0].asarray()
    if len(set(axes)) < len(axes) or not set(axes) <= set("CZYX"):
        raise BadImageError("wrong_shape", f"axes {axes} {image.shape}, expected grey sections")
    return np.asarray(image.transpose([axes.index(axis) for axis in "CZYX" if axis in axes]))


def _png(path: Path) -> npt.NDArray[Any]:
    with Picture.open(path, formats=["PNG"]) as picture:
        if picture.mode != "L":
            raise BadImageError("wrong_dtype", f"PNG of mode {picture.mode}, expected 8-bit grey")
        return np.asarray(picture)
