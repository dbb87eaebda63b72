"""Files behind `s3://`, `gs://`, `http://` and `https://`, through obstore.

Credentials and endpoints come from the places that the clouds' own tools use (for S3:
`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`, roles, …; `AWS_SKIP_SIGNATURE=true` for public buckets).
"""

import random
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, BinaryIO, TypeVar, cast
from urllib.parse import urlsplit

import obstore
import obstore.store
from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError

from shards.schema import ShardInfo
from shards.urls import public_url, sign_in_cure, sign_in_headers

REQUESTS = 16
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Patience:
    """How long a request is tried: waits grow from `first_s` to `longest_s`, in all `total_s`."""

    total_s: float = 120.0
    first_s: float = 0.1
    longest_s: float = 5.0
    read_timeout_s: float = 10.0  # without a byte

    def __post_init__(self) -> None:
        if min(self.total_s, self.first_s, self.longest_s, self.read_timeout_s) <= 0:
            raise ValueError(f"times to wait must be positive, got {self}")


class RemoteStorage:
    """Files below a URL of an object store or a web server."""

    is_remote = True

    def __init__(self, url: str, patience: Patience | None = None) -> None:
        self.url = public_url(url).rstrip("/")
        self._patience = patience or Patience()
        self._scheme = urlsplit(url).scheme
        self._closed = threading.Event()
        options: dict[str, Any] = {
            "connect_timeout": timedelta(seconds=5),
            "read_timeout": timedelta(seconds=self._patience.read_timeout_s),
            "timeout": timedelta(seconds=300),
            "allow_http": True,
            "default_headers": sign_in_headers(self.url),
        }
        try:
            self._store: Any = obstore.store.from_url(
                self.url, client_options=cast(Any, options), retry_config={"max_retries": 0}
            )
        except (BaseError, ValueError) as error:
            raise ValueError(f"{self.url}: cannot be used ({_first_line(error)})") from None

    def read(self, name: str) -> bytes:
        """Return a whole file."""
        return self._try(name, lambda: obstore.get(self._store, name).bytes().to_bytes())

    def sizes(self, names: Sequence[str]) -> list[int]:
        """Return the files' sizes in bytes."""
        if self._scheme not in ("http", "https"):
            listed = self._try("", self._list)
            if missing := next((name for name in names if name not in listed), None):
                raise ValueError(f"{self.url}/{missing}: no such object; copy it there again")
            return [listed[name] for name in names]
        with ThreadPoolExecutor(REQUESTS) as pool:
            return list(pool.map(self._size, names))

    def read_into(self, name: str, offset: int, buffer: memoryview) -> int:
        """Fill `buffer` from `offset` with one ranged request."""
        wanted: Any = {"range": (offset, offset + len(buffer))}

        def get() -> int:
            answer = obstore.get(self._store, name, options=wanted)
            data = answer.bytes()
            if len(data) != len(buffer):
                raise ValueError(
                    f"{self.url}/{name} ends at byte {offset + len(data)}, before the "
                    f"{len(buffer)} bytes at {offset}: it is truncated; copy it again"
                )
            buffer[:] = memoryview(data)
            return stamp_of(answer.meta["e_tag"], answer.meta["last_modified"])

        return self._try(name, get)

    def names(self) -> list[str]:
        """Return the names of all files, sorted; none from a web server, which cannot tell."""
        return [] if self._scheme in ("http", "https") else sorted(self._try("", self._list))

    @contextmanager
    def create(self, name: str) -> Iterator[BinaryIO]:
        """Write to a local temporary file and upload it when the context ends without error."""
        if self._scheme in ("http", "https"):
            raise ValueError(
                f"{self.url}: cannot write to a web server; give an s3:// or gs:// URL"
            )
        with tempfile.TemporaryFile() as file:
            yield cast(BinaryIO, file)

            def put() -> None:
                file.seek(0)
                obstore.put(self._store, name, file)

            self._try(name, put)

    def discard_unfinished(self) -> None:
        """Nothing to do: an object appears whole or not at all."""

    def know(self, shards: Sequence[ShardInfo], manifest_sha256: str) -> None:
        """Nothing to do: nothing is kept."""

    def expect(self, names: Sequence[str]) -> None:
        """Nothing to do: each read asks for what it needs."""

    def forget(self, name: str) -> bool:
        """Nothing is kept."""
        return False

    def close(self) -> None:
        """Give up requests that would be tried again."""
        self._closed.set()

    def _list(self) -> dict[str, int]:
        found = obstore.list_with_delimiter(self._store)["objects"]
        return {str(item["path"]).rsplit("/", 1)[-1]: int(item["size"]) for item in found}

    def _size(self, name: str) -> int:
        return self._try(name, lambda: int(obstore.head(self._store, name)["size"]))

    def _try(self, name: str, call: Callable[[], T]) -> T:
        return with_retries(f"{self.url}/{name}", call, self._patience, self._closed)


def with_retries(what: str, call: Callable[[], T], patience: Patience, stop: threading.Event) -> T:
    """Return `call()`, tried again after errors that may pass, with growing random waits."""
    deadline = time.monotonic() + patience.total_s
    wait = patience.first_s
    while True:
        try:
            return call()
        except FileNotFoundError:
            raise ValueError(f"{what}: no such object; check the URL, or copy it again") from None
        except (PermissionDeniedError, UnauthenticatedError) as error:
            raise ValueError(
                f"{what}: access denied ({_first_line(error)}); {sign_in_cure(what)}"
            ) from None
        except BaseError as error:
            pause = random.uniform(0, wait)
            if _is_final(error) or time.monotonic() + pause > deadline:
                raise ValueError(
                    f"{what}: no answer within {patience.total_s:g} s ({_first_line(error)}); "
                    "check that the endpoint is up and the URL right, then resume"
                ) from None
            if stop.wait(pause):
                raise ValueError(f"{what}: closed while waiting for an answer") from None
            wait = min(2 * wait, patience.longest_s)


def stamp_of(*identity: object) -> int:
    """Return a number above 0, of 32 bits, that differs between what tells two files apart."""
    return hash(identity) % (2**32 - 1) + 1


def _is_final(error: BaseError) -> bool:
    """Tell whether trying again is pointless: a 4xx answer other than timeout and overload."""
    status = re.search(r"status code: (4\d\d)", str(error))
    return status is not None and status[1] not in ("408", "425", "429")


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
