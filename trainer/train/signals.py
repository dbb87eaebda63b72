"""Asking a run to save and stop: SIGTERM (a scheduler's end) and SIGUSR1 (its warning)."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

REQUEUE = 75  # EX_TEMPFAIL of sysexits.h: stopped on request, the same command goes on
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


@dataclass
class StopRequest:
    """Set by a signal."""

    asked: bool = False


@contextmanager
def listening() -> Iterator[StopRequest]:
    """Yield a request that the signals set while the block runs."""
    request = StopRequest()

    def handle(number: int, frame: FrameType | None) -> None:
        request.asked = True

    before = {number: signal.signal(number, handle) for number in SIGNALS}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
