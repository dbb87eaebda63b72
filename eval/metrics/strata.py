"""Scores of parts of the test split, so that an easy part cannot hide a hard one."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from eval.inputs.predictions import CENTERS, Floats
from eval.metrics.bootstrap import Scored, score
from eval.results import Stratum

SMALLEST_STRATUM = 20
PARTS = 4
REPLICATES = 1000
Mask = NDArray[np.bool_]


def strata(frame: pd.DataFrame, train_centers: Floats | None) -> Iterator[tuple[str, str, Mask]]:
    """Yield (what, which, mask (n,)) for all that the table tells.

    Numbers are cut into parts of equal size, words into their values; parts of fewer than
    `SMALLEST_STRATUM` samples are left out.
    """
    numbers = {"synapse size": _column(frame, "size")}
    if all(name in frame for name in CENTERS):
        numbers["depth (y), µm"] = frame["center_y_nm"].to_numpy(np.float64) / 1000.0
        if train_centers is not None:
            nearest = _nearest(frame[CENTERS].to_numpy(np.float64), train_centers)
            numbers["distance to nearest training sample, µm"] = nearest / 1000.0
    for what, values in numbers.items():
        yield from ((what, which, mask) for which, mask in _parts(values))
    for what, name in (("label tier", "label_tier"), ("target compartment", "tag")):
        if name in frame:
            yield from ((what, which, mask) for which, mask in _values(frame[name]))
    if "qc_flags" in frame:
        yield from (("QC flag", which, mask) for which, mask in _flags(frame["qc_flags"]))


def score_strata(
    scored: Scored, known: Mask, frame: pd.DataFrame, train_centers: Floats | None
) -> tuple[Stratum, ...]:
    """Return one row per stratum; `known` (n,) are the samples of known neurons."""
    rows = []
    found_strata = list(strata(frame, train_centers))
    parts = Counter(what for what, _, _ in found_strata)
    for what, which, mask in found_strata:
        if parts[what] == 1 and mask.all():
            continue
        part = subset(scored, mask)
        scores = score(part, ranks=False, num=REPLICATES)
        rows.append(
            Stratum(
                what=what,
                which=which,
                synapses=len(part.labels),
                neurons=len(np.unique(scored.groups[mask & known])) if known.any() else None,
                class_counts=tuple(
                    np.bincount(part.labels, minlength=scored.probabilities.shape[1]).tolist()
                ),
                balanced_accuracy=scores["balanced_accuracy"],
                accuracy=scores["accuracy"],
            )
        )
    return tuple(rows)


def subset(scored: Scored, mask: Mask) -> Scored:
    """Return the samples of a mask (n,), their neurons numbered anew."""
    present, groups = np.unique(scored.groups[mask], return_inverse=True)
    return replace(
        scored,
        labels=scored.labels[mask],
        probabilities=scored.probabilities[mask],
        groups=groups,
        num_groups=len(present),
    )


def _column(frame: pd.DataFrame, name: str) -> Floats:
    return frame[name].to_numpy(np.float64) if name in frame else np.full(len(frame), np.nan)


def _nearest(places: Floats, others: Floats) -> Floats:
    """Return how far each place is from the nearest other, NaN where either is not known."""
    known, there = np.isfinite(places).all(axis=1), np.isfinite(others).all(axis=1)
    nearest = np.full(len(places), np.nan)
    if there.any():
        nearest[known] = cKDTree(others[there]).query(places[known])[0]
    return nearest


def _parts(values: Floats) -> Iterator[tuple[str, Mask]]:
    known = np.isfinite(values)
    if not known.any() or np.ptp(values[known]) == 0:
        return
    edges = np.unique(np.quantile(values[known], np.linspace(0.0, 1.0, PARTS + 1)))
    place = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(edges) - 2)
    for part, (low, high) in enumerate(pairwise(edges)):
        mask = known & (place == part)
        if mask.sum() >= SMALLEST_STRATUM:
            yield f"{_short(low)} to {_short(high)}", mask


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _values(column: pd.Series) -> Iterator[tuple[str, Mask]]:
    counts = column.value_counts()
    for value in sorted(counts[counts >= SMALLEST_STRATUM].index):
        if str(value):
            yield str(value), (column == value).to_numpy(bool)


def _flags(column: pd.Series) -> Iterator[tuple[str, Mask]]:
    codes, texts = pd.factorize(column.astype("string").fillna(""))
    flags = sorted({flag for text in texts for flag in str(text).split(",") if flag})
    for flag in [*flags, ""]:
        held = np.array([flag in str(text).split(",") for text in texts])
        mask = held[codes]
        if mask.sum() >= SMALLEST_STRATUM:
            yield flag or "none", mask
