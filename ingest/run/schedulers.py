"""Runs the blocks of a plan: here in threads or processes, on Slurm, or with a Dask scheduler.

Here, nothing listens on a port. The cluster that is started on Slurm takes encrypted connections
with its own certificate only: that of dask's config where `distributed.comm.tls` has one, else one
made for this run. A scheduler that is there already, at a `tls://` address, is reached with the
certificate of dask's config.
"""

import copy
import shlex
import signal
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import BrokenExecutor
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, get_args

from ingest.dataset import Layout
from ingest.run.block import BlockResult, run_block
from shards.storage.atomic import sha256_of_file
from shards.workers.tasks import Scheduler, run_tasks

RETRIES = 2
LOOPBACK = "127.0.0.1:0"
LOCAL: dict[str, Scheduler] = {name: name for name in get_args(Scheduler)}

Blocks = Generator[tuple[int, BlockResult | BaseException], None, None]


def finished_blocks(root: Path, blocks: Sequence[int], scheduler: str, num_workers: int) -> Blocks:
    """Run blocks, and yield each with its result or error; one that fails is tried again.

    `scheduler` is threads, processes, slurm or the address of a Dask scheduler.
    """
    if (local := LOCAL.get(scheduler)) is not None:
        yield from _here(root, blocks, local, num_workers)
    else:
        yield from _with_dask(root, blocks, scheduler, num_workers)


def finished_here(root: Path, blocks: Sequence[int]) -> Blocks:
    """Run blocks one after the other in this thread; as `finished_blocks`, but tried once."""
    token = _token(root)
    for block in blocks:
        yield block, _attempt(str(root), token, block)


def _here(root: Path, blocks: Sequence[int], scheduler: Scheduler, num_workers: int) -> Blocks:
    left, run = list(blocks), partial(_persist, str(root), _token(root))
    for _ in range(1 + RETRIES):
        tasks = run_tasks(run, left, scheduler=scheduler, num_workers=num_workers)
        ended = set[int]()
        try:
            with closing(tasks):
                for place, outcome in tasks:
                    ended.add(left[place])
                    yield left[place], outcome
        except BrokenExecutor:
            left = [block for block in left if block not in ended]
        else:
            return
    for block in left:
        cause = "its process was killed; if memory ran out, give fewer --workers"
        yield block, RuntimeError(cause)


def _persist(root: str, token: str, block: int) -> BlockResult | BaseException:
    """Run a block, again where it fails; a full or closed disk is not tried again."""
    for _ in range(RETRIES):
        outcome = _attempt(root, token, block)
        if isinstance(outcome, BlockResult | OSError):
            return outcome
    return _attempt(root, token, block)


def _attempt(root: str, token: str, block: int) -> BlockResult | BaseException:
    try:
        return run_block(root, token, block)
    except (ValueError, OSError, RuntimeError) as error:
        return error


def _with_dask(root: Path, blocks: Sequence[int], scheduler: str, num_workers: int) -> Blocks:
    import distributed

    token = _token(root)
    with _client(root, scheduler, num_workers) as client:
        futures = client.map(
            run_block,
            [str(root.resolve())] * len(blocks),
            [token] * len(blocks),
            blocks,
            pure=False,
            retries=RETRIES,
        )
        numbers = {future.key: block for future, block in zip(futures, blocks, strict=True)}
        for future in _untyped(distributed.as_completed)(futures):
            error = future.exception()
            yield numbers[future.key], future.result() if error is None else error
            future.release()


@contextmanager
def _client(root: Path, scheduler: str, num_workers: int) -> Iterator[Any]:
    from distributed import Client

    if scheduler == "slurm":
        with slurm_cluster(root, num_workers) as cluster, _untyped(Client)(cluster) as client:
            yield client
        return
    try:
        client = _untyped(Client)(scheduler, timeout="30s")
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(
            f"--scheduler {scheduler}: no Dask scheduler answers there ({error}); give threads, "
            "processes, slurm or an address like tls://host:8786, whose certificate dask's config "
            "names in distributed.comm.tls"
        ) from None
    with client:
        yield client


def slurm_cluster(root: Path, count: int) -> Any:
    """Return a Dask cluster of `count` Slurm jobs, whose resources dask's jobqueue.yaml gives.

    The jobs get their certificates as files in the data set's folder, which only we can read, and
    which go with the cluster.
    """
    import dask
    from distributed import Security

    ctrl_c = signal.getsignal(signal.SIGINT)
    from dask_jobqueue.slurm import SLURMCluster

    signal.signal(signal.SIGINT, ctrl_c)  # which its import takes for itself

    class QuotedCluster(SLURMCluster):
        """Its jobs' command line holds any path: dask-jobqueue joins the words as they are."""

        def _get_worker_security(self, security: Any) -> Any:
            security = copy.copy(_untyped(super()._get_worker_security)(security))
            for name in ("tls_ca_file", "tls_worker_cert", "tls_worker_key"):
                if (path := getattr(security, name)) is not None:
                    setattr(security, name, shlex.quote(path))
            return security

    has_own = dask.config.get("distributed.comm.tls.ca-file") is not None
    cluster = _untyped(QuotedCluster)(
        security=_untyped(Security if has_own else Security.temporary)(),
        shared_temp_directory=str(root.resolve()),
        scheduler_options={"dashboard_address": LOOPBACK},
    )
    cluster.scale(jobs=count)
    return cluster


def _untyped(call: Any) -> Any:
    return call


def _token(root: Path) -> str:
    return sha256_of_file(Layout(root).plan_json)
