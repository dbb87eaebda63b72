"""Classes of the training and validation splits, and what can be learned from them."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from shards.contract.schema import UNLABELLED
from shards.stream.mixture import Mixture
from shards.stream.order import OrderSpec
from shards.stream.shardset import ShardSet

FEW = 5  # samples of a class, below which a warning comes
Counts = npt.NDArray[np.int64]


def check_classes(sets: Sequence[ShardSet], order: OrderSpec) -> list[str]:
    """Return warnings about classes that are absent or rare in train of all sets, val of the first.

    Splits without samples or with unlabelled ones, and training on one class, are a `ValueError`.
    """
    train, val = train_counts(sets, order), val_counts(sets[0])
    names = sets[0].manifest.class_names
    if np.count_nonzero(train) < 2:
        raise ValueError(
            f"{_places(sets)}: all {train.sum()} samples of train are "
            f"{names[int(train.argmax())]}, expected samples of {', '.join(names)}; label or split "
            "the data otherwise"
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


def train_counts(sets: Sequence[ShardSet], order: OrderSpec) -> Counts:
    """Return how many training samples of each class `order` chooses from; all must be labelled."""
    return _class_counts(sets, "train", order)


def val_counts(shards: ShardSet) -> Counts:
    """Return how many validation samples of each class there are; all must be labelled."""
    return _class_counts([shards], "val", OrderSpec())


def _class_counts(sets: Sequence[ShardSet], split: str, order: OrderSpec) -> Counts:
    for shards in sets:
        if split not in (names := shards.manifest.splits):
            raise ValueError(
                f"{shards.url}: no split {split}, which training needs; it has {', '.join(names)}"
            )
        if not len(shards.index(split)):
            raise ValueError(f"{shards.url}: split {split} has no samples; pack one that has some")
    mixture = Mixture(sets, split)
    rows = mixture.eligible(order)
    labels = mixture.samples.label if rows is None else mixture.samples.label[rows]
    if unlabelled := int((labels == UNLABELLED).sum()):
        which = f"all {unlabelled}" if unlabelled == len(labels) else f"{unlabelled}"
        raise ValueError(
            f"{_places(sets)}: {which} samples of {split} have no label; pack labelled samples "
            "alone to train on them"
        )
    return np.bincount(labels.astype(np.int64), minlength=len(sets[0].manifest.class_names))


def _places(sets: Sequence[ShardSet]) -> str:
    return ", ".join(shards.url for shards in sets)


def is_judged(val_counts: Counts) -> bool:
    """Return True where a validation split has several classes, so that its scores rank models."""
    return int(np.count_nonzero(val_counts)) > 1
