"""Byte ranges of a volume's files, from a disk, a web server or an object store, with retries."""

import os
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from threading import BoundedSemaphore, Lock
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import (
    BaseError,
    InvalidPathError,
    PermissionDeniedError,
    UnauthenticatedError,
)
from obstore.store import GCSStore, HTTPStore, LocalStore, S3Store

from shards.urls import public_url, sign_in_cure, sign_in_headers

if TYPE_CHECKING:
    from obstore.store import ClientConfig, ObjectStore, RetryConfig

Answer = TypeVar("Answer")

AWS_CREDENTIALS = {"AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE"}
GOOGLE_CREDENTIALS = {"GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_SERVICE_ACCOUNT"}
BUCKETS: dict[str, tuple[type[S3Store | GCSStore], set[str]]] = {
    "s3": (S3Store, AWS_CREDENTIALS),
    "gs": (GCSStore, GOOGLE_CREDENTIALS),
}
TIMEOUT = timedelta(seconds=60)
FINAL_ERRORS = (PermissionDeniedError, UnauthenticatedError, InvalidPathError)


class TruncatedError(ValueError):
    """Fewer bytes came than were asked for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Retry:
    """How often a failed request is made again, after a random wait of up to `wait_s` · 2ⁿ."""

    attempts: int = 10
    wait_s: float = 0.05
    max_wait_s: float = 10.0

    def wait(self, attempt: int, rng: random.Random) -> float:
        """Return the seconds to wait after attempt number `attempt`, counted from 0."""
        return rng.uniform(0, min(self.max_wait_s, self.wait_s * 2**attempt))


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
        retry: Retry | None = None,
        seed: int | None = None,
    ) -> None:
        self.url = public_url(url)
        self.counts: Counter[str] = Counter()
        self._store = open_store(self.url)
        self.is_local = isinstance(self._store, LocalStore)
        self._retry = retry or Retry()
        self._rng = random.Random(seed)
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

    def file(self, name: str) -> tuple[memoryview, str] | None:
        """Return a whole file and its content encoding ("" for none); None where it is missing."""

        def get() -> tuple[memoryview, str]:
            answer = obstore.get(self._store, name)
            data = memoryview(answer.bytes())
            if len(data) != answer.meta["size"]:
                raise TruncatedError(f"{len(data)} bytes came, expected {answer.meta['size']}")
            return data, str(answer.attributes.get("Content-Encoding", ""))

        return self._persist(get, name)

    def _persist(self, get: Callable[[], Answer], what: str) -> Answer | None:
        """Call `get` until it answers; None where the store says that nothing is there."""
        for attempt in range(self._retry.attempts):
            try:
                with self._under_way:
                    answer = get()
            except FileNotFoundError:
                self._count(0)
                return None
            except FINAL_ERRORS as error:
                raise ValueError(
                    f"{self.url}/{what}: access refused: {first_line(error)}; "
                    + sign_in_cure(self.url)
                ) from None
            except (BaseError, TruncatedError, OSError) as error:
                failure = first_line(error)
                with self._lock:
                    self.counts["retries"] += 1
                    wait = self._retry.wait(attempt, self._rng)
                if attempt + 1 < self._retry.attempts:
                    time.sleep(wait)
            else:
                data = answer[0] if isinstance(answer, tuple) else answer
                assert isinstance(data, memoryview)
                self._count(len(data))
                return answer
        raise ValueError(
            f"{self.url}/{what}: failed {self._retry.attempts} times, last with: {failure}; "
            "check that the store can be reached, then run again: finished blocks are kept"
        )

    def _count(self, num_bytes: int) -> None:
        with self._lock:
            self.counts["requests"] += 1
            self.counts["bytes"] += num_bytes


def open_store(url: str) -> "ObjectStore":
    """Return the store of a folder: a path, `file://`, `http(s)://`, `s3://` or `gs://`.

    S3 and GCS are read anonymously where no variable of the environment names credentials.
    """
    address = public_url(url)
    scheme, host, path, *_ = urlsplit(address.removeprefix("precomputed://"))
    client: ClientConfig = {
        "timeout": TIMEOUT,
        "allow_http": True,
        "default_headers": sign_in_headers(address),
    }
    once: RetryConfig = {"max_retries": 0, "retry_timeout": TIMEOUT}
    if scheme in ("http", "https"):
        return HTTPStore(f"{scheme}://{host}{path}", client_options=client, retry_config=once)
    if scheme in BUCKETS:
        store, credentials = BUCKETS[scheme]
        return store(
            host,
            prefix=path.strip("/"),
            skip_signature=credentials.isdisjoint(os.environ),
            client_options=client,
            retry_config=once,
        )
    if scheme in ("", "file"):
        return LocalStore(Path(unquote(path) if scheme else url).resolve())
    raise ValueError(f"{address}: cannot read {scheme}://; use file, http, https, s3 or gs")


def first_line(error: Exception) -> str:
    """Return what an error says, without the details that obstore puts below it."""
    return str(error).strip().partition("\n")[0]
