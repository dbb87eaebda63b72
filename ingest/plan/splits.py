"""Splits: pure functions of ids, labels and a seed.

Samples come as parallel arrays of length n; a split is the position of its name in SPLITS.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pandas as pd

from ingest.volume.geometry import Floats, Ints
from shards.contract.schema import SPLIT_NAMES, SPLITS
from shards.pack.deal import deal_groups
from shards.pack.make_manifest import class_counts

Splits = npt.NDArray[np.int8]
Mask = npt.NDArray[np.bool_]


def split_by_group(
    group_ids: Ints, labels: npt.NDArray[np.int16], fractions: Mapping[str, float], seed: int
) -> Splits:
    """Give whole groups (neurons, blocks of space) to splits, so that none is in two."""
    shares = np.array([fractions[name] for name in SPLITS])
    return deal_groups(group_ids, labels, shares, seed).astype(np.int8)


def split_by_position(
    positions: Floats, low: float, high: float, cuts: tuple[float, float]
) -> Splits:
    """Split by where a sample lies between `low` and `high`: cuts are fractions of that way."""
    place = (positions - low) / (high - low)
    return np.searchsorted(np.asarray(cuts), place, side="right").astype(np.int8)


def split_by_name(names: "pd.Series[str]", *, where: str) -> Splits:
    """Return the splits that a table names."""
    codes = {name: SPLITS.index(split) for name, split in SPLIT_NAMES.items()}
    found = names.astype(str).str.lower().map(codes)
    if found.isna().any():
        raise ValueError(
            f"{where}: {int(found.isna().sum())} samples are in no known split, first "
            f"{names[found.isna()].iloc[0]!r}; expected one of {', '.join(SPLIT_NAMES)}"
        )
    return np.asarray(found, dtype=np.int8)


def keep_per_group(groups: Ints, most: int, seed: int) -> Mask:
    """Return which samples stay when a group keeps at most `most`, chosen at random."""
    rng = np.random.default_rng(seed)
    order = np.lexsort((rng.random(len(groups)), groups))
    sorted_groups = groups[order]
    first = np.flatnonzero(np.diff(sorted_groups, prepend=sorted_groups[:1] - 1))
    counts = np.diff(np.append(first, len(groups)))
    rank = np.arange(len(groups)) - np.repeat(first, counts)
    keep = np.empty(len(groups), dtype=bool)
    keep[order] = rank < most
    return keep


def keep_quota(
    splits: Splits, labels: npt.NDArray[np.int16], most: Mapping[str, int], seed: int
) -> Mask:
    """Return which samples stay when each class of a split keeps at most `most[split]`."""
    keep = np.ones(len(splits), dtype=bool)
    for index, name in enumerate(SPLITS):
        if name in most:
            members = np.flatnonzero(splits == index)
            classes = labels[members].astype(np.int64)
            keep[members] = keep_per_group(classes, most[name], seed + index)
    return keep


def counts_by_split(
    splits: Splits, labels: npt.NDArray[np.int16], class_names: tuple[str, ...]
) -> dict[str, dict[str, int]]:
    """Return the number of samples of each class in each split."""
    return {split: class_counts(labels[splits == i], class_names) for i, split in enumerate(SPLITS)}


def neurons_by_split(samples: pd.DataFrame) -> dict[str, int]:
    """Return the number of known neurons in each split."""
    known = samples[samples.neuron_id != 0]
    found = known.groupby("split", observed=True).neuron_id.nunique()
    return {split: int(found.get(split, 0)) for split in SPLITS}


def check_no_class_empty(
    counts: Mapping[str, Mapping[str, int]], *, where: str, overlapping: int = 0
) -> None:
    """Refuse splits of which one lacks a class: nothing could be learned or measured there.

    `overlapping` training images were left out as they share voxels with val or test images.
    """
    cure = "give more data, other splits.fractions or cuts, or check `classes` of the labels"
    if overlapping:
        cure = (
            f"{overlapping} training images were left out that share voxels with a val or test "
            "image: lower samples.views, split by position or block, or set splits.overlap to keep"
        )
    for split, classes in counts.items():
        for name, count in classes.items():
            if count == 0:
                raise ValueError(
                    f"{where}: split {split} has no sample of class {name} "
                    f"(found {dict(classes)}); {cure}"
                )
