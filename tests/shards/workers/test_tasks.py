"""Tasks on Dask's local schedulers: each ends once, in threads and in processes."""

import os
import signal
import time
from collections.abc import Sequence
from concurrent.futures import BrokenExecutor
from contextlib import closing

import pytest

from shards.workers.tasks import Scheduler, run_tasks


def square(number: int) -> int:
    return number * number


def die_at_two(number: int) -> int:
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


@pytest.mark.parametrize("scheduler", ["threads", "processes"])
@pytest.mark.parametrize("items", [[], [3], list(range(12))])
def test_each_task_ends_once(scheduler: Scheduler, items: Sequence[int]) -> None:
    ended = list(run_tasks(square, items, scheduler=scheduler, num_workers=2))
    assert sorted(ended) == [(place, item * item) for place, item in enumerate(items)]


def test_tasks_begin_in_the_order_of_the_items() -> None:
    ended = list(run_tasks(square, list(range(30)), scheduler="threads", num_workers=1))
    assert [place for place, _ in ended] == list(range(30))


def test_an_error_ends_the_others() -> None:
    begun: list[int] = []

    def fail(number: int) -> int:
        begun.append(number)
        raise ValueError(f"task {number}")

    with pytest.raises(ValueError, match="task 0"):
        list(run_tasks(fail, list(range(50)), scheduler="threads", num_workers=1))
    assert len(begun) < 5


def test_a_closed_generator_begins_no_more_tasks() -> None:
    begun: list[int] = []

    def wait(number: int) -> int:
        begun.append(number)
        time.sleep(0.01)
        return number

    with closing(run_tasks(wait, list(range(500)), scheduler="threads", num_workers=2)) as tasks:
        next(tasks)
    count = len(begun)
    assert count < 50
    time.sleep(0.1)
    assert len(begun) == count


def test_a_killed_process_is_told() -> None:
    with pytest.raises(BrokenExecutor):
        list(run_tasks(die_at_two, list(range(8)), scheduler="processes", num_workers=1))
