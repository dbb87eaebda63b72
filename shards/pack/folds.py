"""Cross-validation by neuron: the samples of a store, split anew for each of k folds.

The neurons of each class are dealt to k folds. For fold i the neurons of fold i are test, those of
fold i + 1 (after the last the first) validation, all others train: over the k folds each neuron is
tested on once. A training image that shares a voxel with a held-out one is left out of fold i.

Each fold's images are in tars of their own, and every fold i has a manifest and indices over all.
"""

import numpy as np
import pyarrow as pa

from shards.contract.overlap import overlaps, voxels_of
from shards.contract.schema import SPLITS, UNLABELLED, Dataset, size_zyx
from shards.pack.assign import Division
from shards.pack.deal import deal_groups

OVERLAP = "image overlaps a val or test image"


def divide_in_folds(
    samples: pa.Table, num_folds: int, seed: int, dataset: Dataset
) -> tuple[pa.Table, list[Division]]:
    """Return the samples with their fold (`fold0`, …) as split, and the division of each fold."""
    planned = dataset.config.get("splits")
    if isinstance(planned, dict) and planned.get("disjoint_post"):
        raise ValueError(
            "folds are by presynaptic neuron, and this data set's splits are disjoint in "
            "postsynaptic neurons too (splits.disjoint_post): pack it without --folds"
        )
    labels, neurons = samples["label"].to_numpy(), samples["neuron_id"].to_numpy()
    if unknown := int((neurons == 0).sum()):
        raise ValueError(
            f"folds are by neuron, and of {unknown} of {len(neurons)} samples it is unknown: pack "
            "without --folds"
        )
    dealt = deal_groups(neurons, labels, np.full(num_folds, 1 / num_folds), seed)
    divisions = []
    for fold in range(num_folds):
        turn = (dealt - fold) % num_folds
        splits = np.where(turn == 0, "test", np.where(turn == 1, "val", "train"))
        _require_classes(fold, splits, labels, dataset.class_names)
        listed = ~_leaks(samples, splits == "train", dataset)
        _require_training(fold, splits[listed])
        divisions.append(Division(fold=fold, splits=splits, listed=listed))
    column = samples.schema.get_field_index("split")
    parts = pa.array([f"fold{fold}" for fold in dealt], pa.string())
    return samples.set_column(column, "split", parts), divisions


def _require_classes(
    fold: int, splits: np.ndarray, labels: np.ndarray, class_names: tuple[str, ...]
) -> None:
    for split in SPLITS:
        if missing := set(labels) - {UNLABELLED} - set(labels[splits == split]):
            raise ValueError(
                f"the split {split} of fold {fold} has no sample of class "
                f"{class_names[min(missing)]}, which has too few neurons; give fewer --folds"
            )


def _require_training(fold: int, listed_splits: np.ndarray) -> None:
    if not (listed_splits == "train").any():
        raise ValueError(
            f"every training image of fold {fold} overlaps a val or test image, and would be left "
            "out: the samples lie too close together; give more --folds, or pack without"
        )


def _leaks(samples: pa.Table, train: np.ndarray, dataset: Dataset) -> np.ndarray:
    """Return which samples are of the training split and share a voxel with one that is not.

    Where a sample's place is unknown, so is whether it overlaps: it stays.
    """
    columns = (samples[f"center_{axis}_nm"].to_numpy() for axis in "zyx")
    centers_nm = np.stack(tuple(columns), axis=1)
    found, known = np.zeros(len(samples), bool), ~np.isnan(centers_nm).any(axis=1)
    ours, others = train & known, ~train & known
    for view in dataset.views.values():
        a, b = (voxels_of(centers_nm[part], view.size_nm) for part in (ours, others))
        found[ours] |= overlaps(a, b, size_zyx(view.shape[1:]))
    return found
