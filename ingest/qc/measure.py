"""The quality of an image in numbers, and the numbers that leave it out."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ingest.job.image_config import QcConfig
from ingest.qc.alignment import largest_shift_px, least_focus

Image = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]

TINY = 1e-9  # in place of a division by 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Quality:
    """Measurements of one image (c, [z], y, x); its EM channel is the first."""

    zero_fraction: float  # voxels of value 0
    missing_sections: int  # sections of one value only
    contrast: float  # standard deviation, 0 to 127.5
    shift_px: float  # the largest between neighbouring sections; 0 for a patch
    focus: float  # sharpness of the blurriest section against the median one; 1 for a patch
    mask_fraction: float  # voxels in the smallest of its masks; 1 where it has none


# Flags: the measurement that each looks at, and how bad a value is; above 1 the image is flagged.
FLAGS: dict[str, tuple[str, Callable[[Any, QcConfig], Any]]] = {
    "missing_sections": ("missing_sections", lambda value, _: 2.0 * value),
    "low_contrast": ("contrast", lambda value, config: config.min_contrast / (value + TINY)),
    "shifted": ("shift_px", lambda value, config: value / config.max_shift_px),
    "blurred": ("focus", lambda value, config: config.min_focus / (value + TINY)),
    "empty_mask": ("mask_fraction", lambda value, _: 2.0 * (value == 0)),
}


def measure(image: Image) -> Quality:
    """Measure one image."""
    em = image[0]
    sections = em.reshape(-1, *em.shape[-2:])
    sums, squares = _moments(sections)
    pixels = em.shape[-2] * em.shape[-1]
    contrast = np.sqrt(squares / pixels - (sums / pixels) ** 2)
    shows = contrast > 0
    shown = sections if shows.all() else sections[shows]
    mean = sums.sum() / em.size
    return Quality(
        zero_fraction=float(1 - np.count_nonzero(em) / em.size),
        missing_sections=int(len(sections) - shows.sum()),
        contrast=float(np.sqrt(squares.sum() / em.size - mean**2)),
        shift_px=largest_shift_px(shown) if em.ndim == 3 else 0.0,
        focus=least_focus(shown, contrast[shows]) if em.ndim == 3 else 1.0,
        mask_fraction=min((np.count_nonzero(mask) / mask.size for mask in image[1:]), default=1.0),
    )


def _moments(sections: Image) -> tuple[Floats, Floats]:
    """Return the sums of each section's values and of their squares, exact."""
    exact = "f4" if sections.shape[2] <= 256 else "f8"  # 256 · 255² is below 2²⁴
    rows: npt.NDArray[Any] = sections.reshape(-1, 1, sections.shape[2]).astype(exact)
    squares = (rows @ rows.transpose(0, 2, 1)).reshape(len(sections), -1)
    flat = sections.reshape(len(sections), -1)
    return flat.sum(axis=1, dtype=np.uint32).astype(float), squares.sum(axis=1, dtype=float)


def reject_reason(quality: Quality, config: QcConfig) -> str:
    """Return why an image is left out, or an empty string."""
    if quality.zero_fraction == 1:
        return "all_zero"
    if quality.contrast == 0:
        return "constant"
    if quality.zero_fraction > config.max_zero_fraction:
        return "mostly_zero"
    return ""


def flags(quality: Quality, config: QcConfig) -> list[str]:
    """Return what is worth knowing of an image that is kept."""
    return [
        name
        for name, (field, severity_of) in FLAGS.items()
        if severity_of(getattr(quality, field), config) > 1
    ]
