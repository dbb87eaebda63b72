"""Batches of images, read ahead by threads straight into the batch's own memory.

    shards, order = open_shards(url), OrderSpec(balance="class")
    with Stream(shards, "train", batch_size=64, order=order) as stream:
        for batch in stream:
            train(batch.images, batch.labels)

No worker processes and nothing is pickled: reading lets go of the GIL, so threads are enough.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from shards.stream.batch_reader import Allocate, Batch, BatchReader
from shards.stream.mixture import Mixture
from shards.stream.order import (
    OrderSpec,
    Position,
    Samples,
    epoch_order,
    even_split,
    rank_slice,
    steps_per_epoch,
)
from shards.stream.section_view import Sections
from shards.stream.shardset import ShardSet

__all__ = ["Allocate", "Batch", "Stream", "evaluation_batches", "require_agreement"]
AHEAD_BYTES = 2 << 30  # of samples whose shards are fetched before they are read
AHEAD_EVERY = 8  # steps between looks ahead


class Stream:
    """Training batches without end, or until `epochs` have been read; a context manager.

    shards: a shard set, or several of the same classes and images to mix. batch_size is the global
    one, a multiple of world_size. position: the first global batch to read. num_threads (2, or 16
    for remote shards) read up to `prefetch` batches ahead. `allocate(shape)` returns the uint8
    memory of a batch, for instance pinned; it is called a few times and the memory used again.
    sections: hand out the middle sections of cubes as channels (b, s, y, x) of a 2D image.

    Any fault of a shard ends the iteration with a `ValueError` that names shard and sample.
    """

    def __init__(
        self,
        shards: ShardSet | Sequence[ShardSet],
        split: str,
        *,
        batch_size: int,
        order: OrderSpec | None = None,
        rank: int = 0,
        world_size: int = 1,
        position: Position | None = None,
        epochs: int | None = None,
        num_threads: int | None = None,
        prefetch: int = 3,
        allocate: Allocate | None = None,
        sections: Sections | None = None,
    ) -> None:
        sets = [shards] if isinstance(shards, ShardSet) else list(shards)
        self.split = split
        self.order = order or OrderSpec()
        self.batch_size = batch_size
        self._mixture = Mixture(sets, split, sections)
        self._rows = self._mixture.eligible(self.order)
        self._samples = _subset(self._mixture.samples, self._rows)
        self._position = position or Position()
        self._last_epoch = None if epochs is None else self._position.epoch + epochs
        self._part = rank_slice(0, batch_size, rank, world_size)
        self._world_size = world_size
        self._planned = self._plan(self._position.epoch)
        self.samples_per_epoch = len(self._planned[1])
        self.steps_per_epoch = steps_per_epoch(self.samples_per_epoch, batch_size)
        self._check_position()
        self._reader = BatchReader(
            self._mixture, num_threads=num_threads, prefetch=prefetch, allocate=allocate
        )
        self._next_planned = self._position

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError(
            "a Stream cannot be pickled, its threads stay in this process; make one in each "
            "worker, with rank and world_size, from the ShardSet, which can be pickled"
        )

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[Batch]:
        return self

    @property
    def image_shape(self) -> tuple[int, ...]:
        """The shape of one image as it is handed out: (c, y, x) or (c, z, y, x)."""
        return self._mixture.shape

    @property
    def position(self) -> Position:
        """The global batch that the next iteration returns: save it after a step, to resume."""
        return self._position

    @property
    def dropped_per_epoch(self) -> int:
        """Number of samples of an epoch that are not read, since they fill no global batch."""
        return self.samples_per_epoch - self.steps_per_epoch * self.batch_size

    def agreement(self) -> dict[str, object]:
        """Return what all ranks of a run must have in common: see `require_agreement`.

        A resumed run must have all but `world_size` in common with the one it continues.
        """
        return {
            "manifest_sha256": [shards.manifest_sha256 for shards in self._mixture.sets],
            "split": self.split,
            "batch_size": self.batch_size,
            "order": asdict(self.order),
            "world_size": self._world_size,
            "epoch": self._position.epoch,
            "step": self._position.step,
            "steps_per_epoch": self.steps_per_epoch,
        }

    def __next__(self) -> Batch:
        self._plan_ahead()
        if self._reader.idle:
            raise StopIteration
        batch = self._reader.take()
        self._position = self._after(Position(epoch=batch.epoch, step=batch.step))
        return batch

    def close(self) -> None:
        """Stop reading and let go of the threads; takes as long as the reads under way."""
        self._reader.close()

    def _plan(self, epoch: int) -> tuple[int, np.ndarray]:
        """Return (epoch, its order of rows of the split)."""
        order = epoch_order(self._samples, self.order, epoch, self.batch_size)
        return epoch, order if self._rows is None else self._rows[order]

    def _plan_ahead(self) -> None:
        while self._reader.has_room and self._next_planned.epoch != self._last_epoch:
            epoch, step = self._next_planned.epoch, self._next_planned.step
            if self._planned[0] != epoch:
                self._planned = self._plan(epoch)
            if self._mixture.is_remote and (step % AHEAD_EVERY == 0 or self._reader.idle):
                self._mixture.expect(self._ahead(step))
            start = step * self.batch_size
            rows = self._planned[1][start + self._part.start : start + self._part.stop]
            self._reader.submit(rows, epoch, step)
            self._next_planned = self._after(self._next_planned)

    def _ahead(self, step: int) -> np.ndarray:
        """Return the rows that this rank will read in the epoch from `step` on, a while ahead."""
        batches = self._planned[1][: self.steps_per_epoch * self.batch_size]
        rows = batches.reshape(-1, self.batch_size)[step:, self._part].reshape(-1)
        return rows[: max(1, AHEAD_BYTES // int(np.prod(self._mixture.shape)))]

    def _after(self, position: Position) -> Position:
        if position.step + 1 < self.steps_per_epoch:
            return Position(epoch=position.epoch, step=position.step + 1)
        return Position(epoch=position.epoch + 1, step=0)

    def _check_position(self) -> None:
        if self._position.step >= self.steps_per_epoch:
            raise ValueError(
                f"position {self._position} lies behind the epoch's {self.steps_per_epoch} steps; "
                "resume with the shard set, order and batch size of the saved run"
            )


def evaluation_batches(
    shards: ShardSet,
    split: str,
    batch_size: int,
    rank: int = 0,
    world_size: int = 1,
    *,
    num_threads: int | None = None,
    prefetch: int = 3,
    allocate: Allocate | None = None,
    sections: Sections | None = None,
) -> Iterator[Batch]:
    """Yield each sample of a split exactly once over all ranks, in the order of the index.

    A rank reads a contiguous part, in batches of `batch_size` of its own, the last one smaller;
    so ranks may differ by one batch. `epoch` is 0 and `step` counts this rank's batches.
    """
    if batch_size < 1:
        raise ValueError(f"batch size must be at least 1, got {batch_size}")
    mixture = Mixture([shards], split, sections)
    part = even_split(len(mixture.samples), index=rank, count=world_size)
    rows = np.arange(part.start, part.stop, dtype=np.int64)
    starts = iter(range(0, len(rows), batch_size))
    if mixture.is_remote and len(rows):
        mixture.expect(rows)
    reader = BatchReader(mixture, num_threads=num_threads, prefetch=prefetch, allocate=allocate)
    try:
        while True:
            while reader.has_room and (start := next(starts, None)) is not None:
                reader.submit(rows[start : start + batch_size], 0, start // batch_size)
            if reader.idle:
                return
            yield reader.take()
    finally:
        reader.close()


def require_agreement(ranks: Sequence[dict[str, object]]) -> None:
    """Refuse to go on unless all ranks' `Stream.agreement()` are the same; say which differ."""
    for rank, found in enumerate(ranks):
        for what, value in ranks[0].items():
            if found[what] != value:
                raise ValueError(
                    f"rank {rank} has {what} {found[what]!r} but rank 0 has {value!r}; start all "
                    "ranks with the same shards, arguments and checkpoint"
                )


def _subset(samples: Samples, rows: np.ndarray | None) -> Samples:
    if rows is None:
        return samples
    return Samples(
        label=samples.label[rows],
        neuron_id=samples.neuron_id[rows],
        shard=samples.shard[rows],
        source=samples.source[rows],
    )
