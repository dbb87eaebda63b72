"""Whole runs in processes of their own: kills, signals, two ranks."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from trainer.stopping import REQUEUE

TINY = (
    "unet3d_small", "--crop", "8", "16", "16", "--width", "4", "--epochs", "2", "--batch-size", "8",
    "--memory-format", "contiguous",
)  # fmt: skip
Run = Callable[..., str]
Launch = Callable[..., subprocess.Popen[str]]


def weights(run_folder: Path, stem: str = "model") -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = load_file(
        run_folder / "checkpoints" / "last" / f"{stem}.safetensors"
    )
    return found


def state(run_folder: Path) -> dict[str, Any]:
    text = (run_folder / "checkpoints" / "last" / "state.json").read_text()
    found: dict[str, Any] = json.loads(text)
    return found


def validations(run_folder: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["kind"] == "val"]


def assert_same_bits(a: Path, b: Path) -> None:
    for stem in ("model", "optimizer"):
        left, right = weights(a, stem), weights(b, stem)
        assert left.keys() == right.keys()
        for name, value in left.items():
            np.testing.assert_array_equal(value, right[name], err_msg=name)


def wait_for_step(run_folder: Path, step: int, process: subprocess.Popen[str]) -> None:
    last = run_folder / "checkpoints" / "last"
    while not (last.is_symlink() and int(last.readlink().name) >= step):
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)


@pytest.fixture(scope="module")
def cubes(make_shards: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> str:
    counts = {"train": 160, "val": 16, "test": 8}
    return make_shards(tmp_path_factory.mktemp("cubes"), "cube", counts=counts)


@pytest.fixture(scope="module")
def unbroken(cubes: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 40 steps in one go."""
    from trainer.__main__ import main

    out = tmp_path_factory.mktemp("unbroken") / "run"
    main([*TINY, "--data", cubes, "--out", str(out), "--threads", "1"])
    return out


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_bits(
    cubes: str, unbroken: Path, launch: Launch, run: Run, tmp_path: Path
) -> None:
    command = (*TINY, "--data", cubes, "--out", tmp_path / "run", "--checkpoint-steps", "3")
    first = launch(*command)
    wait_for_step(tmp_path / "run", 6, first)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    assert 0 < state(tmp_path / "run")["progress"]["step"] < 20, "the kill must fall in mid-epoch"
    assert "continuing" in run(*command)
    assert_same_bits(tmp_path / "run", unbroken)
    assert [row["loss"] for row in validations(tmp_path / "run")] == [
        row["loss"] for row in validations(unbroken)
    ]
    assert "finished already" in run(*command, launcher=False)


@pytest.mark.slow
def test_a_signal_saves_and_asks_to_be_queued_again(
    cubes: str, unbroken: Path, launch: Launch, run: Run, tmp_path: Path
) -> None:
    command = (*TINY, "--data", cubes, "--out", tmp_path / "run")
    first = launch(*command, "--checkpoint-steps", "3", launcher=False)
    wait_for_step(tmp_path / "run", 3, first)
    first.send_signal(signal.SIGUSR1)
    _, errors = first.communicate(timeout=100)
    assert first.returncode == REQUEUE, errors
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "stopped"
    run(*command, launcher=False)
    assert_same_bits(tmp_path / "run", unbroken)


@pytest.mark.slow
def test_two_ranks_learn_what_one_does(cubes: str, run: Run, tmp_path: Path) -> None:
    # SGD: Adam divides by the gradient's size and so makes rounding as large as a step.
    settings = ("--norm", "group", "--dropout", "0", "--batch-size", "16", "--optimizer", "sgd")
    command = (*TINY, *settings, "--data", cubes)
    run(*command, "--out", tmp_path / "one")
    run(*command, "--out", tmp_path / "two", ranks=2)
    assert json.loads((tmp_path / "two" / "run.json").read_text())["world_size"] == 2
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name, value in one.items():
        np.testing.assert_allclose(two[name], value, atol=1e-5, rtol=1e-4, err_msg=name)
    for a, b in zip(validations(tmp_path / "one"), validations(tmp_path / "two"), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-3)
