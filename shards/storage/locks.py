"""One writer at a time for an output: locks that name their holder and die with its process.

    with sole_writer(folder):            # nobody else writes to the folder
    with sole_writer_of_file(path):      # nobody else writes that file
    with shared_writer(folder, "p0"):    # nobody else writes part p0; others write other parts

Who comes second gets a `ValueError` at once:

    runs/a is being written by process 4711 on host node7 (python -m trainer train --out runs/a,
    since 2026-01-31 12:00:00); wait for it, or end it

The lock is `flock` on a file `.lock`, `.lock-PART` or `.NAME.lock`, which holds a line a holder.
The kernel releases it when the process ends, however it ends; a file that a killed process left
behind locks nothing, and the next sole writer takes it over and removes it. `flock` excludes two
calls within one process, other users, and other hosts over NFS (Linux passes it on as a `fcntl`
lock). On a file system without locks a note says so, and nothing is excluded.
"""

import errno
import fcntl
import json
import os
import re
import shlex
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from shards.contract.documents import document, parse_json

NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
SHOWN_COMMAND = 160  # characters
LOOKS, LOOK_SECONDS = 10, 0.02  # at a lock's file, for a holder that is about to name itself
IN_URL = re.compile(r"(?<=://)[^/@\s]*@")


@document
@dataclass(frozen=True, kw_only=True, slots=True)
class Holder:
    """The holder of a lock; `since` is local time."""

    host: str
    pid: int
    command: str
    since: str

    def __str__(self) -> str:
        return f"process {self.pid} on host {self.host} ({self.command}, since {self.since})"

    def may_live(self) -> bool:
        """Return whether the process lives, as far as it can be seen from this host."""
        if self.host != socket.gethostname():
            return True
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except OSError:
            pass  # another user's
        return True


@contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Keep every other writer away from a folder while the context lasts.

    A folder that is not there is made, and removed again if nothing was written to it. If another
    process holds it, a `ValueError` that names that process.
    """
    with _in_folder(folder), _held(folder / ".lock", fcntl.LOCK_EX, what=str(folder)):
        yield


@contextmanager
def sole_writer_of_file(path: Path) -> Iterator[None]:
    """Keep every other writer away from a file, which need not exist, while the context lasts."""
    folder, lock = path.parent, path.with_name(f".{path.name}.lock")
    with _in_folder(folder), _held(lock, fcntl.LOCK_EX, what=str(path)):
        yield


@contextmanager
def shared_writer(folder: Path, part: str) -> Iterator[None]:
    """Share a folder with the writers of its other parts; a sole writer excludes all of them.

    `part` is made of letters, digits, `-` and `_`.
    """
    with (
        _in_folder(folder),
        _held(folder / ".lock", fcntl.LOCK_SH, what=str(folder)),
        _held(folder / f".lock-{part}", fcntl.LOCK_EX, what=f"part {part} of {folder}"),
    ):
        yield


def is_lock(path: Path) -> bool:
    """Return whether a file is a lock, to be left out where a folder's files are listed."""
    name = path.name
    return name == ".lock" or name.startswith(".lock-") or bool(re.fullmatch(r"\..+\.lock", name))


@contextmanager
def _in_folder(folder: Path) -> Iterator[None]:
    made = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        what = "a link to nothing" if folder.is_symlink() and not folder.exists() else "a file"
        raise ValueError(
            f"{folder}: {what} stands in the way, expected a folder; choose another path"
        ) from None
    try:
        yield
    finally:
        if made:
            with suppress(OSError):
                folder.rmdir()  # succeeds where it is empty


@contextmanager
def _held(path: Path, kind: int, *, what: str) -> Iterator[None]:
    descriptor = _acquire(path, kind, what=what)
    try:
        yield
    finally:
        if descriptor in _HELD:  # a forked child does not hold it
            _release(descriptor, path, kind)


def _acquire(path: Path, kind: int, *, what: str) -> int:
    """Return the descriptor of a lock that is held, and that stands at `path`."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o666)
        try:
            _flock(descriptor, kind, what=what)
            if _stands_at(descriptor, path):
                break
        except BlockingIOError:
            os.close(descriptor)
            by = _holder(path) or "another process"
            raise ValueError(f"{what} is being written by {by}; wait for it, or end it") from None
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # its last holder removed it in the meantime
    _HELD.add(descriptor)
    with suppress(OSError):  # a full disk: the lock holds, and names nobody
        if kind == fcntl.LOCK_EX:
            os.truncate(descriptor, 0)
        os.write(descriptor, json.dumps(asdict(_this_process())).encode() + b"\n")
    return descriptor


def _release(descriptor: int, path: Path, kind: int) -> None:
    """Let go; a sole holder removes the file, which others may share."""
    with suppress(OSError):
        if kind == fcntl.LOCK_EX and _stands_at(descriptor, path):
            path.unlink()
    _HELD.discard(descriptor)
    os.close(descriptor)


def _flock(descriptor: int, kind: int, *, what: str) -> None:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        sys.stderr.write(f"note: {what} lies where files cannot be locked; start one writer only\n")


def _stands_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _holder(path: Path) -> Holder | None:
    """Return a living holder of a lock, as its file names it; the last of several."""
    for _ in range(LOOKS):
        with suppress(OSError, ValueError):
            lines = path.read_bytes().splitlines()
            holders = [parse_json(Holder, line, where="", cure="") for line in lines]
            if living := [holder for holder in holders if holder.may_live()]:
                return living[-1]
        time.sleep(LOOK_SECONDS)
    return None


def _this_process() -> Holder:
    executable, *arguments = sys.orig_argv
    words = shlex.join([Path(executable).name, *arguments]).split()
    command = IN_URL.sub("", " ".join(words))
    return Holder(
        host=socket.gethostname(),
        pid=os.getpid(),
        command=command if len(command) <= SHOWN_COMMAND else command[: SHOWN_COMMAND - 3] + "...",
        since=time.strftime("%Y-%m-%d %H:%M:%S"),
    )


_HELD: set[int] = set()


def _close_in_child() -> None:
    """A forked child shares its parent's descriptors: with them it would outlast its lock."""
    for descriptor in _HELD:
        os.close(descriptor)
    _HELD.clear()


os.register_at_fork(after_in_child=_close_in_child)
