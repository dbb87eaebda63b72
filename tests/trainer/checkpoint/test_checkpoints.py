"""Checkpoints: come back as they were, whole or not there, and checked against bit rot."""

import errno
import json
import os
import random
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import pytest
import torch
from torch import Tensor, nn

from shards.contract.schema import ImageSpec
from shards.storage.atomic import atomic_write
from trainer.checkpoint import checkpoint as checkpoints
from trainer.checkpoint.checkpoint import Progress, State
from trainer.models.classifier import Inputs
from trainer.models.memory_format import to_memory_format
from trainer.recipes import RECIPES
from trainer.train.optim import build_optimizer

IMAGE = ImageSpec(shape=(1, 8, 8), dtype="uint8", channels=("em",), voxel_size_nm=(40.0, 8.0, 8.0))
STATE = State(
    schema_version=1,
    config=RECIPES["resnet18_2d_small"](),
    manifest_sha256="0" * 64,
    inputs=Inputs(image=IMAGE, class_names=("a", "b"), mean=(1.0,), std=(2.0,)),
    progress=Progress(epoch=1, best=0.5, best_epoch=0),
    memory_format="contiguous",
)


def save(folder: Path, step: int, names: list[str]) -> None:
    groups = {"model": {"w": torch.full((2,), float(step)), "b": torch.arange(5)}}
    state = replace(STATE, progress=Progress(step=step))
    checkpoints.save_checkpoint(folder, step, groups, state, names)


def read(folder: Path) -> tuple[State, dict[str, Tensor]]:
    state = checkpoints.load_state(folder)
    return state, checkpoints.load_tensors(folder, "model")


@pytest.mark.parametrize("kind", ["adam", "adamw", "sgd"])
def test_an_optimizer_comes_back_as_it_was(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = (
        nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten(), nn.LazyLinear(2)),
        torch.rand(4, 2, 8, 8),
    )
    model(x)
    to_memory_format(model, "channels_last")
    settings = replace(STATE.config, optimizer=kind, weight_decay=0.01)
    optimizer = build_optimizer(settings, model)

    def steps(count: int) -> list[Tensor]:
        for _ in range(count):
            model(x).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        return [p.detach().clone() for p in model.parameters()]

    start = steps(3)
    tensors = checkpoints.flatten_optimizer(optimizer)
    groups = {"optimizer": tensors, "model": model.state_dict()}
    checkpoints.save_checkpoint(tmp_path, 3, groups, STATE, ["last"])
    expected = steps(2)
    saved = read(tmp_path / "last")[1]
    model.load_state_dict(saved)
    for a, b in zip(model.parameters(), start, strict=True):
        assert torch.equal(a, b)
    optimizer = build_optimizer(settings, model)
    again = checkpoints.load_tensors(tmp_path / "last", "optimizer")
    checkpoints.restore_optimizer(optimizer, again)
    for a, b in zip(steps(2), expected, strict=True):
        assert torch.equal(a, b)


def test_checkpoints_without_a_name_are_deleted(tmp_path: Path) -> None:
    for step, names in ((1, ["last", "best"]), (2, ["last"]), (3, ["last"])):
        save(tmp_path, step, names)
    folders = sorted(p.name for p in tmp_path.iterdir() if not p.is_symlink())
    assert folders == ["000000001", "000000003"]
    assert read(tmp_path / "best")[0].progress.step == 1
    assert read(tmp_path / "last")[1]["w"][0] == 3


def test_a_step_that_comes_again_replaces_no_folder_that_a_name_points_to(tmp_path: Path) -> None:
    save(tmp_path, 4, ["last", "best"])
    save(tmp_path, 4, ["last"])
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_dir() and not p.is_symlink()) == [
        "000000004",
        "000000004.1",
    ]
    assert read(tmp_path / "best")[1]["w"][0] == 4
    assert read(tmp_path / "last")[1]["w"][0] == 4


def test_what_killed_processes_left_is_no_obstacle_and_goes(tmp_path: Path) -> None:
    save(tmp_path, 1, ["last"])
    (tmp_path / f".000000002.{os.getpid()}.tmp").mkdir()
    (tmp_path / f".last.{os.getpid()}.tmp").symlink_to("000000001")
    save(tmp_path, 2, ["last"])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["000000002", "last"]


def test_checkpoints_have_the_mode_that_umask_gives(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        save(tmp_path / "checkpoints", 1, ["last"])
    finally:
        os.umask(before)
    modes = {
        p.name: stat.S_IMODE(p.stat().st_mode)
        for p in (tmp_path / "checkpoints", *(tmp_path / "checkpoints").rglob("*"))
        if not p.is_symlink()
    }
    assert set(modes.values()) == {0o750, 0o640}
    assert modes["000000001"] == 0o750
    assert modes["model.safetensors"] == modes["state.json"] == 0o640


class _FullDisk:
    """A file on a disk with room for so many bytes in all."""

    def __init__(self, file: BinaryIO, room: list[int]) -> None:
        self._file, self._room = file, room

    def write(self, data: bytes) -> int:
        if len(data) > self._room[0]:
            self._file.write(data[: self._room[0]])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._room[0] -= len(data)
        return self._file.write(data)


@pytest.mark.parametrize("room", [0, 1, 200, 1000])
def test_a_full_disk_is_one_line_and_the_checkpoint_before_stays(
    room: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 1, ["last", "best"])
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    left = [room]

    @contextmanager
    def full(path: Path) -> Iterator[_FullDisk]:
        with atomic_write(path) as file:
            yield _FullDisk(file, left)

    monkeypatch.setattr("trainer.checkpoint.checkpoint.atomic_write", full)
    monkeypatch.setattr("shards.contract.documents.atomic_write", full)
    with pytest.raises(ValueError, match="checkpoint of step 2 cannot be written") as error:
        save(tmp_path, 2, ["last", "best"])
    assert str(error.value) == (
        f"{tmp_path}: the checkpoint of step 2 cannot be written (No space left on device); make "
        "room or check the rights there; the same command goes on from the last checkpoint"
    )
    assert error.value.__suppress_context__
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize("name", ["model.safetensors", "state.json"])
def test_no_flipped_bit_of_a_checkpoint_changes_it_in_silence(name: str, tmp_path: Path) -> None:
    save(tmp_path, 7, ["last"])
    expected_state, expected = read(tmp_path / "last")
    path = tmp_path / "last" / name
    whole = path.read_bytes()
    rng = random.Random(name)
    refused: list[str] = []
    for _ in range(120):
        bit = rng.randrange(8 * len(whole))
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            state, tensors = read(tmp_path / "last")
        except ValueError as error:
            refused.append(str(error))
            continue
        assert state == expected_state
        assert all(torch.equal(tensors[n], value) for n, value in expected.items())
    assert all(str(path) in line and "\n" not in line for line in refused)
    assert len(refused) >= 110  # the others turn white space into other white space


def test_a_file_of_another_checkpoint_is_refused(tmp_path: Path) -> None:
    save(tmp_path, 1, ["best"])
    save(tmp_path, 2, ["last"])
    other = (tmp_path / "best" / "model.safetensors").read_bytes()
    (tmp_path / "last" / "model.safetensors").write_bytes(other)
    with pytest.raises(ValueError, match=r"last/model\.safetensors: damaged, its SHA-256 is not"):
        read(tmp_path / "last")


def test_an_older_checkpoint_without_hashes_is_read(tmp_path: Path) -> None:
    save(tmp_path, 1, ["last"])
    path = tmp_path / "last" / "state.json"
    values = json.loads(path.read_text())
    del values["document_sha256"], values["files"]
    values["optimizer"] = {"groups": [{"lr": 0.1, "betas": [0.9, 0.999]}], "values": {}}
    values["config"] |= {"on_nan": "rollback", "on_collapse": "say"}
    values["progress"]["rate_factor"] = 0.5
    path.write_text(json.dumps(values))
    state, tensors = read(tmp_path / "last")
    assert state.config == STATE.config
    assert tensors["w"][0] == 1


@pytest.mark.parametrize(
    ("progress", "best"),
    [
        (Progress(epoch=2, best=0.6, best_epoch=1), "000000002"),
        (Progress(epoch=2, best=0.5, best_epoch=0), "000000001"),
        (Progress(epoch=2, step=3, best=0.6, best_epoch=1), "000000001"),
    ],
    ids=["the best", "not the best", "in mid-epoch"],
)
def test_best_is_right_after_a_kill_between_the_two_names(
    progress: Progress, best: str, tmp_path: Path
) -> None:
    for step, names in ((1, ["last", "best"]), (2, ["last"])):
        save(tmp_path, step, names)
    (tmp_path / "000000003").mkdir()
    for _ in range(2):
        checkpoints.complete_checkpoint(tmp_path, replace(STATE, progress=progress))
        assert (tmp_path / "best").readlink().name == best
        assert (tmp_path / "last").readlink().name == "000000002"
        folders = {p.name for p in tmp_path.iterdir() if not p.is_symlink()}
        assert folders == {best, "000000002"}


def test_the_first_checkpoint_is_the_best_after_a_kill_between_the_two_names(
    tmp_path: Path,
) -> None:
    save(tmp_path, 1, ["last"])
    checkpoints.complete_checkpoint(tmp_path, STATE)
    assert (tmp_path / "best").readlink().name == "000000001"


def test_checkpoints_that_a_copy_made_folders_of_stay(tmp_path: Path) -> None:
    for name in ("last", "best"):
        (tmp_path / name).mkdir()
    checkpoints.complete_checkpoint(tmp_path, STATE)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["best", "last"]
