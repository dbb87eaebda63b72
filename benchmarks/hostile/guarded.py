"""Work in a child process of limited time and memory, so that a hang is one counted outcome."""

import multiprocessing
import resource
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

SECONDS, START_SECONDS = 20.0, 180.0
BYTES = 8 << 30


class Guarded:
    """`make(*arguments)` gives a function in a child; calls go there, one at a time."""

    def __init__(self, make: Callable[..., Callable[[int], Any]], *arguments: Any) -> None:
        self._make, self._arguments = make, arguments
        self._child: Any = None
        self._pipe: Any = None

    def __call__(self, value: int) -> Any:
        """Return the function's result, or "hang" or "crash"; after these a new child is made."""
        if self._child is None:
            self._start()
        self._pipe.send(value)
        try:
            if self._pipe.poll(SECONDS):
                return self._pipe.recv()
            outcome = "hang"
        except (EOFError, ConnectionResetError):
            outcome = "crash"
        self.close()
        return outcome

    def close(self) -> None:
        """End the child."""
        if self._child is not None:
            self._child.kill()
            self._child.join()
            self._child = None

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._child = context.Process(target=_serve, args=(theirs, self._make, self._arguments))
        self._child.start()
        theirs.close()
        if not self._pipe.poll(START_SECONDS) or self._pipe.recv() != "ready":
            raise RuntimeError("the child did not start")


def _serve(pipe: Connection, make: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    function = make(*arguments)
    resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(EOFError, KeyboardInterrupt):
        pipe.send("ready")
        while True:
            pipe.send(function(pipe.recv()))
