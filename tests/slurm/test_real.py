"""The project's own commands on a real Slurm: killed, drained, preempted, and in one go."""

import hashlib
import json
import subprocess
import sys
from contextlib import chdir
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from shards.storage.locks import is_lock
from slurm.records import read_tasks, slurm_folder
from tests.conftest import run_here

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.usefixtures("warned"),
]
SITE = """\
[resources]
time = "30"
cpus-per-task = 1
[resources.train]
cpus-per-task = 1
"""
MODEL = ("--width", "4", "--crop", "8", "32", "32", "--threads", "1", "--batch-size", "4")


def ours(package: str, *words: str | Path, folder: Path) -> None:
    with chdir(folder):
        run_here(package, *words)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a phantom, a config of many small blocks and of one, and a site."""
    folder = tmp_path_factory.mktemp("a lab")
    size = ("--size", "512", "512", "64", "--synapses", "60", "--neurons", "20")
    ours("ingest", "phantom", "phantom", *size, folder=folder)
    config = yaml.safe_load((folder / "phantom" / "ingest.yaml").read_text())
    config["samples"]["views"] = {"patch": {"size": [32, 32]}, "cube": {"size": [32, 32, 8]}}
    for name, samples_per_block in (("small", 3), ("one_block", 100)):
        config["samples_per_block"] = samples_per_block
        (folder / "phantom" / f"{name}.yaml").write_text(yaml.safe_dump(config))
    (folder / "site.toml").write_text(SITE)
    return folder


@pytest.fixture(scope="module")
def pipeline(cluster: Any, lab: Path) -> Path:
    """The run of a pipeline, from where it is first asked for to the end of this file."""
    words = ("pipeline", "phantom/one_block.yaml", "--run", "runs/all of it")
    folds = ("--tasks", "2", "--limit", "2", "--folds", "3", "--cube", "unet3d_small")
    submit(cluster, lab, *words, *folds, extra=(*MODEL, "--epochs", "1"))
    return lab / "runs" / "all of it"


@pytest.fixture(scope="module")
def local_dataset(lab: Path) -> Path:
    ours("ingest", "plan", "phantom/small.yaml", "--out", "local", folder=lab)
    ours("ingest", "run", "local", folder=lab)
    ours("ingest", "finish", "local", folder=lab)
    return lab / "local"


@pytest.fixture(scope="module")
def shards(lab: Path, local_dataset: Path) -> str:
    ours("shards", "pack", local_dataset, "--view", "cube", "--out", "shards/cube", folder=lab)
    return "shards/cube"


def submit(cluster: Any, lab: Path, *words: str, extra: tuple[str, ...] = ()) -> str:
    own = (*words, "--site", "site.toml")
    result = cluster.slurm("submit", *own, *(("--", *extra) if extra else ()), folder=lab)
    assert result.returncode == 0, result.stderr
    return result.stdout


def slurm_task(cluster: Any, run: Path, task: int) -> str:
    """Return Slurm's name of a task of the chain's first step."""
    job = cluster.statuses(run)[0].step.latest()[task]
    return f"{job.id}_{task - job.start}"


def test_ingest_survives_a_killed_task_and_a_drained_node(
    cluster: Any, lab: Path, local_dataset: Path
) -> None:
    run = lab / "runs" / "ingest"
    ours("ingest", "plan", "phantom/small.yaml", "--out", "by slurm", folder=lab)
    words = ("ingest", "by slurm", "--tasks", "8", "--limit", "2", "--run", "runs/ingest")
    submit(cluster, lab, *words)
    cluster.wait_for(lambda: running(run))
    killed = running(run)[0]
    cluster.call("scancel", "--signal=KILL", "--full", slurm_task(cluster, run, killed))
    cluster.call("scontrol", "update", "NodeName=n2", "State=DRAIN", "Reason=test")
    try:
        cluster.wait_for(lambda: cluster.states(run)["ingest"].count("done") >= 4)
    finally:
        cluster.call("scontrol", "update", "NodeName=n2", "State=RESUME")
    assert cluster.wait(run) == "failed", cluster.describe(run)
    assert cluster.states(run)["ingest"].count("failed") == 1
    assert cluster.states(run)["finish"] == ["blocked"]
    said = submit(cluster, lab, *words, "--resume")
    assert "ingest: 7 done, 0 queued, 1 submitted" in said
    assert cluster.wait(run) == "done", cluster.describe(run)
    assert digests(lab / "by slurm") == digests(local_dataset)


@pytest.mark.usefixtures("pipeline")
def test_ingest_through_dask_workers_in_slurm(
    cluster: Any, lab: Path, local_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("CORES", "1"), ("MEMORY", "1GB"), ("WALLTIME", "00:10:00")):
        monkeypatch.setenv(f"DASK_JOBQUEUE__SLURM__{name}", value)
    ours("ingest", "plan", "phantom/small.yaml", "--out", "by dask", folder=lab)
    # In a process of its own: dask-jobqueue leaves the files of its certificates open.
    words = ("-m", "ingest", "run", "by dask", "--scheduler", "slurm", "--workers", "2")
    subprocess.run((sys.executable, *words), cwd=lab, check=True, capture_output=True)
    ours("ingest", "finish", "by dask", folder=lab)
    assert digests(lab / "by dask") == digests(local_dataset)


def running(run: Path) -> list[int]:
    records = read_tasks(slurm_folder(run), "ingest")
    return [task for task, record in records.items() if record.state == "running"]


def digests(dataset: Path) -> dict[str, str]:
    """Return the hash of every file; locks are of the way, not of the result."""
    return {
        str(path.relative_to(dataset)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(dataset.rglob("*"))
        if path.is_file() and not is_lock(path)
    }


def test_training_preempted_twice_ends_with_the_same_weights(
    cluster: Any, lab: Path, shards: str
) -> None:
    words = (*MODEL, "--epochs", "20", "--log-steps", "1", "--memory-format", "contiguous")
    ours("trainer", "unet3d_small", "--data", shards, "--out", "unbroken", *words, folder=lab)
    run = lab / "runs" / "train"
    submit(
        cluster, lab, "train", "unet3d_small", "--data", shards, "--run", "runs/train", extra=words
    )
    preempted = run / "unet3d_small"
    log = slurm_folder(run) / "logs" / "train-0" / "0.log"
    for times in range(2):  # a task that is only ending cannot be put back
        cluster.wait_for(lambda: train_steps(preempted) >= 4)
        cluster.wait_for(lambda n=times: log.read_text().count("continuing") == n)
        cluster.call("scontrol", "requeue", slurm_task(cluster, run, 0))
    assert cluster.wait(run) == "done", cluster.describe(run)
    assert log.read_text().count("DUE TO JOB REQUEUE") >= 2
    assert weights(preempted) == weights(lab / "unbroken")


def train_steps(run: Path) -> int:
    path = run / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return max((row["step"] for row in rows if row["kind"] == "train"), default=0)


def weights(run: Path) -> dict[str, str]:
    found = digests(run / "checkpoints")
    return {name: found[name] for name in found if name.endswith("model.safetensors")}


def test_two_nodes_train_as_two_ranks(cluster: Any, lab: Path, shards: str) -> None:
    run = lab / "runs" / "ranks"
    words = ("--data", shards, "--run", "runs/ranks", "--option", "train.nodes=2")
    submit(cluster, lab, "train", "unet3d_small", *words, extra=(*MODEL, "--epochs", "1"))
    assert cluster.wait(run) == "done", cluster.describe(run)
    log = (slurm_folder(run) / "logs" / "train-0" / "0.log").read_text()
    assert "2 ranks" in log


def test_pipeline_cross_validates_from_one_command(cluster: Any, pipeline: Path) -> None:
    """Two ingest tasks for the one block, three folds, and a report on every sample."""
    assert cluster.wait(pipeline) == "done", cluster.describe(pipeline)
    assert {name: len(tasks) for name, tasks in cluster.states(pipeline).items()} == {
        **dict.fromkeys(("plan", "finish", "pack", "eval"), 1),
        **dict.fromkeys(("train", "predict"), 3),
        "ingest": 2,
    }
    report = pipeline / "report" / "unet3d_small"
    assert (report / "report.html").stat().st_size > 1000
    samples = pd.read_parquet(pipeline / "dataset" / "samples.parquet")
    pooled = pd.read_parquet(report / "pooled.parquet")
    assert sorted(pooled.synapse_id) == sorted(samples.synapse_id)


def test_a_task_warned_of_its_limit_is_queued_again(cluster: Any, warned: Any) -> None:
    assert cluster.wait(warned.run) == "done", cluster.describe(warned.run)
    assert (warned.workdir / "log").read_text().split() == ["start", "saved", "start", "end"]
