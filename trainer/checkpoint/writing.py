"""Errors of writing that name the place and the cure."""

from collections.abc import Iterator
from contextlib import contextmanager

CURE = "make room or check the rights there; the same command goes on from the last checkpoint"


@contextmanager
def naming(what: str, *, cure: str = CURE) -> Iterator[None]:
    """Turn an `OSError`, such as a full disk, into a `ValueError` of one line."""
    try:
        yield
    except OSError as error:
        raise ValueError(f"{what} cannot be written ({error.strerror or error}); {cure}") from None
