"""Selection of labeled samples and their splits: caps, splits, quotas, guards.

Validation and test are settled first; what would leak of the training split then gives way.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from ingest.job.job_config import JobConfig, SplitConfig
from ingest.plan.labels import Funnel
from ingest.plan.splits import (
    Mask,
    Splits,
    keep_per_group,
    keep_quota,
    split_by_group,
    split_by_name,
    split_by_position,
)
from ingest.tables.synapse_tables import SPLIT_NAME
from ingest.volume.geometry import Ints
from ingest.volume.sample_boxes import centers_vx, points_nm
from ingest.volume.scale import Scale
from shards.contract.overlap import overlaps
from shards.contract.schema import SPLITS

TRAIN, VAL, TEST = range(len(SPLITS))
AXIS_COLUMNS = {"x": 2, "y": 1, "z": 0}
NM_PER_UM = 1000.0
OVERLAPS = "training image overlaps a val or test image"
VAL_OVERLAPS_TEST = "val samples that share voxels with test samples"
NEURONS_UNKNOWN = "samples of unknown neuron: whether splits share neurons is unknown"


def choose(
    samples: pd.DataFrame, job: JobConfig, scales: Mapping[int, Scale], funnel: Funnel
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the samples kept, with `split` as a position in SPLITS, and those a guard took away.

    The latter have a `reason`. Every step is counted in `funnel`.
    """
    config = job.splits
    if config.max_per_neuron is not None:
        neurons = _neurons(samples, job)
        keep = keep_per_group(neurons, config.max_per_neuron, config.seed)
        samples = _keep(samples, keep, "over max_per_neuron", funnel)
    samples = samples.assign(split=_splits(samples, job, scales))
    held_out = {split: most for split, most in config.max_per_class.items() if split != "train"}
    samples = _keep(samples, _quota(samples, held_out, config), "over max_per_class", funnel)
    guarded = []
    if config.disjoint_post:
        shared = _shared_post(samples)
        guarded.append(samples[shared].assign(reason="shared_post_neuron"))
        samples = _keep(samples, ~shared, "postsynaptic neuron in a later split", funnel)
    leaks = _overlaps(samples, job, scales, TRAIN, (VAL, TEST))
    if not job.has_positions:
        funnel.note("samples of unknown place: whether splits overlap is unknown", len(samples))
    elif config.overlap == "drop":
        guarded.append(samples[leaks].assign(reason="overlaps_held_out"))
        samples = _keep(samples, ~leaks, OVERLAPS, funnel)
    else:
        funnel.note("training images that overlap a val or test image, kept", int(leaks.sum()))
    train = {split: most for split, most in config.max_per_class.items() if split == "train"}
    samples = _keep(samples, _quota(samples, train, config), "over max_per_class, train", funnel)
    if both := int(_overlaps(samples, job, scales, VAL, (TEST,)).sum()):
        funnel.note(VAL_OVERLAPS_TEST, both)
    if not job.has_neurons:
        funnel.note(NEURONS_UNKNOWN, len(samples))
    elif both := _shared_neurons(samples):
        funnel.note("neurons with samples in more than one split", both)
    rejects = pd.concat(guarded) if guarded else samples.iloc[:0].assign(reason="")
    return samples, rejects


def _keep(samples: pd.DataFrame, keep: Mask, step: str, funnel: Funnel) -> pd.DataFrame:
    funnel.drop(step, int((~keep).sum()))
    return samples[keep]


def _quota(samples: pd.DataFrame, most: Mapping[str, int], config: SplitConfig) -> Mask:
    splits, labels = samples.split.to_numpy(), samples.label.to_numpy()
    return keep_quota(splits, labels, most, config.seed)


def _neurons(samples: pd.DataFrame, job: JobConfig) -> Ints:
    """Return the samples' neurons; where none is known, each sample is one of its own."""
    return (samples.neuron_id if job.has_neurons else samples.synapse_id).to_numpy(np.int64)


def _shared_neurons(samples: pd.DataFrame) -> int:
    return int((samples.groupby("neuron_id").split.nunique() > 1).sum())


def _splits(samples: pd.DataFrame, job: JobConfig, scales: Mapping[int, Scale]) -> Splits:
    config, labels, points = job.splits, samples.label.to_numpy(), points_nm(samples)
    if job.labels.unlabelled:
        return np.full(len(samples), TEST, np.int8)
    if config.by == "neuron":
        return split_by_group(_neurons(samples, job), labels, config.fractions, config.seed)
    if config.by == "column":
        return split_by_name(samples[SPLIT_NAME], where=job.synapses.path)
    if config.by == "block":
        cells = np.floor(points / (config.block_um * NM_PER_UM)).astype(np.int64)
        _, block = np.unique(cells, axis=0, return_inverse=True)
        blocks: Ints = block.reshape(-1).astype(np.int64)
        return split_by_group(blocks, labels, config.fractions, config.seed)
    scale = scales[min(scales)]
    axis = AXIS_COLUMNS[config.axis]
    size = scale.voxel_size_nm[axis]
    low, high = scale.grid.bounds.start[axis] * size, scale.grid.bounds.stop[axis] * size
    return split_by_position(points[:, axis], low, high, config.cuts)


def _shared_post(samples: pd.DataFrame) -> Mask:
    """Return which samples have a postsynaptic neuron that a later split has too."""
    posts, splits = samples.post_root_id.to_numpy(), samples.split.to_numpy()
    shared = np.zeros(len(samples), dtype=bool)
    for split in (TRAIN, VAL):
        later = posts[(splits > split) & (posts != 0)]
        shared |= (splits == split) & np.isin(posts, later)
    return shared


def _overlaps(
    samples: pd.DataFrame,
    job: JobConfig,
    scales: Mapping[int, Scale],
    split: int,
    others: tuple[int, ...],
) -> Mask:
    """Return which samples of a split share a voxel with one of other splits, in any view."""
    splits = samples.split.to_numpy()
    ours, theirs = splits == split, np.isin(splits, others)
    found = np.zeros(len(samples), dtype=bool)
    if not job.has_positions:
        return found
    for view in job.samples.views.values():
        centers = centers_vx(samples, scales[view.mip].voxel_size_nm)
        found[ours] |= overlaps(centers[ours], centers[theirs], view.size_zyx)
    return found
