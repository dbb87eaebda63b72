"""A bounded cache of remote shards on the local disk, shared by all processes of a node.

One file a shard: its bytes, then a byte for each part of `PART` bytes that is 1 once the part is
there. Its name is a hash of the set's URL, its manifest's hash and the shard's name, so that no set
gets bytes that another one brought, whatever hashes a manifest claims. A reader that misses parts
fetches them; while it does, it holds a lock on the parts' bytes of this map, which the kernel drops
if the process dies. So ranks and jobs share every part, and nothing has to be cleaned up after a
crash. The lock saves requests, no more: two that fetch the same part write the same bytes, so one
that is stopped holds nobody up for long.
What a power cut may spoil is caught by the samples' checksums: see `forget`.
"""

import errno
import fcntl
import hashlib
import itertools
import math
import os
import threading
import time
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO

from shards.contract.schema import ShardInfo
from shards.storage.cache_folder import (
    POLL_S,
    STALLED_S,
    SUFFIX,
    CacheSpec,
    locked_folder,
    make_folder,
    make_room,
    open_own,
)
from shards.storage.object_store import RemoteStorage
from shards.storage.readahead import ReadAhead
from shards.workers.forks import renew_in_children

PART = 1 << 20
JOINED_PARTS = 8  # fetched in one request when a shard is read ahead
MAX_OPEN = 256
REFUSED_S = 1.0  # how long a shard without room is read past the cache before it is tried again
TOUCH_S = 1.0
STAMPS = itertools.count(1)


class CachedStorage:
    """Remote storage whose shards, once `know`n, are kept in the cache as they are read."""

    is_remote = True

    def __init__(self, remote: RemoteStorage, spec: CacheSpec) -> None:
        self.url, self.can_list = remote.url, remote.can_list
        self._remote, self._spec = remote, spec
        self._known: dict[str, ShardInfo] = {}
        self._manifest_sha256 = ""
        self._open: OrderedDict[str, _CachedFile]
        self._refused: dict[str, float] = {}
        try:
            make_folder(spec)
            with locked_folder(spec):
                pass
        except OSError as error:
            if error.errno != errno.ETIMEDOUT:  # a stalled process: it is read past, and said
                raise ValueError(
                    f"{spec.folder}: cannot cache shards there ({error.strerror}); "
                    "set SYNSHARDS_CACHE_DIR to a folder of your own, or unset it"
                ) from None
        renew_in_children(self)

    def renew(self) -> None:
        """Forget what is open."""
        self._open = OrderedDict()
        self._lock = threading.Lock()
        self._ahead = ReadAhead(self._fetch_ahead)

    def know(self, shards: Sequence[ShardInfo], manifest_sha256: str) -> None:
        """Take shards of the set that is read; from now on they are cached."""
        self._manifest_sha256 = manifest_sha256
        self._known.update({shard.name: shard for shard in shards})

    def read(self, name: str) -> bytes:
        """Return a whole file, from the remote side."""
        return self._remote.read(name)

    def sizes(self, names: Sequence[str]) -> list[int]:
        """Return the files' sizes in bytes, on the remote side."""
        return self._remote.sizes(names)

    def read_into(self, name: str, offset: int, buffer: memoryview) -> int:
        """Fill `buffer` from the cache, fetching what is missing; past it if there is no room."""
        try:
            if (file := self._file(name)) is not None:
                file.fetch(offset, len(buffer))
                file.read_into(offset, buffer)
                return file.stamp
        except OSError as error:
            self._refuse(name, error)
        return self._remote.read_into(name, offset, buffer)

    def expect(self, names: Sequence[str]) -> None:
        """Fetch these shards in the background, in this order, instead of those named before.

        Only as many as fill half of the cache.
        """
        total, fitting = 0, []
        for name in names[: MAX_OPEN // 2]:
            total += self._known[name].bytes
            if total > self._spec.limit_bytes / 2:
                break
            fitting.append(name)
        self._ahead.expect(fitting)

    def forget(self, name: str) -> bool:
        """Drop a shard whose cached bytes proved wrong; tell whether reading it again may help."""
        if (info := self._known.get(name)) is None:
            return False
        with self._lock:  # until the file is gone, or another thread may open it again
            self._open.pop(name, None)
            with locked_folder(self._spec):
                self._path(info).unlink(missing_ok=True)
        return True

    def names(self) -> list[str]:
        """Return the names of all files on the remote side."""
        return self._remote.names()

    def create(self, name: str) -> AbstractContextManager[BinaryIO]:
        """Write to the remote side."""
        return self._remote.create(name)

    def discard_unfinished(self) -> None:
        """Nothing to do: what a killed process left is used."""

    def close(self) -> None:
        """Stop fetching ahead and let go of the files."""
        self._remote.close()
        self._ahead.close()
        with self._lock:
            self._open.clear()

    def _fetch_ahead(self, name: str) -> bool:
        file = self._file(name)
        return file is not None and file.fetch_some()

    def _file(self, name: str) -> "_CachedFile | None":
        """Return the cached file of a shard; None if it is unknown or there is no room now."""
        if (info := self._known.get(name)) is None:
            return None
        with self._lock:
            file = self._open.pop(name, None)
            if file is None or not file.touch():
                file = self._admit(info)
                self._drop_unused()
                if file is None:
                    return None
            self._open[name] = file  # the last one is the one used last
            return file

    def _admit(self, info: ShardInfo) -> "_CachedFile | None":
        """Open the shard's file, after making room for it if it is new."""
        if time.monotonic() < self._refused.get(info.name, 0.0):
            return None
        path, fetch = self._path(info), partial(self._remote.read_into, info.name)
        with locked_folder(self._spec):
            is_new = not os.path.lexists(path)
            if not is_new or make_room(self._spec, _file_bytes(info.bytes)):
                try:
                    return _CachedFile(path, info.bytes, fetch, self._spec)
                except OSError:
                    if is_new:
                        path.unlink(missing_ok=True)
                    raise
        self._refused[info.name] = time.monotonic() + REFUSED_S
        return None

    def _refuse(self, name: str, error: OSError) -> None:
        """Say that the cache failed for a shard, and leave it alone for a while."""
        with self._lock:
            self._open.pop(name, None)
            self._refused[name] = time.monotonic() + REFUSED_S
        warnings.warn(
            f"{self._spec.folder}: cannot cache {name} ({error.strerror or error}); "
            "reading it past the cache",
            RuntimeWarning,
            stacklevel=3,
        )

    def _drop_unused(self) -> None:
        """Close files that have been removed, and the oldest, to keep one more open."""
        gone = {name for name, file in self._open.items() if file.is_gone}
        for name in gone | set(list(self._open)[: max(0, len(self._open) + 1 - MAX_OPEN)]):
            del self._open[name]

    def _path(self, info: ShardInfo) -> Path:
        what = "\n".join([self.url, self._manifest_sha256, info.name, str(info.bytes)])
        return self._spec.folder / f"{hashlib.sha256(what.encode()).hexdigest()}{SUFFIX}"


class _CachedFile:
    """One shard's file, open; closed when the last thread lets go of this object.

    `stamp` is this object's own: what is read through another one may be other bytes.
    """

    def __init__(
        self,
        path: Path,
        size: int,
        fetch: Callable[[int, memoryview], object],
        spec: CacheSpec,
    ) -> None:
        self.path, self._size, self._fetch = path, size, fetch
        self.stamp = next(STAMPS)
        self._here = bytearray(math.ceil(size / PART))  # what is known of the map
        self._claims = threading.Condition()
        self._claimed: set[int] = set()
        self._touched = 0.0
        self._descriptor = open_own(path, spec)
        os.posix_fallocate(self._descriptor, 0, _file_bytes(size))

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            os.close(self._descriptor)

    @property
    def is_gone(self) -> bool:
        """True if the file has been removed from the cache."""
        return os.fstat(self._descriptor).st_nlink == 0

    def touch(self) -> bool:
        """Note that the shard is in use; tell whether it was in the cache `TOUCH_S` ago."""
        if time.monotonic() - self._touched > TOUCH_S:
            if self.is_gone:
                return False
            self._touched = time.monotonic()
            os.utime(self._descriptor)
        return True

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` from the file."""
        done = 0
        while done < len(buffer):
            count = os.preadv(self._descriptor, [buffer[done:]], offset + done)
            if count == 0:
                raise OSError(errno.EIO, "it was cut short", str(self.path))
            done += count

    def fetch(self, offset: int, length: int) -> None:
        """Return once all parts that hold these bytes are there."""
        for part in range(offset // PART, (offset + length - 1) // PART + 1):
            stalled_at = math.inf
            while not self._has(part):
                with self._claims:
                    if part in self._claimed:
                        self._claims.wait()
                        continue
                    self._claimed.add(part)
                stalled_at = min(stalled_at, time.monotonic() + STALLED_S)
                if not self._fetch_claimed(part, part + 1, alone=time.monotonic() > stalled_at):
                    time.sleep(POLL_S)

    def fetch_some(self) -> bool:
        """Fetch some missing parts that nobody is fetching; tell whether there were any."""
        position = 0
        while True:
            with self._claims:
                run = self._missing_run(position)
                self._claimed.update(run)
            if not run:
                return False
            if self._fetch_claimed(run.start, run.stop):
                return True
            position = run.stop

    def _has(self, part: int) -> bool:
        if not self._here[part]:
            self._look()
        return bool(self._here[part])

    def _look(self) -> None:
        """Read the map; what a file cut short lacks of it is missing."""
        count = len(self._here)
        self._here[:] = os.pread(self._descriptor, count, self._size).ljust(count, b"\0")

    def _missing_run(self, position: int) -> range:
        """Return up to `JOINED_PARTS` successive parts, missing and unclaimed, from a position."""
        self._look()
        while (first := self._here.find(b"\0", position)) >= 0:
            stop = first
            while (
                stop < min(first + JOINED_PARTS, len(self._here))
                and not self._here[stop]
                and stop not in self._claimed
            ):
                stop += 1
            if stop > first:
                return range(first, stop)
            position = first + 1
        return range(0)

    def _fetch_claimed(self, first: int, stop: int, *, alone: bool = False) -> bool:
        """Fetch parts this process has claimed; False if another process is at one of them.

        `alone` does not heed other processes.
        """
        try:
            with self._locked_parts(first, stop) as is_locked:
                if not (is_locked or alone):
                    return False
                if not all(self._has(part) for part in range(first, stop)):
                    offset, end = first * PART, min(stop * PART, self._size)
                    data = memoryview(bytearray(end - offset))
                    self._fetch(offset, data)
                    _write(self._descriptor, data, offset)
                    _write(self._descriptor, memoryview(b"\1" * (stop - first)), self._size + first)
        finally:
            with self._claims:
                self._claimed.difference_update(range(first, stop))
                self._claims.notify_all()
        return True

    @contextmanager
    def _locked_parts(self, first: int, stop: int) -> Iterator[bool]:
        """Hold the lock of some parts; yield whether it could be had."""
        count, start = stop - first, self._size + first
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, count, start)
        except (BlockingIOError, PermissionError):  # what POSIX allows for a lock that is held
            yield False
            return
        try:
            yield True
        finally:
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN, count, start)


def _file_bytes(size: int) -> int:
    """Return how many bytes a cached shard takes: its own and its map."""
    return size + math.ceil(size / PART)


def _write(descriptor: int, data: memoryview, offset: int) -> None:
    done = 0
    while done < len(data):
        done += os.pwrite(descriptor, data[done:], offset + done)
