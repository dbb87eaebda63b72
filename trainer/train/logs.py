"""What a run tells: a progress line, TensorBoard, metrics.jsonl and run.json; rank 0 alone."""

import importlib.metadata
import json
import math
import platform
import shutil
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import accelerate
import torch
import torchvision
from pydantic import ConfigDict, with_config
from torch.utils.tensorboard import SummaryWriter

from shards.contract.documents import parse_json
from shards.storage.atomic import atomic_write
from trainer.checkpoint.writing import naming
from trainer.setup.preflight import cudnn_version

T = TypeVar("T")


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

    def write(self, kind: str, step: int, epoch: int, values: dict[str, float]) -> None:
        """Log values under `kind` (train, val, …) after `step` steps in all."""
        if self._writer is None:
            return
        row = {"kind": kind, "step": step, "epoch": epoch, **_finite(values)}
        with self._naming():
            for name, value in values.items():
                self._writer.add_scalar(f"{kind}/{name}", value, step)
            with self._path.open("a") as file:
                file.write(json.dumps(row) + "\n")


class Meter:
    """Speed since the last report, and which part of the time went into waiting for data."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._waited = 0.0
        self._samples = 0

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

    def restart(self) -> None:
        """Forget what was measured; call it after work that is not training."""
        self._start, self._waited, self._samples = time.perf_counter(), 0.0, 0


def versions() -> dict[str, str | int | None]:
    """Return the versions of what decides a run's numbers."""
    return {
        "python": platform.python_version(),
        "synshards": importlib.metadata.version("synshards"),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "accelerate": accelerate.__version__,
        "cuda": torch.version.cuda if torch.cuda.is_available() else None,
        "cudnn": cudnn_version(),
    }


@dataclass(frozen=True, kw_only=True, slots=True)
class GitState:
    """The commit of a checkout, and whether files differ from it."""

    commit: str
    changed: bool


@cache
def git_state() -> GitState | None:
    """Return the state of the checkout that this code runs from, as it was at the first call.

    None where the code is not a git checkout, or git is not there.
    """
    here = Path(__file__).parents[2]
    if shutil.which("git") is None or not (here / ".git").exists():
        return None
    said = [
        subprocess.run(
            ["git", "-C", str(here), *words], capture_output=True, text=True, check=False
        )
        for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
    ]
    if any(answer.returncode for answer in said):
        return None
    return GitState(commit=said[0].stdout.strip(), changed=bool(said[1].stdout.strip()))


@with_config(ConfigDict(strict=True, extra="ignore"))
@dataclass(frozen=True)
class _Row:
    step: int


def _finite(values: dict[str, float]) -> dict[str, float | None]:
    """JSON has no NaN."""
    return {name: value if abs(value) < float("inf") else None for name, value in values.items()}


def _truncate(path: Path, step: int) -> None:
    """Keep the whole lines of steps up to `step`; a kill leaves one that is torn."""
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    with atomic_write(path) as file:
        file.writelines(line for line in lines if _step_of(line) <= step)


def _step_of(line: bytes) -> float:
    """Return the step that a line of metrics.jsonl is of; infinity where it is no such line."""
    try:
        return parse_json(_Row, line, where="", cure="").step
    except ValueError:
        return math.inf
