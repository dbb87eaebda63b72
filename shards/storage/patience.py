"""Requests to another machine: tried again while that may help, and given up with the true cause.

Waiting is said on standard error after `SAID_AFTER_S`. Ctrl-C ends a wait of the main thread at
once.
"""

import os
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from obstore.exceptions import BaseError

from shards.storage.causes import cause_of, final_cause, is_missing
from shards.storage.urls import sign_in_headers
from shards.workers.threads import at_work, result_of

if TYPE_CHECKING:
    from obstore.store import ClientConfig

T = TypeVar("T")

SAID_AFTER_S, SAID_EVERY_S = 5.0, 30.0
TRUNCATED_ATTEMPTS = 4
_FORKS = {"used": False, "forked": False}


class TruncatedError(ValueError):
    """Fewer bytes came than were asked for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Patience:
    """Limits on retries: waits grow from `first_s` to `longest_s`, in all `total_s`."""

    total_s: float = 120.0
    first_s: float = 0.1
    longest_s: float = 5.0
    read_timeout_s: float = 10.0  # without a byte

    def __post_init__(self) -> None:
        if min(self.total_s, self.first_s, self.longest_s, self.read_timeout_s) <= 0:
            raise ValueError(f"times to wait must be positive, got {self}")


class Link:
    """The requests to one place, from many threads."""

    def __init__(self, url: str, patience: Patience | None = None) -> None:
        self.url = url
        self.patience = patience or Patience()
        self._closed = threading.Event()
        self._answered = False
        self._cause = "no answer yet"
        self._said_at = -SAID_EVERY_S

    def client_options(self) -> "ClientConfig":
        """Return how obstore connects to the place."""
        return {
            "connect_timeout": timedelta(seconds=5),
            "read_timeout": timedelta(seconds=self.patience.read_timeout_s),
            "timeout": timedelta(seconds=300),
            "allow_http": True,
            "default_headers": sign_in_headers(self.url),
        }

    def ask(
        self, name: str, call: Callable[[], T], on_failure: Callable[[], None] = lambda: None
    ) -> T:
        """Return `call()`, tried again after errors that may pass, with growing random waits.

        A file that is not there is a `FileNotFoundError`; whatever else remains is a `ValueError`
        that names the file, the cause and the cure.
        """
        _check_fork(self.url)
        what, wait, attempt = f"{self.url}/{name}".rstrip("/"), self.patience.first_s, 0
        deadline = time.monotonic() + self.patience.total_s
        with self._saying_slow(what):
            while True:
                try:
                    answer = _interruptible(call)
                except (BaseError, TruncatedError, OSError) as error:
                    self._raise_final(what, error, attempt)
                    pause = random.uniform(0, wait)
                    if time.monotonic() + pause > deadline:
                        raise ValueError(
                            f"{what}: no answer within {self.patience.total_s:g} s "
                            f"({cause_of(error)}); check that the server is up and the URL right, "
                            "then run the same command again: it continues"
                        ) from None
                    on_failure()
                    self._cause = cause_of(error)
                    if time.monotonic() > deadline - self.patience.total_s + SAID_AFTER_S:
                        self._say(what)
                else:
                    self._answered = True
                    return answer
                if self._closed.wait(pause):
                    raise ValueError(f"{what}: closed while waiting for an answer")
                wait, attempt = min(2 * wait, self.patience.longest_s), attempt + 1

    def close(self) -> None:
        """Give up requests that would be tried again."""
        self._closed.set()

    def _raise_final(self, what: str, error: Exception, attempt: int) -> None:
        """Raise what trying again does not mend."""
        if is_missing(error):
            self._answered = True
            raise FileNotFoundError(what) from None
        if isinstance(error, TruncatedError) and attempt + 1 == TRUNCATED_ATTEMPTS:
            raise ValueError(
                f"{what}: {error}, {TRUNCATED_ATTEMPTS} times: the file there is truncated; copy "
                "it again"
            ) from None
        if (cause := final_cause(error, self.url, answered=self._answered)) is not None:
            raise ValueError(f"{what}: {cause}") from None

    @contextmanager
    def _saying_slow(self, what: str) -> Iterator[None]:
        """Say that the first answer of a place keeps us waiting, also where no error does."""
        if self._answered:
            yield
            return
        say = threading.Timer(SAID_AFTER_S, self._say, (what,))
        say.daemon = True
        say.start()
        try:
            yield
        finally:
            say.cancel()

    def _say(self, what: str) -> None:
        now = time.monotonic()
        if now > self._said_at + SAID_EVERY_S:
            self._said_at = now
            sys.stderr.write(
                f"waiting for {what}: {self._cause}; trying for up to {self.patience.total_s:g} s\n"
            )


def _interruptible(call: Callable[[], T]) -> T:
    """Return `call()`; in the main thread Ctrl-C ends the wait for it, wherever it hangs."""
    if threading.current_thread() is not threading.main_thread():
        return call()
    future: Future[T] = Future()

    def work() -> None:
        try:
            with at_work():
                answer = call()
            future.set_result(answer)
        except BaseException as error:  # noqa: BLE001 (raised again where the result is taken)
            future.set_exception(error)

    threading.Thread(target=work, daemon=True, name="shards-request").start()
    return result_of(future)


def _check_fork(url: str) -> None:
    if _FORKS["forked"]:
        raise ValueError(
            f"{url}: this process was forked from one that has read from a server, and cannot; "
            "start processes with `spawn` (DataLoader: multiprocessing_context='spawn'), or use "
            "none: a Stream reads with threads"
        )
    _FORKS["used"] = True


def _after_fork() -> None:
    _FORKS["forked"] = _FORKS["used"]


os.register_at_fork(after_in_child=_after_fork)
