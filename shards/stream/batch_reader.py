"""Threads that read batches ahead, in order, into memory that is used again."""

import os
import queue
import sys
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np

from shards.stream.mixture import Mixture
from shards.workers.threads import Pool

Allocate = Callable[[tuple[int, ...]], np.ndarray]
LOCAL_THREADS, REMOTE_THREADS = 2, 16  # a remote read mostly waits
TASK_BYTES = 2 << 20  # what one thread reads at a time: long enough to be worth a switch
PATIENCE_S = 5.0  # after which a wait is said on standard error, and then at times


@dataclass(frozen=True, slots=True)
class Batch:
    """A rank's part of one global batch.

    images (b, c, [z], y, x) uint8; labels (b,) int64; rows (b,) int64 into the split's index (of
    several sets: into their indices one after the other). `epoch` and `step` say which global
    batch it is. The memory of `images` is used again once nothing refers to it: keep the batch
    until an asynchronous copy from it is done.
    """

    images: np.ndarray
    labels: np.ndarray
    rows: np.ndarray
    epoch: int
    step: int


class BatchReader:
    """Reads batches in the order of `submit`: up to `prefetch` besides the one being waited for."""

    def __init__(
        self,
        mixture: Mixture,
        *,
        num_threads: int | None,
        prefetch: int,
        allocate: Allocate | None,
    ) -> None:
        if num_threads is None:
            num_threads = REMOTE_THREADS if mixture.is_remote else LOCAL_THREADS
        if num_threads < 1 or prefetch < 1:
            raise ValueError(
                f"reading needs threads and prefetch, got {num_threads} and {prefetch}"
            )
        self._mixture, self._prefetch = mixture, prefetch
        self._buffers = BatchMemory(mixture.shape, mixture.dtype, allocate)
        self._per_task = max(1, TASK_BYTES // int(np.prod(mixture.shape)))
        self._pool = Pool(num_threads, "shards-read")
        self._pid = os.getpid()
        self._under_way: deque[tuple[Batch, list[Future[None]]]] = deque()

    @property
    def has_room(self) -> bool:
        """True if another batch may be submitted."""
        return len(self._under_way) <= self._prefetch

    @property
    def idle(self) -> bool:
        """True if there is nothing to take."""
        return not self._under_way

    def submit(self, rows: np.ndarray, epoch: int, step: int) -> None:
        """Start reading the samples `rows` as one batch."""
        self._check_process()
        images = self._buffers.take(len(rows))
        starts = range(0, len(rows), self._per_task)
        parts = [slice(start, start + self._per_task) for start in starts]
        read = self._mixture.read_into
        tasks = [self._pool.submit(read, rows[part], images[part]) for part in parts]
        labels = self._mixture.samples.label[rows].astype(np.int64)
        self._under_way.append((Batch(images, labels, rows, epoch, step), tasks))

    def take(self) -> Batch:
        """Return the batch submitted first, once it is read; a reader's error is raised here."""
        self._check_process()
        batch, tasks = self._under_way.popleft()
        for task in tasks:
            self._wait(batch, task)
        return batch

    def close(self) -> None:
        """Drop what was submitted and end the threads; takes as long as the reads under way."""
        self._under_way.clear()
        if os.getpid() == self._pid:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def _check_process(self) -> None:
        """Refuse to go on in a forked process, which has no threads that would read."""
        if os.getpid() != self._pid:
            raise ValueError(
                "batches are read by threads of the process that made the Stream, and this is "
                "another one; iterate the Stream where it was made (DataLoader: num_workers=0, it "
                "reads ahead by itself), or make one in each worker, with rank and world_size"
            )

    def _wait(self, batch: Batch, task: Future[None]) -> None:
        waited, patience_s = 0.0, PATIENCE_S
        while True:
            try:
                task.result(patience_s)
            except TimeoutError:
                if task.done():  # the reader's own timeout, not ours
                    raise
                waited, patience_s = waited + patience_s, 6 * PATIENCE_S
                places = ", ".join(shards.url for shards in self._mixture.sets)
                sys.stderr.write(
                    f"still reading step {batch.step} of epoch {batch.epoch} from {places} after "
                    f"{waited:g} s\n"
                )
            else:
                return


class BatchMemory:
    """Memory for batches, used again when nobody refers to it any longer."""

    def __init__(self, shape: tuple[int, ...], dtype: str, allocate: Allocate | None) -> None:
        self._shape, self._dtype = shape, dtype
        self._allocate = allocate or (lambda shape: np.empty(shape, dtype))
        self._free: queue.SimpleQueue[np.ndarray] = queue.SimpleQueue()

    def take(self, count: int) -> np.ndarray:
        """Return an array (count, *shape) whose content is arbitrary."""
        try:
            owner = self._free.get_nowait()
        except queue.Empty:
            owner = self._new(count)
        if len(owner) < count:
            owner = self._new(count)
        # Arrays made of a memoryview stay the `base` of all their views, so `lent` dies only
        # when the last view of it, in numpy or torch, has gone.
        lent = np.asarray(owner.data)
        weakref.finalize(lent, self._free.put, owner).atexit = False
        return lent[:count]

    def _new(self, count: int) -> np.ndarray:
        owner = self._allocate((count, *self._shape))
        if owner.shape != (count, *self._shape) or owner.dtype != self._dtype:
            raise ValueError(
                f"allocate returned {owner.dtype} {owner.shape}, not {self._dtype} "
                f"{(count, *self._shape)}"
            )
        return owner
