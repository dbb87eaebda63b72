"""Pools of threads that hold nobody up after Ctrl-C, though they wait for a server's answer."""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")

LOOK_S = 0.5  # how often a wait looks for Ctrl-C
LEAVING_S = 0.3  # how long threads may clean up after Ctrl-C
_AT_WORK: set[int] = set()  # threads


class Pool(ThreadPoolExecutor):
    """A `ThreadPoolExecutor` that does not wait for its threads while Ctrl-C is being handled."""

    def __init__(self, num_threads: int, name: str) -> None:
        super().__init__(num_threads, thread_name_prefix=name)

    def submit(self, work: Callable[..., T], /, *args: Any, **options: Any) -> Future[T]:
        """Have a thread do the work."""
        return super().submit(_at_work, work, *args, **options)

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
    ) -> Iterator[T]:
        """Return the results in order; see `result_of`."""
        futures = [self.submit(fn, *args) for args in zip(*iterables, strict=False)]
        return map(result_of, futures)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more tasks, and wait for those under way."""
        failing = sys.exc_info()[0] is not None
        super().shutdown(wait and not interrupted(), cancel_futures=cancel_futures or failing)


def result_of(future: Future[T]) -> T:
    """Return a future's result; Ctrl-C ends the wait, also one that comes as the wait begins.

    A signal between Python's last look for one and the operating system's wait does not end that
    wait, so that `future.result()` would sleep through it.
    """
    while not future.done():
        wait([future], timeout=LOOK_S)
    return future.result()


def interrupted() -> bool:
    """Tell whether Ctrl-C is being handled: no time to wait."""
    return isinstance(sys.exc_info()[1], KeyboardInterrupt)


@contextmanager
def at_work() -> Iterator[None]:
    """Note that this thread does work that Ctrl-C may leave undone."""
    _AT_WORK.add(threading.get_ident())
    try:
        yield
    finally:
        _AT_WORK.discard(threading.get_ident())


def end_in_spite_of_threads(code: int) -> None:
    """End the process if threads still wait for answers; the interpreter would wait for them."""
    deadline = time.monotonic() + LEAVING_S
    while _AT_WORK and time.monotonic() < deadline:
        time.sleep(0.01)
    if _AT_WORK:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _at_work(work: Callable[..., T], /, *args: Any, **options: Any) -> T:
    with at_work():
        return work(*args, **options)


os.register_at_fork(after_in_child=_AT_WORK.clear)
