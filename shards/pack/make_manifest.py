"""The manifest of a shard set, from what its finished shards hold."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from typing import Any

import numpy as np

from shards.contract.schema import (
    SCHEMA_VERSION,
    SPLITS,
    UNLABELLED,
    ImageSpec,
    Manifest,
    PackNotes,
    ShardInfo,
    SplitInfo,
)
from shards.contract.statistics import Moments

UNLABELLED_NAME = "unlabelled"


@dataclass(frozen=True, kw_only=True)
class FinishedShard:
    """A tar and its index as one manifest lists them; labels and neurons of the listed samples."""

    split: str
    name: str
    num_bytes: int
    sha256: str
    index_name: str
    index: bytes
    labels: np.ndarray
    neuron_ids: np.ndarray
    moments: Moments

    def info(self, class_names: tuple[str, ...]) -> ShardInfo:
        """Return the shard's entry in the manifest."""
        return ShardInfo(
            name=self.name,
            bytes=self.num_bytes,
            sha256=self.sha256,
            index_name=self.index_name,
            index_sha256=hashlib.sha256(self.index).hexdigest(),
            num_samples=len(self.labels),
            class_counts=class_counts(self.labels, class_names),
        )


def make_manifest(
    shards: Sequence[FinishedShard],
    class_names: tuple[str, ...],
    image: ImageSpec,
    notes: PackNotes,
    dataset: Mapping[str, Any],
) -> Manifest:
    """Return the manifest of `shards`; mean and std are the training split's, or of all."""
    by_split = {split: [s for s in shards if s.split == split] for split in SPLITS}
    total = reduce(add, [shard.moments for shard in by_split["train"] or shards])
    return Manifest(
        schema_version=SCHEMA_VERSION,
        class_names=class_names,
        image=image,
        splits={split: _split_info(part, class_names) for split, part in by_split.items() if part},
        mean=total.mean,
        std=total.std,
        pack=replace(notes, mean_and_std_of="train" if by_split["train"] else "all"),
        dataset=dict(dataset),
    )


def class_counts(labels: np.ndarray, class_names: tuple[str, ...]) -> dict[str, int]:
    """Return how many samples each class has, and the unlabelled if there are any."""
    counts = {name: int(np.sum(labels == label)) for label, name in enumerate(class_names)}
    if unlabelled := int(np.sum(labels == UNLABELLED)):
        counts[UNLABELLED_NAME] = unlabelled
    if sum(counts.values()) != len(labels):
        raise ValueError(
            f"labels {sorted(set(labels.tolist()))} do not fit the classes "
            f"{', '.join(class_names)}; run the ingest's plan again"
        )
    return counts


def _split_info(shards: Sequence[FinishedShard], class_names: tuple[str, ...]) -> SplitInfo:
    labels = np.concatenate([shard.labels for shard in shards])
    neurons = np.concatenate([shard.neuron_ids for shard in shards])
    return SplitInfo(
        num_samples=len(labels),
        num_neurons=len(np.unique(neurons[neurons != 0])),
        class_counts=class_counts(labels, class_names),
        shards=tuple(shard.info(class_names) for shard in shards),
    )
