"""Cross-validation by neuron: the samples of a store, split anew for each of k folds.

The neurons of each class are dealt to k folds. For fold i the neurons of fold i are test, those of
fold i + 1 (after the last the first) validation, all others train: over the k folds each neuron is
tested on once. A training image that shares a voxel with a held-out one is left out of fold i.

Each fold's images are in tars of their own, and every fold i has a manifest and indices over all.
"""

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from shards.contract.overlap import overlaps, voxels_of
from shards.contract.schema import SPLITS, UNLABELLED, Dataset, size_zyx
from shards.pack.assign import Division

Ints = npt.NDArray[np.int64]
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
    dealt = fold_of(neurons, labels, num_folds, seed)
    divisions = []
    for fold in range(num_folds):
        turn = (dealt - fold) % num_folds
        splits = np.where(turn == 0, "test", np.where(turn == 1, "val", "train"))
        _require_classes(fold, splits, labels, dataset.class_names)
        listed = ~_leaks(samples, splits == "train", dataset)
        divisions.append(Division(fold=fold, splits=splits, listed=listed))
    column = samples.schema.get_field_index("split")
    parts = pa.array([f"fold{fold}" for fold in dealt], pa.string())
    return samples.set_column(column, "split", parts), divisions


def fold_of(neuron_ids: Ints, labels: npt.NDArray[np.int16], num_folds: int, seed: int) -> Ints:
    """Return the fold (n,) of each sample: whole neurons, as many of each class in each fold.

    Neurons are dealt round by round in the order of their numbers of samples, at random within a
    round. A neuron of several labels counts for its commonest.
    """
    _, neuron, size = np.unique(neuron_ids, return_inverse=True, return_counts=True)
    _, label = np.unique(labels, return_inverse=True)
    counts = np.zeros((len(size), int(label.max()) + 1), np.int64)
    np.add.at(counts, (neuron, label), 1)
    rng = np.random.default_rng(seed)
    # Class after class in one row, so that what a class leaves over evens out in the next.
    row = np.lexsort((rng.random(len(size)), -size, counts.argmax(axis=1)))
    dealt = np.empty(len(size), np.int64)
    for start in range(0, len(row), num_folds):
        hand = row[start : start + num_folds]
        dealt[hand] = rng.permutation(num_folds)[: len(hand)]
    return dealt[neuron]


def _require_classes(
    fold: int, splits: np.ndarray, labels: np.ndarray, class_names: tuple[str, ...]
) -> None:
    for split in SPLITS:
        if missing := set(labels) - {UNLABELLED} - set(labels[splits == split]):
            raise ValueError(
                f"the split {split} of fold {fold} has no sample of class "
                f"{class_names[min(missing)]}, which has too few neurons; give fewer --folds"
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
