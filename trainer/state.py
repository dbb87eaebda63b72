"""Checkpoints: whole folders, reached through the names `last` and `best`.

    checkpoints/000000420/   model.safetensors, optimizer.safetensors, state.json; named by step
    checkpoints/last         symbolic link to the newest; `best` to the best validation's

A folder is renamed into place when complete and a link is replaced in one step, so whatever moment
a process dies at, `last` and `best` are whole. Nothing is pickled.
"""

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from shards.files import fsync, read_json, write_json

Tensors = dict[str, Tensor]
SCHEMA_VERSION = 1
KEYS = ("config", "inputs", "manifest_sha256", "memory_format", "progress")  # of state.json


def save_checkpoint(
    folder: Path, step: int, groups: dict[str, Tensors], state: dict[str, Any], names: list[str]
) -> None:
    """Write checkpoint `step` and let `names` (of `last`, `best`) point to it.

    `groups` maps a file's stem to its tensors; `state` is plain JSON. Checkpoints that no name
    points to any more are deleted.
    """
    target = folder / f"{step:09d}"
    temporary = folder / f".{target.name}.{os.getpid()}.tmp"
    temporary.mkdir(parents=True)
    for stem, tensors in groups.items():
        path = temporary / f"{stem}.safetensors"
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
        fsync(path)
    write_json(temporary / "state.json", state)
    if target.exists():
        shutil.rmtree(target)
    temporary.rename(target)
    for name in names:
        _point(folder / name, target.name)
    fsync(folder)
    _delete_unnamed(folder)


def has_checkpoint(folder: Path, name: str) -> bool:
    """Say whether a checkpoint of this name exists."""
    return (folder / name / "state.json").is_file()


def load_state(folder: Path) -> dict[str, Any]:
    """Return the JSON state of a checkpoint folder; one of another version is an error."""
    path = folder / "state.json"
    cure = "train first, or name another checkpoint"
    state: dict[str, Any] = read_json(path, what="checkpoint", cure=cure)
    if (version := state.get("schema_version")) != SCHEMA_VERSION:
        raise ValueError(
            f"{path}: schema version {version}, this synshards reads {SCHEMA_VERSION}; use the "
            "version that wrote it"
        )
    if lacking := [name for name in KEYS if name not in state]:
        raise ValueError(f"{path}: not a whole checkpoint, it lacks {', '.join(lacking)}; {cure}")
    return state


def load_tensors(folder: Path, stem: str, device: torch.device | str = "cpu") -> Tensors:
    """Return the tensors of one file of a checkpoint folder."""
    path = folder / f"{stem}.safetensors"
    if not path.is_file():
        raise ValueError(f"{path}: the checkpoint lacks this file; use another checkpoint")
    try:
        tensors: Tensors = load_file(path, device=str(device))
    except SafetensorError as error:
        raise ValueError(f"{path}: damaged ({error}); use another checkpoint") from None
    return tensors


def flatten_optimizer(state_dict: dict[str, Any]) -> tuple[Tensors, dict[str, Any]]:
    """Split an optimiser's state into named tensors and plain JSON."""
    tensors: Tensors = {}
    plain: dict[str, Any] = {"groups": state_dict["param_groups"], "values": {}}
    for index, values in state_dict["state"].items():
        for name, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{name}"] = value
            else:
                plain["values"][f"{index}.{name}"] = value
    return tensors, plain


def restore_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Tensors, plain: dict[str, Any]
) -> None:
    """Put back what `flatten_optimizer` took apart.

    Each tensor gets its parameter's memory layout again: element-wise kernels take another path
    for other strides, whose last bit may differ.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Any]] = {}
    for name, value in (tensors | plain["values"]).items():
        index, _, key = name.partition(".")
        parameter = parameters[int(index)]
        alike = isinstance(value, Tensor) and value.shape == parameter.shape
        kept = torch.empty_like(parameter).copy_(value) if alike else value
        state.setdefault(int(index), {})[key] = kept
    optimizer.load_state_dict({"state": state, "param_groups": plain["groups"]})


def _point(link: Path, target: str) -> None:
    temporary = link.with_name(f".{link.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    temporary.replace(link)


def _delete_unnamed(folder: Path) -> None:
    named = {path.readlink().name for path in folder.iterdir() if path.is_symlink()}
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink() and path.name not in named:
            shutil.rmtree(path)
