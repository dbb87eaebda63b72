"""Fetches shards before they are asked for, in the order in which they will be."""

import threading
from collections.abc import Callable, Sequence

from shards.workers.threads import interrupted

THREADS = 8


class ReadAhead:
    """Threads that call `fetch_some(name)` for the first expected shard until it returns False."""

    def __init__(self, fetch_some: Callable[[str], bool], num_threads: int = THREADS) -> None:
        self._fetch_some = fetch_some
        self._expected: list[str] = []
        self._done: set[str] = set()
        self._closed = False
        self._changed = threading.Condition()
        self._threads = [
            threading.Thread(target=self._work, name=f"shards-ahead-{i}", daemon=True)
            for i in range(num_threads)
        ]
        self._started = False

    def expect(self, names: Sequence[str]) -> None:
        """Work on these shards, in this order, instead of those expected before."""
        with self._changed:
            self._expected = list(names)
            self._done.clear()
            if not self._started:
                self._started = True
                for thread in self._threads:
                    thread.start()
            self._changed.notify_all()

    def close(self) -> None:
        """Stop; takes as long as the requests under way."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            if self._started and not interrupted():
                thread.join()

    def _next(self) -> str | None:
        """Wait for a shard with parts to fetch; None when closed."""
        with self._changed:
            while not self._closed:
                name = next((name for name in self._expected if name not in self._done), None)
                if name is not None:
                    return name
                self._changed.wait()
            return None

    def _work(self) -> None:
        while (name := self._next()) is not None:
            try:
                more = self._fetch_some(name)
            except (ValueError, OSError):
                more = False  # whoever needs the shard meets the same fault and reports it
            if not more:
                with self._changed:
                    self._done.add(name)
