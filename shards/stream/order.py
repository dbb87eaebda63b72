"""Order of reading. Pure functions, so that resuming is arithmetic.

An epoch's order is a function of (samples, spec, epoch, global batch) alone, and every rank
computes all of it. Global batch `g` is its slice [g * B, (g + 1) * B), of which rank r of R reads
the r-th of R equal parts. So (epoch, step) is all that resuming needs, on any number of ranks,
threads or nodes.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from shards.contract.schema import UNLABELLED


@dataclass(frozen=True, kw_only=True, slots=True)
class OrderSpec:
    """Rules by which a split becomes an epoch.

    balance: `none` reads every sample once an epoch. `class` reads every class equally often: as
        often as the largest class has samples. A smaller class is read over and over, whole
        times first, then a different seeded remainder each epoch.
    max_per_neuron: read at most so many samples of a neuron (and label) each epoch, others each
        time, so that a few large neurons do not rule the training.
    weights: of several shard sets, the share of each in an epoch; sets are repeated or left out
        in part as classes are. Without weights every sample of every set is read.
    where: read only samples for which this expression of index columns holds, in the syntax of
        `pandas.DataFrame.query`, as in `label_tier == "manual"`.
    window_shards: shuffle within windows of so many shards, in a new order of shards each epoch,
        instead of over the whole split; for remote sets that do not fit the cache.
    nodes: part the shards for good among so many nodes, each of which supplies its part of every
        global batch. It belongs to the order, not to the cluster: a run resumed on other nodes
        reads the same batches, but fetches more.
    """

    seed: int = 42
    balance: Literal["none", "class"] = "none"
    max_per_neuron: int | None = None
    weights: tuple[float, ...] | None = None
    where: str = ""
    window_shards: int | None = None
    nodes: int = 1

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, got {self.seed}")
        if self.balance not in ("none", "class"):
            raise ValueError(f"balance must be none or class, got {self.balance!r}")
        for name in ("max_per_neuron", "window_shards", "nodes"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if self.weights is not None and (not self.weights or min(self.weights) <= 0):
            raise ValueError(f"weights must be positive, got {self.weights}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Samples:
    """Properties of samples that the order depends on, as (n,) arrays.

    `shard` numbers the shards of all sets; `source` is the set's place among the sets.
    """

    label: np.ndarray
    neuron_id: np.ndarray
    shard: np.ndarray
    source: np.ndarray

    def __len__(self) -> int:
        return len(self.label)


@dataclass(frozen=True, kw_only=True, slots=True)
class Position:
    """The next global batch to read."""

    epoch: int = 0
    step: int = 0

    def __post_init__(self) -> None:
        if self.epoch < 0 or self.step < 0:
            raise ValueError(f"position must not be negative, got {self}")


def epoch_order(samples: Samples, spec: OrderSpec, epoch: int, global_batch: int) -> np.ndarray:
    """Return the rows (m,) int64 of `samples` to read in `epoch`, in order.

    m is the same in every epoch. The result depends on nothing but the arguments: neither on the
    platform nor on the version of numpy.
    """
    rows = np.arange(len(samples), dtype=np.int64)
    if spec.max_per_neuron is not None:
        rows = _capped(rows, samples, spec.max_per_neuron, [spec.seed, epoch, 1])
    if spec.balance == "class" or spec.weights is not None:
        rows = _weighted(rows, samples, spec, [spec.seed, epoch, 2])
    rows = shuffled(rows, [spec.seed, epoch, 0])
    if spec.window_shards is None and spec.nodes == 1:
        return rows
    return _windowed(rows, samples.shard, spec, epoch, global_batch)


def steps_per_epoch(num_samples: int, global_batch: int) -> int:
    """Return how many whole global batches an epoch has; the ragged rest is not read."""
    if global_batch < 1:
        raise ValueError(f"batch size must be at least 1, got {global_batch}")
    if num_samples < global_batch:
        raise ValueError(
            f"an epoch of {num_samples} samples has no batch of {global_batch}; "
            "make the batch smaller or pack more samples"
        )
    return num_samples // global_batch


def rank_slice(step: int, global_batch: int, rank: int, world_size: int) -> slice:
    """Return the part of an epoch's order that `rank` reads in global batch `step`."""
    if not 0 <= rank < world_size:
        raise ValueError(f"rank must be in [0, {world_size}), got {rank}")
    if global_batch % world_size:
        raise ValueError(
            f"a global batch of {global_batch} cannot be split evenly over {world_size} ranks; "
            f"make it a multiple of {world_size}"
        )
    size = global_batch // world_size
    start = step * global_batch + rank * size
    return slice(start, start + size)


def even_split(num_items: int, *, index: int, count: int) -> range:
    """Return part `index` of `count` contiguous parts whose sizes differ by at most one."""
    if not 0 <= index < count:
        raise ValueError(f"index must be in [0, {count}), got {index}")
    size, extra = divmod(num_items, count)
    start = index * size + min(index, extra)
    return range(start, start + size + (index < extra))


def shuffled(values: np.ndarray, seed: list[int]) -> np.ndarray:
    """Return `values` in an order given by `seed`.

    Sorts random words that carry their position in the low bits. PCG64's words are fixed for all
    time by numpy's compatibility policy, `Generator.permutation` is not; and it is faster.
    """
    num_bits = np.uint64(max(1, len(values)).bit_length())
    words = np.random.PCG64(np.random.SeedSequence(seed)).random_raw(len(values))
    words >>= num_bits
    words <<= num_bits
    words |= np.arange(len(values), dtype=np.uint64)
    words.sort()
    words &= (np.uint64(1) << num_bits) - np.uint64(1)
    return np.asarray(values[words.view(np.int64)])


def _capped(rows: np.ndarray, samples: Samples, cap: int, seed: list[int]) -> np.ndarray:
    """Keep at most `cap` rows of each (neuron, label), so that an epoch's counts never vary.

    Rows of unknown neurons, 0, all stay.
    """
    mixed = shuffled(rows, seed)
    by_group = mixed[np.lexsort((samples.label[mixed], samples.neuron_id[mixed]))]
    neurons, labels = samples.neuron_id[by_group], samples.label[by_group]
    starts = np.ones(len(rows), bool)
    starts[1:] = (neurons[1:] != neurons[:-1]) | (labels[1:] != labels[:-1])
    places = np.arange(len(rows))
    first = np.maximum.accumulate(np.where(starts, places, 0))
    return np.sort(by_group[(places - first < cap) | (neurons == 0)])


def _weighted(rows: np.ndarray, samples: Samples, spec: OrderSpec, seed: list[int]) -> np.ndarray:
    """Return the rows of each (set, class) as often as weights and balance ask for."""
    labels, sources = samples.label[rows], samples.source[rows]
    if spec.balance == "class" and np.any(labels == UNLABELLED):
        raise ValueError(
            f"{int(np.sum(labels == UNLABELLED))} samples have no label and so cannot be balanced "
            'by class; leave them out of the pack or use balance="none"'
        )
    classes, counts = np.unique(labels, return_counts=True)
    balanced = spec.balance == "class"
    total = len(classes) * int(counts.max(initial=0)) if balanced else len(rows)
    parts = []
    for source, share in enumerate(_shares(total, spec.weights)):
        ours = rows if spec.weights is None else rows[sources == source]
        present = np.unique(samples.label[ours]) if balanced else np.array([UNLABELLED])
        if not len(ours):
            raise ValueError(f"shard set {source} has no samples to mix in; leave it out")
        for place, label in enumerate(present):
            group = ours[samples.label[ours] == label] if balanced else ours
            count = len(even_split(share, index=place, count=len(present)))
            parts.append(_repeated(group, count, [*seed, source, place]))
    return np.concatenate(parts)


def _shares(total: int, weights: tuple[float, ...] | None) -> list[int]:
    """Part `total` by weights; what rounding leaves goes to the largest fractions."""
    if weights is None:
        return [total]
    exact = np.array(weights) * (total / sum(weights))
    shares = np.floor(exact).astype(np.int64)
    largest = np.argsort(shares - exact, kind="stable")
    shares[largest[: total - int(shares.sum())]] += 1
    return [int(share) for share in shares]


def _repeated(rows: np.ndarray, count: int, seed: list[int]) -> np.ndarray:
    """Return `count` rows: each whole times, then the remainder drawn without replacement."""
    whole, rest = divmod(count, len(rows))
    return np.concatenate([np.tile(rows, whole), shuffled(rows, seed)[:rest]])


def _windowed(
    rows: np.ndarray, shard: np.ndarray, spec: OrderSpec, epoch: int, global_batch: int
) -> np.ndarray:
    """Gather shuffled rows by node and window of shards; deal every batch from all nodes."""
    if global_batch % spec.nodes:
        raise ValueError(
            f"a global batch of {global_batch} cannot be split evenly over {spec.nodes} nodes; "
            f"make it a multiple of {spec.nodes}"
        )
    numbers = np.unique(shard[rows])
    node_of, window_of = (np.zeros(int(numbers.max()) + 1, np.int64) for _ in range(2))
    for node in range(spec.nodes):
        owned = shuffled(numbers, [spec.seed, 3])[node :: spec.nodes]
        node_of[owned] = node
        window = spec.window_shards or max(1, len(owned))
        window_of[shuffled(owned, [spec.seed, epoch, 4, node])] = np.arange(len(owned)) // window
    group = node_of * (int(window_of.max()) + 1) + window_of
    gathered = rows[np.argsort(group[shard[rows]], kind="stable")]
    counts = np.bincount(node_of[shard[rows]], minlength=spec.nodes)
    parts = np.split(gathered, np.cumsum(counts)[:-1])
    return _dealt(_evened(parts, len(rows)), global_batch // spec.nodes)


def _evened(parts: list[np.ndarray], total: int) -> list[np.ndarray]:
    """Move rows from the ends of long parts to short ones until sizes differ by at most one."""
    sizes = [len(even_split(total, index=i, count=len(parts))) for i in range(len(parts))]
    spare = np.concatenate([part[size:] for part, size in zip(parts, sizes, strict=True)])
    evened = []
    for part, size in zip(parts, sizes, strict=True):
        missing = max(0, size - len(part))
        evened.append(np.concatenate([part[:size], spare[:missing]]))
        spare = spare[missing:]
    return evened


def _dealt(parts: list[np.ndarray], per_part: int) -> np.ndarray:
    """Deal batches of `per_part` rows from every part; what is left over comes last."""
    steps = min(len(part) for part in parts) // per_part
    used = steps * per_part
    batches = np.stack([part[:used].reshape(steps, per_part) for part in parts], axis=1)
    return np.concatenate([batches.reshape(-1), *(part[used:] for part in parts)])
