"""Whole runs in processes of their own: kills, signals, two ranks."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from eval.inputs.predictions import read_predictions
from shards.contract.documents import write_document
from tests.trainer.conftest import main
from trainer.checkpoint.run_folder import read_run
from trainer.train.signals import REQUEUE

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
    out = tmp_path_factory.mktemp("unbroken") / "run"
    main([*TINY, "--data", cubes, "--out", str(out), "--threads", "1"])
    return out


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_bits(
    cubes: str,
    unbroken: Path,
    launch: Launch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = (*TINY, "--data", cubes, "--out", tmp_path / "run", "--checkpoint-steps", "3")
    command = (*command, "--threads", "1")
    first = launch(*command)
    wait_for_step(tmp_path / "run", 6, first)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    assert 0 < state(tmp_path / "run")["progress"]["step"] < 20, "the kill must fall in mid-epoch"
    main(command)
    assert "continuing" in capsys.readouterr().err
    assert_same_bits(tmp_path / "run", unbroken)
    assert [row["loss"] for row in validations(tmp_path / "run")] == [
        row["loss"] for row in validations(unbroken)
    ]
    record, path = read_run(tmp_path / "run"), tmp_path / "run" / "run.json"
    written = path.read_bytes()
    write_document(path, replace(record, status="running", best=replace(record.best, epoch=0)))
    main(command)
    assert "finished already" in capsys.readouterr().err
    assert path.read_bytes() == written


@pytest.mark.slow
def test_a_signal_saves_and_asks_to_be_queued_again(
    cubes: str, unbroken: Path, launch: Launch, tmp_path: Path
) -> None:
    command = (*TINY, "--data", cubes, "--out", tmp_path / "run", "--threads", "1")
    first = launch(*command, "--checkpoint-steps", "3", launcher=False)
    wait_for_step(tmp_path / "run", 3, first)
    first.send_signal(signal.SIGUSR1)
    _, errors = first.communicate(timeout=100)
    assert first.returncode == REQUEUE, errors
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "stopped"
    main(command)
    assert_same_bits(tmp_path / "run", unbroken)


# Without batch norm and dropout ranks change nothing but rounding. With SGD: Adam divides by the
# gradient's size and so makes rounding as large as a step.
RANKS = (
    *TINY, "--norm", "group", "--dropout", "0", "--batch-size", "16", "--optimizer", "sgd",
    "--ema", "0.9", "--threads", "1",
)  # fmt: skip


@pytest.fixture(scope="module")
def one_rank(cubes: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 20 steps on one rank, with predictions."""
    out = tmp_path_factory.mktemp("one") / "run"
    main([*RANKS, "--data", cubes, "--out", str(out)])
    main(["predict", str(out), "--split", "val", "--checkpoint", "last", "--threads", "1"])
    return out


def assert_alike(a: Path, b: Path) -> None:
    for stem in ("model", "average"):
        left, right = weights(a, stem), weights(b, stem)
        for name, value in left.items():
            np.testing.assert_allclose(right[name], value, atol=1e-5, rtol=1e-4, err_msg=name)
    for one, other in zip(validations(a), validations(b), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], abs=1e-3)


@pytest.mark.slow
def test_two_ranks_learn_and_predict_what_one_does(
    cubes: str, one_rank: Path, run: Run, tmp_path: Path
) -> None:
    two = tmp_path / "two"
    run(*RANKS, "--accumulate", "2", "--data", cubes, "--out", two, ranks=2)
    assert json.loads((two / "run.json").read_text())["world_size"] == 2
    assert_alike(one_rank, two)
    run("predict", one_rank, "--split", "val", "--checkpoint", "last", "--out", two, ranks=2)
    found, expected = (
        read_predictions(folder / "predictions" / "val.parquet")[0] for folder in (two, one_rank)
    )
    assert found["key"].tolist() == expected["key"].tolist()
    np.testing.assert_allclose(found["probability"], expected["probability"], atol=1e-6)


@pytest.mark.slow
def test_what_two_ranks_began_one_rank_ends(
    cubes: str, one_rank: Path, launch: Launch, tmp_path: Path
) -> None:

    command = [*RANKS, "--data", cubes, "--out", str(tmp_path / "run")]
    first = launch(*command, "--checkpoint-steps", "3", ranks=2)
    wait_for_step(tmp_path / "run", 3, first)
    ranks = Path(f"/proc/{first.pid}/task/{first.pid}/children").read_text().split()
    for rank in ranks:  # each is a session of its own
        os.kill(int(rank), signal.SIGKILL)
    assert len(ranks) >= 2
    first.communicate()
    assert first.returncode != 0
    begun = state(tmp_path / "run")
    assert begun["world_size"] == 2
    assert 0 < begun["progress"]["step"] < 10, "the kill must fall in mid-epoch"
    main(command)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["world_size"] == 1
    assert_alike(one_rank, tmp_path / "run")


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize(("ranks", "number"), [(1, signal.SIGTERM), (2, signal.SIGKILL)])
def test_no_rank_trains_on_when_its_launcher_has_ended(
    ranks: int, number: int, cubes: str, launch: Launch, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    command = [*RANKS, "--epochs", "500", "--data", cubes, "--out", str(out)]
    first = launch(*command, "--checkpoint-steps", "3", ranks=ranks)
    wait_for_step(out, 3, first)
    children = Path(f"/proc/{first.pid}/task/{first.pid}/children").read_text().split()
    assert len(children) >= ranks
    first.send_signal(number)
    first.wait(timeout=60)
    end = time.monotonic() + 60
    while alive := [pid for pid in children if is_alive(int(pid))]:
        assert time.monotonic() < end, f"{alive} outlast their launcher"
        time.sleep(0.05)
    reached = state(out)["progress"]
    time.sleep(0.5)
    assert state(out)["progress"] == reached
    if number == signal.SIGTERM:  # asked, so each rank ended in good order
        assert not [*out.rglob("*.tmp"), *out.rglob(".lock")]
        assert json.loads((out / "run.json").read_text())["status"] == "stopped"
