"""Independent tasks on Dask's local schedulers, in threads or processes; no port is opened."""

import multiprocessing
import os
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any, Literal, TypeVar

import dask.base
import dask.callbacks
import dask.delayed

Item = TypeVar("Item")
Result = TypeVar("Result")
Scheduler = Literal["threads", "processes"]

DASK: Any = dask  # its functions have no types


def run_tasks(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    scheduler: Scheduler,
    num_workers: int,
) -> Generator[tuple[int, Result]]:
    """Yield the position of each item and `function` of it, in the order in which they end.

    An exception of a task ends the others that have not begun, and is raised here; so is
    `concurrent.futures.BrokenExecutor` when a process is killed. Close the generator to stop
    early. For processes, `function` and items are pickled.
    """
    if num_workers < 1:
        raise ValueError(f"the number of workers must be 1 or more, got {num_workers}")
    ended: SimpleQueue[tuple[int, Result] | BaseException] = SimpleQueue()
    # Dask takes independent tasks from the last name to the first.
    names = {f"task-{len(items) - number:09d}": number for number in range(len(items))}
    task = DASK.delayed(function, pure=False)
    tasks = [task(item, dask_key_name=name) for item, name in zip(items, names, strict=True)]

    def note(name: str, result: Result, *_: object) -> None:
        ended.put((names[name], result))

    def compute() -> None:
        try:
            with DASK.callbacks.Callback(posttask=note):
                DASK.compute(
                    *tasks, scheduler=scheduler, pool=pool, chunksize=1, optimize_graph=False
                )
        except BaseException as error:  # noqa: BLE001 (raised where results are taken)
            ended.put(error)

    pool = _pool(scheduler, num_workers)
    computing = threading.Thread(target=compute, name="dask")
    computing.start()
    try:
        for _ in items:
            outcome = ended.get()
            if isinstance(outcome, BaseException):
                raise outcome
            yield outcome
    finally:
        pool.shutdown(cancel_futures=True)
        computing.join()


def _pool(scheduler: Scheduler, num_workers: int) -> Executor:
    if scheduler == "threads":
        return ThreadPoolExecutor(num_workers, "task")
    spawn = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(num_workers, mp_context=spawn, initializer=_end_with_parent)


def _end_with_parent() -> None:
    """End this worker process when the one that started it is killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
