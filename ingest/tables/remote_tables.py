"""Tables on a web server or in an object store, read from start to end or by parts."""

import io
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pyarrow as pa

from ingest.volume.ranges.byte_ranges import Fetcher, open_store
from shards.storage.object_store import head
from shards.storage.patience import Link
from shards.tabular.table_text import open_local
from shards.workers.threads import Pool

BLOCK_BYTES = 8 << 20


def is_remote(path: str) -> bool:
    """Tell whether a table's path is a URL of another machine."""
    return "://" in path and not path.startswith("file://")


def open_source(path: str) -> pa.NativeFile:
    """Open a table's file, here or elsewhere, for pyarrow to read."""
    return pa.PythonFile(RemoteFile(path), mode="r") if is_remote(path) else open_local(path)


def check_table(path: str) -> None:
    """Refuse a table that is not there."""
    if is_remote(path):
        remote_identity(path)
    elif not Path(path.removeprefix("file://")).exists():
        raise ValueError(f"{path}: no such table; correct its path in the config")


def remote_identity(url: str) -> dict[str, str | int]:
    """Return what tells a remote table from another without reading it."""
    folder, _, name = url.rpartition("/")
    link = Link(folder)
    store = open_store(link)
    try:
        found = link.ask(name, lambda: head(store, name))
    except FileNotFoundError:
        raise ValueError(f"{url}: no such table; correct its path in the config") from None
    return {"kind": "table", "path": url, "bytes": found["size"], "etag": found["e_tag"]}


class RemoteFile(io.RawIOBase):
    """A seekable file over byte ranges; the block after the one in use comes in meanwhile."""

    def __init__(self, url: str, block_bytes: int | None = None) -> None:
        folder, _, self._name = url.rpartition("/")
        self._url = url
        self._size = int(remote_identity(url)["bytes"])
        self._fetcher = Fetcher(folder)
        self._pool = Pool(1, "table")
        self._block_bytes = block_bytes or BLOCK_BYTES
        self._blocks: dict[int, Future[memoryview]] = {}
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, start + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` as far as the file goes."""
        target = memoryview(buffer).cast("B")
        done = 0
        while done < len(target) and self._position < self._size:
            block, start = divmod(self._position, self._block_bytes)
            data = self._block(block)[start : start + len(target) - done]
            target[done : done + len(data)] = data
            done += len(data)
            self._position += len(data)
        return done

    def close(self) -> None:
        """Let go of the thread."""
        if not self.closed:
            self._pool.shutdown(wait=False, cancel_futures=True)
        super().close()

    def _block(self, number: int) -> memoryview:
        for wanted in (number, number + 1):
            if wanted not in self._blocks and wanted * self._block_bytes < self._size:
                self._blocks[wanted] = self._pool.submit(self._fetch, wanted)
        for old in self._blocks.keys() - {number, number + 1}:
            self._blocks.pop(old).cancel()
        return self._blocks[number].result()

    def _fetch(self, number: int) -> memoryview:
        start = number * self._block_bytes
        stop = min(start + self._block_bytes, self._size)
        data = self._fetcher.range(self._name, start, stop)
        if data is None:
            raise ValueError(f"{self._url}: was taken away while it was read; start again")
        return data
