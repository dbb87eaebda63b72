"""Checkpoints: whole folders, reached through the names `last` and `best`.

    checkpoints/000000420/   model.safetensors, optimizer.safetensors, state.json; named by step
    checkpoints/last         symbolic link to the newest; `best` to the best validation's

A folder is renamed into place when complete and a link is replaced in one step, so whatever moment
a process dies at, `last` and `best` are whole. state.json is sealed and holds the SHA-256 of the
files beside it, which is checked when they are read. Nothing is pickled.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import TypeVar

import torch
from pydantic import ConfigDict, JsonValue, with_config
from safetensors.torch import save

from shards.contract.documents import parse_json, parse_plain, read_bytes, write_document
from shards.storage.atomic import atomic_write, fsync
from trainer.config import Config, MemoryFormat
from trainer.models.classifier import Inputs
from trainer.weights.tensor_files import Tensors, read_tensors

SCHEMA_VERSION = 1
STATE = "state.json"
OTHER = "use another checkpoint, or train again"
MAKE_ROOM = "make room or check the rights there; the same command goes on from the last checkpoint"
Record = TypeVar("Record")
# Fields that this version does not know are another version's, such as `rate_factor`.
tolerant = with_config(ConfigDict(strict=True, extra="ignore", allow_inf_nan=False))


@tolerant
@dataclass
class Progress:
    """Progress of a run; saved with each checkpoint."""

    epoch: int = 0
    step: int = 0  # in the epoch: the next one
    best: float | None = None  # of the validation: the monitored number
    best_epoch: int = -1
    loss_sum: float = 0.0  # over the epoch's steps so far
    collapsed: int = 0  # validations in a row that found one class only
    ended: str = ""  # why the run ended before its last epoch


@tolerant
@dataclass(frozen=True, kw_only=True, slots=True)
class State:
    """`state.json`: what a checkpoint, or a model that `export` wrote, is."""

    schema_version: int
    config: Config
    manifest_sha256: str  # of the data that it was trained on
    inputs: Inputs
    progress: Progress
    memory_format: MemoryFormat
    world_size: int = 1
    average_steps: int = 0
    scaler: dict[str, int | float] | None = None  # of gradients in fp16
    mixed_sha256: tuple[str, ...] = ()  # of the other shard sets that it was trained on
    files: dict[str, str] = field(default_factory=dict)  # the others' names and SHA-256

    def __post_init__(self) -> None:
        if self.schema_version != SCHEMA_VERSION:
            raise ValueError(
                f"schema version {self.schema_version}, this synshards reads {SCHEMA_VERSION}; use "
                "the version that wrote it"
            )


def checkpoint_folder(run: Path) -> Path:
    """Return where a run keeps its checkpoints."""
    return run / "checkpoints"


def save_checkpoint(
    folder: Path, step: int, groups: dict[str, Tensors], state: State, names: list[str]
) -> None:
    """Write checkpoint `step` and let `names` (of `last`, `best`) point to it.

    `groups` maps a file's stem to its tensors; their hashes are added to `state`. `last` comes
    first of `names`: where the process dies after it, `complete_checkpoint` does the rest.
    Checkpoints that no name points to any more are deleted. Where it cannot be written, a
    `ValueError`, and the checkpoints before it stay.
    """
    temporary = folder / f".{os.getpid()}.{os.urandom(4).hex()}.tmp"
    with naming(f"{folder}: the checkpoint of step {step}"):
        try:
            temporary.mkdir(parents=True)
            write_model(temporary, groups, state)
            target = _free_name(folder, f"{step:09d}")
            temporary.rename(target)
            for name in names:
                _point(folder / name, target.name)
            fsync(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
            _delete_unnamed(folder)


def complete_checkpoint(folder: Path, state: State) -> None:
    """Do what a process that was killed after it let `last` point to `state` had yet to do.

    That is to let `best` point there, if it is the best, and to delete what no name points to.
    """
    last, best = folder / "last", folder / "best"
    if not last.is_symlink():
        return
    ends_epoch = state.progress.step == 0 and state.progress.epoch > 0
    if ends_epoch and state.progress.best_epoch == state.progress.epoch - 1:
        target = last.readlink().name
        if not best.is_symlink() or best.readlink().name != target:
            _point(best, target)
    _delete_unnamed(folder)


def write_model(
    folder: Path, groups: dict[str, Tensors], state: State, others: dict[str, bytes] | None = None
) -> None:
    """Write other files by name, tensors by stem, and last the state with the hashes of all."""
    files = dict(others or {})
    for stem, tensors in groups.items():
        contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
        files[f"{stem}.safetensors"] = save(contiguous)
    for name, data in files.items():
        with atomic_write(folder / name) as file:
            file.write(data)
    hashes = {name: sha256(data).hexdigest() for name, data in files.items()}
    write_document(folder / STATE, replace(state, files=hashes))


def load_state(folder: Path) -> State:
    """Return the state of a checkpoint folder; a wrong or altered one is a `ValueError`."""
    cure = "train first, or name another checkpoint"
    data = read_bytes(folder / STATE, what="checkpoint", cure=cure)
    return parse_record(State, data, where=f"{folder / STATE}: not a checkpoint", cure=cure)


def parse_record(record: type[Record], data: bytes, *, where: str, cure: str) -> Record:
    """Return a `State` or run record, also of a config with an option that has since gone."""
    values = parse_json(dict[str, JsonValue], data, where=where, cure=cure)
    config = values.get("config")
    if isinstance(config, dict) and "on_nan" in config:
        del config["on_nan"]
        config["on_collapse"] = "stop" if config.get("on_collapse") == "stop" else "warn"
    return parse_plain(record, values, where=where, cure=cure)


def load_tensors(folder: Path, stem: str) -> Tensors:
    """Return the tensors of one file of a checkpoint folder, of the hash that its state says."""
    path = folder / f"{stem}.safetensors"
    if not path.is_file():
        raise ValueError(f"{path}: the checkpoint lacks this file; {OTHER}")
    return read_tensors(path, cure=OTHER).get("", {})


def flatten_optimizer(optimizer: torch.optim.Optimizer) -> Tensors:
    """Return an optimizer's state as named tensors; its groups follow from the config."""
    return {
        f"{index}.{name}": value
        for index, values in optimizer.state_dict()["state"].items()
        for name, value in values.items()
        if value is not None
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Tensors) -> None:
    """Put back what `flatten_optimizer` took apart.

    Each tensor gets its parameter's memory layout again: element-wise kernels take another path
    for other strides, whose last bit may differ.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, Tensors] = {}
    for name, value in tensors.items():
        index, _, key = name.partition(".")
        parameter = parameters[int(index)]
        same = value.shape == parameter.shape
        kept = torch.empty_like(parameter).copy_(value) if same else value
        state.setdefault(int(index), {})[key] = kept
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


@contextmanager
def naming(what: str, *, cure: str = MAKE_ROOM) -> Iterator[None]:
    """Turn an `OSError` of writing, such as a full disk, into a `ValueError` of one line."""
    try:
        yield
    except OSError as error:
        raise ValueError(f"{what} cannot be written ({error.strerror or error}); {cure}") from None


def _free_name(folder: Path, name: str) -> Path:
    """Return a path that nothing stands at: a run begun anew comes by its old steps again."""
    number = 1
    path = folder / name
    while path.exists():
        path, number = folder / f"{name}.{number}", number + 1
    return path


def _point(link: Path, target: str) -> None:
    temporary = link.with_name(f".{link.name}.{os.getpid()}.{os.urandom(4).hex()}.tmp")
    temporary.symlink_to(target)
    temporary.replace(link)


def _delete_unnamed(folder: Path) -> None:
    """Delete what no name points to, and what killed processes left."""
    links = [path for path in folder.iterdir() if path.is_symlink()]
    for link in links:
        if link.name.startswith("."):
            link.unlink()
    named = {link.readlink().name for link in links if not link.name.startswith(".")}
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink() and path.name not in named:
            shutil.rmtree(path)
