"""Writing so that an error names the place and the cure, and leaves nothing half-written."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CURE = "make room or check the rights there; the same command goes on from the last checkpoint"


@contextmanager
def naming(what: str, *, cure: str = CURE) -> Iterator[None]:
    """Turn an `OSError`, such as a full disk, into a `ValueError` of one line."""
    try:
        yield
    except OSError as error:
        raise ValueError(f"{what} cannot be written ({error.strerror or error}); {cure}") from None


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Yield a new folder inside `folder`, to fill and rename; what is left of it is removed."""
    temporary = folder / f".{os.getpid()}.{os.urandom(4).hex()}.tmp"
    temporary.mkdir(parents=True)
    try:
        yield temporary
    finally:
        if temporary.exists():
            shutil.rmtree(temporary, ignore_errors=True)
