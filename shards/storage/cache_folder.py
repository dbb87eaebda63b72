"""The folder of the shard cache: whose it is, how much fits, one lock over all processes of a node.

It must be this user's and writable by nobody else; files in it that are links, or another user's,
are not touched. With `shared`, the users of the folder's group trust each other.
"""

import errno
import fcntl
import math
import os
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

POLL_S = 0.005
STALLED_S = 30.0  # how long another process's lock is heeded
SUFFIX, LOCK = ".cache", "lock"


@dataclass(frozen=True, kw_only=True, slots=True)
class CacheSpec:
    """Folder of the cache of remote shards, its size limit, and how long a used one is safe.

    A shard read within the last `grace_s` seconds by any process is not removed to make room.
    `shared`: the folder is for all users of its group, who trust each other.
    """

    folder: Path
    limit_bytes: int
    grace_s: float = 20.0
    shared: bool = False

    @property
    def file_mode(self) -> int:
        """The permissions of files in the folder."""
        return 0o660 if self.shared else 0o600


def cache_from_environment(environment: Mapping[str, str]) -> CacheSpec | None:
    """Return the cache that `SYNSHARDS_CACHE_DIR` and `SYNSHARDS_CACHE_GB` (default 100) name.

    `SYNSHARDS_CACHE_SHARED=1`: the folder is shared by its group.
    """
    if not (folder := environment.get("SYNSHARDS_CACHE_DIR")):
        return None
    text = environment.get("SYNSHARDS_CACHE_GB", "100")
    try:
        gigabytes = float(text)
    except ValueError:
        gigabytes = math.nan
    if not 0 < gigabytes < math.inf:
        raise ValueError(
            f"SYNSHARDS_CACHE_GB must be a number of gigabytes above 0, got {text!r}; to read "
            "without a cache, unset SYNSHARDS_CACHE_DIR"
        )
    if (shared := environment.get("SYNSHARDS_CACHE_SHARED", "0")) not in ("0", "1"):
        raise ValueError(f"SYNSHARDS_CACHE_SHARED must be 0 or 1, got {shared!r}")
    return CacheSpec(folder=Path(folder), limit_bytes=int(gigabytes * 1e9), shared=shared == "1")


def make_room(spec: CacheSpec, needed: int) -> bool:
    """Remove the shards used longest ago until `needed` bytes fit; tell whether they do."""
    files = [(path, path.lstat()) for path in spec.folder.glob(f"*{SUFFIX}")]
    total = sum(status.st_size for _, status in files)
    for path, status in sorted(files, key=lambda file: file[1].st_mtime):
        if total + needed <= spec.limit_bytes:
            break
        if status.st_mtime > time.time() - spec.grace_s:
            return False
        path.unlink(missing_ok=True)
        total -= status.st_size
    return total + needed <= spec.limit_bytes


def make_folder(spec: CacheSpec) -> None:
    """Make the folder, or refuse one in which others could put files."""
    spec.folder.mkdir(mode=0o770 if spec.shared else 0o700, parents=True, exist_ok=True)
    status = spec.folder.stat()
    foreign = status.st_uid != os.geteuid() and not spec.shared
    open_to_others = stat.S_IMODE(status.st_mode) & (0o002 if spec.shared else 0o022)
    if foreign or open_to_others:
        raise ValueError(
            f"{spec.folder}: cannot cache shards there, other users could change them "
            f"({'it is not yours' if foreign else f'mode {stat.S_IMODE(status.st_mode):o}'}); set "
            "SYNSHARDS_CACHE_DIR to a folder of your own with mode 700, or "
            "SYNSHARDS_CACHE_SHARED=1 for one of a group whose users trust each other"
        )


def open_own(path: Path, spec: CacheSpec) -> int:
    """Open a file of the cache, made if need be; one that is a link or another user's is not."""
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    descriptor = os.open(path, flags, spec.file_mode)
    status = os.fstat(descriptor)
    own = status.st_uid == os.geteuid()
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1 or not (own or spec.shared):
        os.close(descriptor)
        raise OSError(errno.EPERM, "not a file of this user's own", str(path))
    if own and stat.S_IMODE(status.st_mode) != spec.file_mode:
        os.fchmod(descriptor, spec.file_mode)
    return descriptor


@contextmanager
def locked_folder(spec: CacheSpec) -> Iterator[None]:
    """Hold a lock that all processes of the node share; the kernel drops it if this one dies."""
    stalled_at = time.monotonic() + STALLED_S
    descriptor = open_own(spec.folder / LOCK, spec)
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > stalled_at:
                    raise OSError(errno.ETIMEDOUT, "another process keeps it locked") from None
                time.sleep(POLL_S)
        yield
    finally:
        os.close(descriptor)
