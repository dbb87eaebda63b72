"""Storage of a shard set's files. Everything else in `shards` reads and writes through here."""

import hashlib
import io
import os
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, BinaryIO, Protocol
from urllib.parse import unquote, urlsplit

from shards.contract.schema import ShardInfo
from shards.storage.atomic import TEMPORARY_PATTERN, atomic_write
from shards.storage.cache import CachedStorage
from shards.storage.cache_folder import CacheSpec
from shards.storage.locks import sole_writer
from shards.storage.object_store import RemoteStorage, stamp_of
from shards.storage.patience import Patience
from shards.storage.urls import without_secrets
from shards.workers.forks import renew_in_children
from shards.workers.threads import Pool

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

MAX_OPEN_FILES = 256
LOOK_AGAIN_S = 1.0  # how old what is known of an open file's last change may be
LISTING_THREADS = 16
COPY_BYTES, COPY_THREADS = 4 << 20, 8
REMOTE_SCHEMES = ("s3", "gs", "http", "https")


class Storage(Protocol):
    """Files by name below one URL. All methods may be called from many threads at once."""

    url: str
    is_remote: bool
    can_list: bool  # whether `names` works

    def know(self, shards: Sequence[ShardInfo], manifest_sha256: str) -> None:
        """Take the sizes of shards that may be read, and the hash of their set's manifest."""

    def expect(self, names: Sequence[str]) -> None:
        """Take the names of the shards that will be read next, in order."""

    def forget(self, name: str) -> bool:
        """Drop what is kept of a shard that proved wrong; tell whether anything was."""

    def read(self, name: str) -> bytes:
        """Return a whole file. A missing file is a `ValueError` that names it."""

    def sizes(self, names: Sequence[str]) -> list[int]:
        """Return the files' sizes in bytes. A missing file is a `ValueError` that names it."""

    def read_into(self, name: str, offset: int, buffer: memoryview) -> int:
        """Fill `buffer` (flat, of bytes) from `offset`; a file that ends before is an error.

        Return the file's stamp, above 0: another one when the bytes may have become others.
        """

    def names(self) -> list[str]:
        """Return the names of all files, sorted."""

    def create(self, name: str) -> AbstractContextManager[BinaryIO]:
        """Open a file for writing that appears, whole, when the context ends without error."""

    def discard_unfinished(self) -> None:
        """Remove what killed writers left; nobody may be writing here."""

    def close(self) -> None:
        """Let go of open files and connections."""


def open_storage(
    url: str, cache: CacheSpec | None = None, patience: Patience | None = None
) -> Storage:
    """Return the storage of a URL; a remote one goes through the cache if there is one."""
    scheme = urlsplit(url).scheme if "://" in url else ""
    if scheme in ("", "file"):
        return LocalStorage(unquote(urlsplit(url).path) if scheme else url)
    if scheme not in REMOTE_SCHEMES:
        raise ValueError(
            f"{without_secrets(url)}: cannot use {scheme}://; give a path or a URL with file, "
            f"{', '.join(REMOTE_SCHEMES)}"
        )
    remote = RemoteStorage(url, patience)
    return CachedStorage(remote, cache) if cache else remote


def sole_writer_to(storage: Storage) -> AbstractContextManager[None]:
    """Keep other writers away while the context lasts; an object store cannot."""
    return nullcontext() if storage.is_remote else sole_writer(Path(storage.url))


def hash_of(storage: Storage, name: str, *, copy_to: BinaryIO | None = None) -> str:
    """Return the SHA-256 of a file, which is copied to `copy_to` on the way."""
    size, hashed = storage.sizes([name])[0], hashlib.sha256()
    starts = range(0, size, COPY_BYTES)

    def part(start: int) -> bytearray:
        data = bytearray(min(COPY_BYTES, size - start))
        storage.read_into(name, start, memoryview(data))
        return data

    with Pool(COPY_THREADS, "shards-copy") as pool:
        for first in range(0, len(starts), COPY_THREADS):
            for data in pool.map(part, starts[first : first + COPY_THREADS]):
                hashed.update(data)
                if copy_to is not None:
                    copy_to.write(data)
    return hashed.hexdigest()


class HashedFile(io.RawIOBase):
    """A stored file as a stream that hashes all that goes by."""

    def __init__(self, storage: Storage, name: str) -> None:
        super().__init__()
        self._storage, self._name = storage, name
        self.size = storage.sizes([name])[0]
        self._position = 0
        self._sha256 = hashlib.sha256()

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        """Fill `buffer` with the bytes that follow, as far as there are any; return how many."""
        data = memoryview(buffer).cast("B")
        data = data[: min(len(data), self.size - self._position)]
        if data:
            self._storage.read_into(self._name, self._position, data)
        self._position += len(data)
        self._sha256.update(data)
        return len(data)

    def drain(self) -> str:
        """Read the rest and return the hash of all."""
        while self.read(COPY_BYTES):
            pass
        return self._sha256.hexdigest()


class LocalStorage:
    """A folder. Keeps up to `MAX_OPEN_FILES` files open, since opening is slow on network disks."""

    is_remote = False
    can_list = True

    def __init__(self, folder: str) -> None:
        self.url = folder
        self._open: dict[str, _OpenFile]
        renew_in_children(self)

    def renew(self) -> None:
        """Forget what is open."""
        self._lock = Lock()
        self._open = {}

    def know(self, shards: Sequence[ShardInfo], manifest_sha256: str) -> None:
        """Nothing to do: the files are here."""

    def expect(self, names: Sequence[str]) -> None:
        """Nothing to do: the files are here."""

    def forget(self, name: str) -> bool:
        """Nothing is kept besides the files themselves."""
        return False

    def read(self, name: str) -> bytes:
        """Return a whole file."""
        with _naming(self._path(name)), open(self._path(name), "rb") as file:  # noqa: PTH123
            return file.read()

    def sizes(self, names: Sequence[str]) -> list[int]:
        """Return the files' sizes in bytes."""
        with Pool(LISTING_THREADS, "shards-list") as pool:
            return list(pool.map(self._size, names))

    def read_into(self, name: str, offset: int, buffer: memoryview) -> int:
        """Fill `buffer` from `offset`."""
        file = self._open.get(name) or self._opened(name)
        done = os.preadv(file.descriptor, [buffer], offset)
        while done < len(buffer):
            count = os.preadv(file.descriptor, [buffer[done:]], offset + done)
            if count == 0:
                raise ValueError(
                    f"{self._path(name)} ends at byte {offset + done}, before the "
                    f"{len(buffer)} bytes at {offset}: it is truncated; copy it again"
                )
            done += count
        return file.stamp()

    def names(self) -> list[str]:
        """Return the names of all files, sorted; none if there is no such folder."""
        folder = Path(self.url)
        return sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []

    def create(self, name: str) -> AbstractContextManager[BinaryIO]:
        """Open a file for writing that appears, whole, when the context ends without error."""
        return atomic_write(Path(self._path(name)))

    def discard_unfinished(self) -> None:
        """Remove the temporary files that killed writers left."""
        for path in Path(self.url).glob(TEMPORARY_PATTERN):
            path.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the open files, each once its last read has ended."""
        with self._lock:
            self._open.clear()

    def _path(self, name: str) -> str:
        return os.path.join(self.url, name)  # noqa: PTH118 (hot: called for each sample)

    def _size(self, name: str) -> int:
        with _naming(self._path(name)):
            status = os.stat(self._path(name))  # noqa: PTH116
        if not stat.S_ISREG(status.st_mode):
            raise ValueError(f"{self._path(name)} is not a file; pack or copy the shards again")
        return status.st_size

    def _opened(self, name: str) -> "_OpenFile":
        with self._lock:
            if (file := self._open.get(name)) is None:
                with _naming(self._path(name)):
                    file = _OpenFile(os.open(self._path(name), os.O_RDONLY | os.O_CLOEXEC))
                if len(self._open) >= MAX_OPEN_FILES:
                    del self._open[next(iter(self._open))]
                self._open[name] = file
            return file


class _OpenFile:
    """An open file, closed when the last thread lets go of this object."""

    __slots__ = ("_looked", "_stamp", "descriptor")

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._looked = -LOOK_AGAIN_S
        self._stamp = 0

    def __del__(self) -> None:
        os.close(self.descriptor)

    def stamp(self) -> int:
        """Return what changes when the file does, at most `LOOK_AGAIN_S` late.

        Asking the kernel after each small sample would hand the interpreter's lock around.
        """
        now = time.monotonic()
        if now >= self._looked + LOOK_AGAIN_S:
            status = os.fstat(self.descriptor)
            self._stamp = stamp_of(status.st_ino, status.st_mtime_ns)
            self._looked = now
        return self._stamp


@contextmanager
def _naming(path: str) -> Iterator[None]:
    """Turn a file that is missing or may not be read into a `ValueError` that names it."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(
            f"{path}: no such file; give the folder that `shards pack` wrote, or copy the "
            "missing file there again"
        ) from None
    except PermissionError:
        raise ValueError(f"{path}: may not be read; check its permissions") from None
