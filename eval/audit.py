"""Whether the splits leak: numbers that must be zero for a score to mean anything."""

from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

from eval.baselines import Images, center_section, shrink
from eval.predictions import CENTERS, Floats, Ints

THUMBNAIL = 32  # pixels a side
SAME_ABOVE = 0.95  # correlation of thumbnails
SHARED = {
    "neuron_id": ("shared neurons", "neurons"),
    "synapse_id": ("duplicate samples", "synapses"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One check of two splits: how many, out of how many, and examples."""

    check: str
    splits: tuple[str, str]
    found: int
    of: int
    unit: str
    examples: tuple[str, ...] = ()


def audit_tables(
    frames: dict[str, pd.DataFrame], box_nm: tuple[float, float, float] | None
) -> list[Finding]:
    """Compare every two splits' samples; `box_nm` is an image's extent in x, y, z."""
    findings = []
    for first, second in combinations(frames, 2):
        pair, a, b = (first, second), frames[first], frames[second]
        for column, (check, unit) in SHARED.items():
            both, of = _shared(a, b, column)
            findings.append(
                Finding(
                    check=check,
                    splits=pair,
                    found=len(both),
                    of=of,
                    unit=unit,
                    examples=tuple(str(value) for value in both[:5]),
                )
            )
        if box_nm is not None and all(name in frame for frame in (a, b) for name in CENTERS):
            findings.append(_overlaps(a, b, box_nm, pair))
    return findings


def audit_images(images: dict[str, Images]) -> list[Finding]:
    """Compare every two splits' images (b, c, [z], y, x) by thumbnails of their centre sections."""
    thumbs = {split: thumbnails(values) for split, values in images.items()}
    return [
        _duplicates(thumbs[first], thumbs[second], (first, second))
        for first, second in combinations(thumbs, 2)
    ]


def thumbnails(images: Images) -> Floats:
    """Return the centre sections (b, p) at `THUMBNAIL` pixels a side, mean 0 and length 1."""
    small = shrink(center_section(images), THUMBNAIL).reshape(len(images), -1)
    small = small - small.mean(axis=1, keepdims=True)
    return np.asarray(small / np.maximum(np.linalg.norm(small, axis=1, keepdims=True), 1e-9))


def _shared(a: pd.DataFrame, b: pd.DataFrame, column: str) -> tuple[Ints, int]:
    """Return the ids in both, 0 (unknown) aside, and how many there are in the second."""
    if column not in a or column not in b:
        return np.zeros(0, np.int64), 0
    first, second = (pd.unique(frame[column].to_numpy(np.int64)) for frame in (a, b))
    both = np.intersect1d(first, second, assume_unique=True)
    return both[both != 0], int((second != 0).sum())


def _overlaps(
    a: pd.DataFrame, b: pd.DataFrame, box_nm: tuple[float, float, float], pair: tuple[str, str]
) -> Finding:
    """Boxes of the same size overlap where their centres are less than a box apart on each axis.

    Samples without a place are not counted.
    """
    a, b = (frame.dropna(subset=CENTERS) for frame in (a, b))
    scaled = [frame[CENTERS].to_numpy(np.float64) / np.array(box_nm) for frame in (a, b)]
    near, _ = cKDTree(scaled[0]).query(scaled[1], p=np.inf, distance_upper_bound=1.0 - 1e-9)
    rows = np.flatnonzero(np.isfinite(near))
    return Finding(
        check="overlapping boxes",
        splits=pair,
        found=len(rows),
        of=len(b),
        unit=f"{pair[1]} samples that have a place",
        examples=_names(b, rows),
    )


def _names(frame: pd.DataFrame, rows: Ints) -> tuple[str, ...]:
    name = "synapse_id" if "synapse_id" in frame else "key"
    return tuple(str(value) for value in frame[name].iloc[rows[:5]])


def _duplicates(first: Floats, second: Floats, pair: tuple[str, str]) -> Finding:
    highest = np.zeros(len(second))
    for start in range(0, len(second), 1024):
        part = slice(start, start + 1024)
        highest[part] = (second[part] @ first.T).max(axis=1)
    rows = np.flatnonzero(highest > SAME_ABOVE)
    return Finding(
        check="duplicate images",
        splits=pair,
        found=len(rows),
        of=len(second),
        unit=f"{pair[1]} images",
        examples=tuple(f"row {row}" for row in rows[:5]),
    )
