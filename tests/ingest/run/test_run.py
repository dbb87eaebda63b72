"""The same bytes, whoever runs the blocks and however often they are killed."""

import hashlib
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from ingest.__main__ import main
from ingest.dataset import Layout, read_table
from ingest.job.job_file import load_job
from ingest.plan.make import plan_dataset
from ingest.qc.describe_dataset import inspect_lines
from ingest.run.blocks import RunSummary, Task, run_dataset
from ingest.run.finish import finish_dataset
from shards.cli.command import run_command
from shards.contract.sample_store import read_dataset
from shards.contract.schema import SAMPLE_COLUMNS
from shards.storage.locks import shared_writer, sole_writer

ALONE = Task(index=0, count=1)


def command(*args: str | Path) -> list[str]:
    return [sys.executable, "-m", "ingest", *map(str, args)]


def run_alone(out: Path, task: Task = ALONE) -> RunSummary:
    return run_dataset(out, scheduler="threads", num_workers=1, task=task)


def hashes(out: Path) -> dict[str, str]:
    """The sha256 of everything that the data set consists of."""
    files = [path for path in out.rglob("*") if path.is_file() and not path.name.startswith(".")]
    return {str(p.relative_to(out)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture(scope="module")
def config(module_job: Any) -> Path:
    """A job of 64 samples in 4 blocks, four of which lie partly outside."""
    module_job.synapses.loc[:3, "ctr_pt_position_x"] = 320
    path: Path = module_job.write()
    return path


@pytest.fixture(scope="module")
def reference(config: Path) -> Path:
    """The finished data set of that job."""
    out = config.parent / "reference"
    plan_dataset(load_job(config), out)
    run_alone(out)
    finish_dataset(out)
    return out


@pytest.fixture
def finished(reference: Path, tmp_path: Path) -> Path:
    """A copy of it, to be changed."""
    return shutil.copytree(reference, tmp_path / "finished")


@contextmanager
def scheduler_address() -> Iterator[str]:
    """A Dask scheduler with one worker, in processes of their own."""
    from distributed import LocalCluster

    options = {"n_workers": 1, "threads_per_worker": 1, "dashboard_address": ":0"}
    with LocalCluster(processes=False, protocol="tcp", **options) as cluster:
        yield cluster.scheduler_address


@pytest.mark.parametrize("scheduler", ["threads", "processes", "address"])
def test_every_scheduler_writes_the_same_bytes(
    config: Path, reference: Path, tmp_path: Path, scheduler: str
) -> None:
    out = tmp_path / "other"
    plan_dataset(load_job(config), out)
    if scheduler == "address":
        with scheduler_address() as address:
            run_dataset(out, scheduler=address, num_workers=None, task=None)
    else:
        run_dataset(out, scheduler=scheduler, num_workers=2, task=None)
    finish_dataset(out)
    assert hashes(out) == hashes(reference)


def test_tasks_of_an_array_write_the_same_bytes(
    config: Path, reference: Path, tmp_path: Path
) -> None:
    out = tmp_path / "other"
    plan_dataset(load_job(config), out)
    done = [run_alone(out, Task(index=index, count=3)) for index in (2, 0, 1)]
    assert sum(len(one.results) for one in done) == 4
    finish_dataset(out)
    assert hashes(out) == hashes(reference)


def test_killed_at_any_moment_it_continues_to_the_same_bytes(
    config: Path, reference: Path, tmp_path: Path
) -> None:
    out = tmp_path / "killed"
    plan_dataset(load_job(config), out)
    blocks = Layout(out).root / "blocks"
    rng = random.Random(3)
    kills = 0
    while kills < 4:
        process = subprocess.Popen(
            command("run", out, "--task-index", 0, "--num-tasks", 1),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        have = len(list(blocks.glob("*"))) if blocks.exists() else 0
        while process.poll() is None and (
            not blocks.exists() or len(list(blocks.glob("*"))) == have
        ):
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.03))
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
        if len(list(blocks.glob("0*"))) == 4:  # a killed run may have done all: do one again
            rng.choice(sorted(blocks.glob("0*"))).unlink()
    run_alone(out)
    finish_dataset(out)
    assert not [path for path in out.rglob(".*") if path.is_file()]
    assert hashes(out) == hashes(reference)


def test_a_half_written_shard_is_written_again(finished: Path) -> None:
    before = hashes(finished)
    shard = finished / "samples.zarr" / "cube" / "c" / "1" / "0" / "0" / "0" / "0"
    shard.write_bytes(shard.read_bytes()[:1000])
    (shard.parent / ".0.7.0123abcd.tmp").write_bytes(b"half")
    Layout(finished).block(1).unlink()
    assert len(run_alone(finished).results) == 1
    finish_dataset(finished)
    assert hashes(finished) == before


def test_done_blocks_are_skipped(finished: Path) -> None:
    times = {path: path.stat().st_mtime_ns for path in (finished / "samples.zarr").rglob("*")}
    assert len(run_alone(finished).results) == 0
    assert times == {path: path.stat().st_mtime_ns for path in times}


def test_what_a_finished_data_set_says(finished: Path) -> None:
    dataset = read_dataset(finished)
    samples = read_table(finished / "samples.parquet")
    rejects = read_table(finished / "rejects.parquet")
    assert list(samples.columns) == list(SAMPLE_COLUMNS)
    assert (dataset.num_samples, dataset.num_rejects) == (len(samples), len(rejects)) == (60, 4)
    assert sum(sum(c.values()) for c in dataset.counts.values()) == 60
    assert samples.row.is_monotonic_increasing
    assert samples.key.is_unique
    assert {source["kind"] for source in dataset.sources} == {"table", "volume"}
    assert dataset.views["cube"].voxel_size_nm == (40, 8, 8)
    steps = {row["step"]: row["dropped"] for row in dataset.rules["funnel"]}
    assert steps["image would leave the volume"] == 4
    pictures = {path.name for path in (finished / "qc").iterdir()}
    assert {"positions.png", "neurons.png", "cube-val-excitatory.png"} <= pictures
    text = "\n".join(inspect_lines(finished))
    assert "4 of 4 blocks done" in text
    assert "rejected 4: out_of_bounds 4" in text


def test_inspect_tells_of_a_plan_too(config: Path, tmp_path: Path) -> None:
    plan_dataset(load_job(config), tmp_path / "out")
    text = "\n".join(inspect_lines(tmp_path / "out"))
    assert "0 of 4 blocks done" in text
    assert "predicted:" in text


def test_two_runs_at_once_the_second_is_refused(config: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    plan_dataset(load_job(config), out)
    with (
        sole_writer(out),
        pytest.raises(ValueError, match="out is being written by process"),
    ):
        run_alone(out)
    with shared_writer(out, "0-of-2"):
        with pytest.raises(ValueError, match=r"part 0-of-2 of .*out is being written by process"):
            run_alone(out, Task(index=0, count=2))
        with pytest.raises(ValueError, match="out is being written by process"):
            run_dataset(out, scheduler="threads", num_workers=1, task=None)
        assert len(run_alone(out, Task(index=1, count=2)).results) == 2


def test_the_same_plan_again_does_nothing(config: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first, was_there = plan_dataset(load_job(config), out)
    assert not was_there
    again, was_there = plan_dataset(load_job(config), out)
    assert was_there
    assert again == first


def test_the_order_of_rows_in_a_table_does_not_matter(make_job: Any, tmp_path: Path) -> None:
    job = make_job()
    plans: list[pd.DataFrame] = []
    for name in ("one", "two"):
        plan_dataset(load_job(job.write()), tmp_path / name)
        plans.append(read_table(tmp_path / name / "plan.parquet"))
        job.synapses = job.synapses.sample(frac=1, random_state=1)
    pd.testing.assert_frame_equal(*plans)


def test_the_commands_work(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "out")
    alone = ("--task-index", "0", "--num-tasks", "1")
    for args in (("plan", str(config), "--out", out), ("run", out, *alone), ("finish", out)):
        assert run_command(main, args) == 0
    assert "60 samples, 4 rejected" in capsys.readouterr().out
    assert run_command(main, ("run", out)) == 0
    assert run_command(main, ("inspect", out)) == 0
    said = capsys.readouterr().out
    assert "all 4 blocks were done already" in said
    assert "flagged: none" in said


def test_exit_codes_and_one_line_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(main, ("run", str(tmp_path))) == 1
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert "no such plan; make it with `python -m ingest plan`" in said
    assert run_command(main, ("run", str(tmp_path), "--num-tasks", "2")) == 2
    assert "go together" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        run_command(main, ("run",))
    for name in ("phantom", "plan", "run", "finish", "inspect", "export"):
        with pytest.raises(SystemExit, match="0"):
            run_command(main, (name, "--help"))
        assert "Example: python -m ingest " + name in " ".join(capsys.readouterr().out.split())
