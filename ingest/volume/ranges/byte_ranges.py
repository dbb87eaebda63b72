"""Byte ranges of a volume's files, from a disk, a web server or an object store, with retries."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from threading import BoundedSemaphore, Lock
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import unquote, urlsplit

import obstore
from obstore.store import LocalStore

from ingest.volume.ranges.compression import COMPRESSIONS, SUFFIXES, Stored
from shards.storage.object_store import CREDENTIALS, open_remote
from shards.storage.patience import Link, Patience, TruncatedError
from shards.storage.urls import WEB_SCHEMES, public_url

if TYPE_CHECKING:
    from obstore.store import ObjectStore

Answer = TypeVar("Answer", memoryview, Stored)

LOCAL_PATIENCE = Patience(total_s=2.0)


class Fetcher:
    """Reads below one URL, from many threads at once, with up to `concurrency` requests under way.

    Counts in `counts`: `requests` and `bytes` are answered requests and what they carried;
    `retries` is how many failed.
    """

    def __init__(
        self,
        url: str,
        *,
        concurrency: int = 32,
        patience: Patience | None = None,
    ) -> None:
        self.url = public_url(url.removeprefix("precomputed://"))
        self.counts: Counter[str] = Counter()
        self._folder = local_folder(self.url)
        self._link = Link(self.url, patience or (LOCAL_PATIENCE if self._folder else None))
        self._store = open_store(self._link)
        self.concurrency = concurrency
        self._lock = Lock()
        self._under_way = BoundedSemaphore(concurrency)

    def range(self, name: str, start: int, stop: int) -> memoryview | None:
        """Return bytes `start` to `stop` of a file, None where there is no such file."""

        def get() -> memoryview:
            data = memoryview(obstore.get_range(self._store, name, start=start, end=stop))
            if len(data) != stop - start:
                raise TruncatedError(f"{len(data)} bytes came, expected {stop - start}")
            return data

        return self._persist(get, f"{name}, bytes {start} to {stop}")

    def tail(self, name: str, num_bytes: int) -> memoryview | None:
        """Return the last bytes of a file, None where there is no such file."""

        def get() -> memoryview:
            answer = obstore.get(self._store, name, options={"range": {"suffix": num_bytes}})
            data = memoryview(answer.bytes())
            if len(data) != num_bytes:
                raise TruncatedError(f"{len(data)} bytes came, expected {num_bytes}")
            return data

        return self._persist(get, f"{name}, its last {num_bytes} bytes")

    def file(self, name: str) -> Stored | None:
        """Return a whole file and its content encoding; None where it is missing.

        On a disk a suffix stands for the encoding, as CloudVolume writes it: NAME.gz for NAME.
        """
        suffix = self._suffix(name)

        def get() -> Stored:
            answer = obstore.get(self._store, name + suffix)
            data = memoryview(answer.bytes())
            if len(data) != answer.meta["size"]:
                raise TruncatedError(f"{len(data)} bytes came, expected {answer.meta['size']}")
            sent = str(answer.attributes.get("Content-Encoding", ""))
            if sent not in COMPRESSIONS:
                raise ValueError(
                    f"{self.url}/{name}: content encoding {sent!r} cannot be read by byte ranges, "
                    f"only {', '.join(filter(None, COMPRESSIONS))}; set volume.reader to "
                    "cloudvolume in the config"
                )
            return Stored(data, SUFFIXES.get(suffix, sent))

        return self._persist(get, name)

    def close(self) -> None:
        """Give up requests that would be tried again."""
        self._link.close()

    def _persist(self, get: Callable[[], Answer], what: str) -> Answer | None:
        """Call `get` until it answers; None where the store says that nothing is there."""

        def one_of_few() -> Answer:
            with self._under_way:
                return get()

        try:
            answer = self._link.ask(what, one_of_few, self._count_failure)
        except FileNotFoundError:
            self._count(0)
            return None
        self._count(len(answer.data if isinstance(answer, Stored) else answer))
        return answer

    def _suffix(self, name: str) -> str:
        if self._folder is None or (self._folder / name).exists():
            return ""
        return next((s for s in SUFFIXES if (self._folder / f"{name}{s}").exists()), "")

    def _count_failure(self) -> None:
        with self._lock:
            self.counts["retries"] += 1

    def _count(self, num_bytes: int) -> None:
        with self._lock:
            self.counts["requests"] += 1
            self.counts["bytes"] += num_bytes


def open_store(link: Link) -> "ObjectStore":
    """Return the store of a link's folder: a path, `file://`, `http(s)://`, `s3://` or `gs://`."""
    folder = local_folder(link.url)
    return LocalStore(folder) if folder else open_remote(link.url, link)


def local_folder(url: str) -> Path | None:
    """Return the folder that a path or a `file://` URL names; None where another machine has it."""
    scheme, _, path, *_ = urlsplit(url)
    if scheme in WEB_SCHEMES or scheme in CREDENTIALS:
        return None
    if scheme in ("", "file"):
        return Path(unquote(path) if scheme else url).resolve()
    raise ValueError(f"{url}: cannot read {scheme}://; use file, http, https, s3 or gs")
