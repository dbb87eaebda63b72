"""Which classes the training and validation splits hold, and what can be learned from them."""

import numpy as np
import numpy.typing as npt

from shards.contract.schema import UNLABELLED
from shards.stream.shardset import ShardSet

FEW = 5  # samples of a class, below which it is said
Counts = npt.NDArray[np.int64]


def check_classes(shards: ShardSet) -> list[str]:
    """Return warnings about classes that are absent or rare in train and val.

    Splits without samples or with unlabelled ones, and training on one class, are a `ValueError`.
    """
    train, val = (class_counts(shards, split) for split in ("train", "val"))
    names = shards.manifest.class_names
    if np.count_nonzero(train) < 2:
        raise ValueError(
            f"{shards.url}: all {train.sum()} samples of train are {names[int(train.argmax())]}, "
            f"expected samples of {', '.join(names)}; label or split the data otherwise"
        )
    warnings = [
        f"train has {count or 'no'} samples of {name}: it will hardly be learned"
        for name, count in zip(names, train.tolist(), strict=True)
        if count < FEW
    ]
    warnings += [
        f"val has no samples of {name}: validation says nothing of it"
        for name, count in zip(names, val.tolist(), strict=True)
        if not count
    ]
    if not is_judged(val):
        warnings.append(
            "val holds one class alone, so it cannot tell which epoch is better: `best` is the "
            "last epoch, and neither --patience nor --on-collapse stops the run"
        )
    return warnings


def class_counts(shards: ShardSet, split: str) -> Counts:
    """Return how many samples of each class a split has; all must be labelled."""
    if split not in shards.manifest.splits:
        raise ValueError(
            f"{shards.url}: no split {split}, which training needs; it has "
            f"{', '.join(shards.manifest.splits)}"
        )
    labels = shards.index(split).label
    if not len(labels):
        raise ValueError(f"{shards.url}: split {split} has no samples; pack one that has some")
    if unlabelled := int((labels == UNLABELLED).sum()):
        which = f"all {unlabelled}" if unlabelled == len(labels) else f"{unlabelled}"
        raise ValueError(
            f"{shards.url}: {which} samples of {split} have no label; pack labelled samples alone "
            "to train on them"
        )
    return np.bincount(labels.astype(np.int64), minlength=len(shards.manifest.class_names))


def is_judged(val_counts: Counts) -> bool:
    """Say whether a validation split tells a better model from one that calls all one class."""
    return int(np.count_nonzero(val_counts)) > 1
