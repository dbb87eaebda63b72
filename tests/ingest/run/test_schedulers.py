"""Schedulers that other users of the machine cannot reach, and workers that are killed."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask
import pytest

from ingest.job.job_file import load_job
from ingest.plan.make import plan_dataset
from ingest.run import schedulers
from ingest.run.block import BlockResult
from ingest.run.blocks import run_dataset
from ingest.run.schedulers import finished_blocks, slurm_cluster
from shards.storage.locks import sole_writer


@pytest.fixture
def planned(make_job: Any, tmp_path: Path) -> Path:
    out = tmp_path / "out"
    plan_dataset(load_job(make_job().write()), out)
    return out


def listening() -> set[str]:
    """Return the inodes of all sockets that listen and that this process or a child holds."""
    listed: set[str] = set()
    for name in ("tcp", "tcp6"):
        for line in Path("/proc/net", name).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A":
                listed.add(f"socket:[{fields[9]}]")
    held: set[str] = set()
    for process in [os.getpid(), *children(os.getpid())]:
        for link in Path(f"/proc/{process}/fd").glob("*"):
            try:
                held.add(str(link.readlink()))
            except OSError:
                continue
    return listed & held


def children(pid: int) -> Iterator[int]:
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, task.read_text().split()):
            yield child
            yield from children(child)


@pytest.mark.parametrize("scheduler", ["threads", "processes"])
def test_nothing_listens_on_a_port(planned: Path, scheduler: str) -> None:
    before, seen, ended = listening(), set[str](), threading.Event()

    def watch() -> None:
        while not ended.is_set():
            seen.update(listening())
            time.sleep(0.01)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        done = run_dataset(planned, scheduler=scheduler, num_workers=2, task=None)
    finally:
        ended.set()
        watcher.join()
    assert len(done.results) == 4
    assert seen <= before


def test_a_killed_worker_costs_no_block(planned: Path) -> None:
    ours = set(children(os.getpid()))
    outcomes, killed = [], 0
    for block, outcome in finished_blocks(planned, range(4), "processes", 1):
        outcomes.append((block, type(outcome)))
        if not killed:
            for child in set(children(os.getpid())) - ours:
                if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                    os.kill(child, signal.SIGKILL)
                    killed += 1
    assert killed == 1
    assert sorted(outcomes) == [(block, BlockResult) for block in range(4)]


@pytest.mark.parametrize(
    ("error", "tries"),
    [(ValueError("bad"), 1 + schedulers.RETRIES), (OSError(28, "full"), 1)],
)
def test_a_failing_block_is_tried_again_but_not_on_a_full_disk(
    planned: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, tries: int
) -> None:
    calls: list[int] = []

    def fail(root: str, token: str, block: int) -> BlockResult:
        calls.append(block)
        raise error

    monkeypatch.setattr(schedulers, "run_block", fail)
    assert list(finished_blocks(planned, [0], "threads", 1)) == [(0, error)]
    assert len(calls) == tries


def test_an_address_is_reached_by_the_certificate_of_dasks_config(
    planned: Path, tmp_path: Path, write_certificate: Callable[[Path], dict[str, str]]
) -> None:
    from distributed import LocalCluster, Security

    names = write_certificate(tmp_path)
    options = {"n_workers": 1, "threads_per_worker": 1, "dashboard_address": "127.0.0.1:0"}
    with (
        dask.config.set(names),
        LocalCluster(  # type: ignore[no-untyped-call]
            processes=False, security=Security(), protocol="tls", host="127.0.0.1", **options
        ) as cluster,
    ):
        address = cluster.scheduler_address
        assert address.startswith("tls://")
        run_dataset(planned, scheduler=address, num_workers=None, task=None)
        with dask.config.set(dict.fromkeys(names)):  # a stranger
            with pytest.raises(ValueError, match=r"no Dask scheduler answers .*distributed.comm.t"):
                list(finished_blocks(planned, [0], address, 1))
            with pytest.raises(ValueError, match="no Dask scheduler answers there"):
                list(finished_blocks(planned, [0], address.replace("tls", "tcp"), 1))


@pytest.fixture
def write_certificate() -> Callable[[Path], dict[str, str]]:
    """Return a function that writes a certificate and returns dask's settings that name it."""
    from distributed import Security

    def write(folder: Path) -> dict[str, str]:
        made: Any = Security.temporary()  # type: ignore[no-untyped-call]
        (folder / "ca.pem").write_text(made.tls_ca_file)
        (folder / "key.pem").write_text(made.tls_client_key)
        tls = {"ca-file": str(folder / "ca.pem")}
        for role in ("client", "scheduler", "worker"):
            tls[f"{role}.cert"] = str(folder / "ca.pem")
            tls[f"{role}.key"] = str(folder / "key.pem")
        return {f"distributed.comm.tls.{name}": value for name, value in tls.items()}

    return write


def test_slurm_workers_are_told_to_use_certificates(planned: Path) -> None:
    jobqueue = {"jobqueue.slurm.cores": 1, "jobqueue.slurm.memory": "1GB"}
    ctrl_c = signal.getsignal(signal.SIGINT)
    with dask.config.set(jobqueue), slurm_cluster(planned, 0) as cluster:
        assert signal.getsignal(signal.SIGINT) is ctrl_c
        assert cluster.scheduler_address.startswith("tls://")
        script = cluster.job_script()
        assert "--tls-ca-file" in script
        assert "--tls-key" in script
        files = list(planned.glob(".dask-jobqueue*"))
        assert files
        assert all(path.stat().st_mode & 0o077 == 0 for path in files)
    del cluster
    assert not list(planned.glob(".dask-jobqueue*"))


@pytest.mark.parametrize("command", ["plan", "run", "finish"])
def test_two_at_once_in_a_folder_the_second_is_told_who_writes(
    planned: Path, command: str, make_job: Any
) -> None:
    from ingest.__main__ import main

    config = str(make_job().write())
    arguments = [config, "--out", str(planned)] if command == "plan" else [str(planned)]
    with sole_writer(planned), pytest.raises(ValueError, match=f"by process {os.getpid()} on host"):
        main([command, *arguments])
