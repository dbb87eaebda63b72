"""The log of a run: metrics.jsonl, TensorBoard and speed; written by rank 0 alone."""

import json
import math
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Literal, TypeVar

from torch.utils.tensorboard import SummaryWriter

from shards.contract.documents import parse_json
from shards.storage.atomic import atomic_write
from trainer.checkpoint.checkpoint import naming, tolerant

T = TypeVar("T")
Kind = Literal["train", "val", "val_average"]


class RunLog:
    """metrics.jsonl and TensorBoard of a run folder; silent unless `active`.

    A resumed run passes the step it goes on from: what was logged after it is removed, since it is
    about to happen again.
    """

    def __init__(self, folder: Path, *, active: bool, step: int) -> None:
        self._writer: SummaryWriter | None = None
        self._path = folder / "metrics.jsonl"
        self._naming = partial(naming, f"{folder}: metrics.jsonl or tensorboard/")
        if active:
            with self._naming():
                _truncate(self._path, step)
                self._writer = SummaryWriter(folder / "tensorboard", purge_step=step + 1)

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._writer is not None:
            with suppress(OSError) if error else self._naming():
                self._writer.close()

    def write(self, kind: Kind, step: int, epoch: int, values: dict[str, float]) -> None:
        """Log values under `kind` after `step` steps in all."""
        if self._writer is None:
            return
        # JSON has no NaN.
        finite = {n: value if math.isfinite(value) else None for n, value in values.items()}
        line = json.dumps({"kind": kind, "step": step, "epoch": epoch, **finite})
        with self._naming():
            for name, value in values.items():
                self._writer.add_scalar(f"{kind}/{name}", value, step)
            with self._path.open("a") as file:
                file.write(line + "\n")


class Meter:
    """Speed since the last report, and which part of the time went into waiting for data."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Forget what was measured; call it after work that is not training."""
        self._start, self._waited, self._samples = time.perf_counter(), 0.0, 0

    def timed(self, batches: Iterable[T]) -> Iterator[T]:
        """Yield the batches, timing how long each took to come."""
        iterator = iter(batches)
        while True:
            start = time.perf_counter()
            batch = next(iterator, None)
            self._waited += time.perf_counter() - start
            if batch is None:
                return
            yield batch

    def count(self, samples: int) -> None:
        """Count samples of all ranks as done."""
        self._samples += samples

    def report(self) -> dict[str, float]:
        """Return samples_per_s and wait_share, and start afresh."""
        seconds = max(time.perf_counter() - self._start, 1e-9)
        values = {"samples_per_s": self._samples / seconds, "wait_share": self._waited / seconds}
        self.restart()
        return values


@tolerant
@dataclass(frozen=True)
class _Row:
    step: int


def _truncate(path: Path, step: int) -> None:
    """Keep the whole lines of steps up to `step`; a kill leaves one that is torn."""
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    with atomic_write(path) as file:
        file.writelines(line for line in lines if _step_of(line) <= step)


def _step_of(line: bytes) -> float:
    """Return the step of a line of metrics.jsonl; infinity for any other line."""
    try:
        return parse_json(_Row, line, where="", cure="").step
    except ValueError:
        return math.inf
