"""`run.json`: what a run is, on which code and machine, and how far it came."""

import importlib.metadata
import platform
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import accelerate
import torch
import torchvision

from shards.contract.documents import read_bytes
from shards.contract.schema import View
from trainer.checkpoint.checkpoint import parse_record, tolerant
from trainer.config import Config, MemoryFormat, Monitor, System
from trainer.setup.preflight import cudnn_version

Status = Literal["running", "stopped", "finished"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Best:
    """The best validation so far; `epoch` is -1 before the first."""

    monitor: Monitor
    value: float | None
    epoch: int


@dataclass(frozen=True, kw_only=True, slots=True)
class GitState:
    """The commit of a checkout, and whether files differ from it."""

    commit: str
    changed: bool


@tolerant
@dataclass(frozen=True, kw_only=True, slots=True)
class RunRecord:
    """`run.json`."""

    schema_version: int
    recipe: str
    status: Status
    config: Config
    system: System
    data_url: str
    manifest_sha256: str
    class_names: tuple[str, ...]
    view: View
    num_parameters: int
    train_counts: dict[str, int]
    memory_format: MemoryFormat
    world_size: int
    device: str
    threads: int
    versions: dict[str, str | int | None]
    git: GitState | None
    command: tuple[str, ...]
    best: Best
    ended: str | None  # why the run ended before its last epoch
    fold: int | None = None  # of a cross-validation
    mixed_urls: tuple[str, ...] = ()  # of the other shard sets that it trained on


def read_run(folder: Path) -> RunRecord:
    """Return what a run folder says of itself; a missing or altered run.json is a `ValueError`."""
    path, cure = folder / "run.json", "train it first, check the path, or give --data"
    data = read_bytes(path, what="run", cure=cure)
    return parse_record(RunRecord, data, where=f"{path}: not a run", cure=cure)


def absolute_url(url: str) -> str:
    """Return a shard set's URL so that it means the same from any folder."""
    return url if "://" in url else str(Path(url).resolve())


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


@cache
def git_state() -> GitState | None:
    """Return the state of the checkout that this code runs from, as it was at the first call.

    None where the code is not a git checkout, or git is not there.
    """
    here = Path(__file__).parents[2]
    if shutil.which("git") is None or not (here / ".git").exists():
        return None
    words = [
        "git",
        "-C",
        str(here),
        "describe",
        "--always",
        "--abbrev=40",
        "--exclude=*",
        "--dirty",
    ]
    answer = subprocess.run(words, capture_output=True, text=True, check=False)
    commit, dirty, _ = answer.stdout.strip().partition("-dirty")
    return None if answer.returncode else GitState(commit=commit, changed=bool(dirty))
