"""Pools of threads that hold nobody up after Ctrl-C, though they wait for a server's answer."""

import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

PREFIX = "shards-"
LEAVING_S = 0.3  # how long threads may clean up after Ctrl-C


class Pool(ThreadPoolExecutor):
    """A `ThreadPoolExecutor` that does not wait for its threads while Ctrl-C is being handled."""

    def __init__(self, num_threads: int, name: str) -> None:
        super().__init__(num_threads, thread_name_prefix=PREFIX + name)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more tasks, and wait for those under way."""
        failing = sys.exc_info()[0] is not None
        super().shutdown(wait and not interrupted(), cancel_futures=cancel_futures or failing)


def interrupted() -> bool:
    """Whether Ctrl-C is being handled: no time to wait."""
    return isinstance(sys.exc_info()[1], KeyboardInterrupt)


def end_in_spite_of_threads(code: int) -> None:
    """End the process if threads still wait for answers; the interpreter would wait for them."""
    waiting = [thread for thread in threading.enumerate() if thread.name.startswith(PREFIX)]
    for thread in waiting:
        thread.join(LEAVING_S / len(waiting))
    if any(thread.is_alive() for thread in waiting):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
