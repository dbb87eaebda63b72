"""A kind of file: its base, its edits, and who judges what the project makes of them."""

import io
import random
import signal
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPORTED = (ValueError, OSError, RuntimeError)  # what a command reports in one line
DEFECTS = (RecursionError, NotImplementedError)

ORACLE_S = 5.0  # an independent reader may go around in a circle of pages

Answer = Any
Outcome = tuple[str, str, str]  # verdict, edit, message


@dataclass(frozen=True, kw_only=True)
class Case:
    """An edited input: what was done, which answers are right, and whether it must be read."""

    edit: str
    is_right: Callable[[Answer], bool]
    must_read: bool = False


class Kind(ABC):
    """One kind of file in a folder of its own; `right` is the answer to the base."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.write_base()
        self.right = self.answer()

    @abstractmethod
    def write_base(self) -> None:
        """Write the base input."""

    @abstractmethod
    def edit(self, rng: random.Random) -> Case:
        """Write an edited input in place of the base."""

    @abstractmethod
    def answer(self) -> Answer:
        """Return what the project makes of the input."""

    def same(self, name: str) -> Case:
        """Return the case of an input that means the same as the base."""
        return Case(edit=name, is_right=lambda got: got == self.right, must_read=True)

    def as_read(self, name: str, oracle: Callable[[], Answer]) -> Case:
        """Return the case of damage: right is what an independent reader finds, or the base."""
        try:
            with warnings.catch_warnings(), redirect_stderr(io.StringIO()), within(ORACLE_S):
                warnings.simplefilter("ignore")
                allowed = (self.right, oracle())
        except Exception:  # noqa: BLE001 - whatever the independent reader refuses it with
            allowed = (self.right,)
        return Case(edit=name, is_right=lambda got: got in allowed)


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raise `TimeoutError` in this, the main thread, after some seconds."""

    def expire(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class Judge:
    """Tries edits of one kind, by number."""

    def __init__(self, make: Callable[[Path], Kind], folder: Path, seed: int) -> None:
        self._kind = make(folder)
        self._seed = seed

    def __call__(self, number: int) -> Outcome:
        """Return the verdict on one edit, what it was, and the message or what is wrong."""
        case = self._kind.edit(random.Random(f"{self._seed}:{number}"))
        out = io.StringIO()
        try:
            with warnings.catch_warnings(), redirect_stderr(out), redirect_stdout(out):
                warnings.simplefilter("ignore")
                answer = self._kind.answer()
        except DEFECTS as error:
            return "traceback", case.edit, repr(error)
        except REPORTED as error:
            if not str(error) or "Traceback" in out.getvalue():
                return "traceback", case.edit, repr(error)
            verdict = "refused wrongly" if case.must_read else "refused"
            return verdict, case.edit, str(error)
        except Exception as error:  # noqa: BLE001 - this is what is counted
            return "traceback", case.edit, repr(error)
        if case.is_right(answer):
            return "right", case.edit, ""
        return "silent", case.edit, repr(answer)[:300]
