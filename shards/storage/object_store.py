"""Files behind `s3://`, `gs://`, `http://` and `https://`, through obstore.

Endpoints and credentials come from the environment (`AWS_ENDPOINT_URL`, `AWS_ACCESS_KEY_ID`, …).
Where it names no credentials, a bucket is read anonymously, which is said on standard error;
`AWS_SKIP_SIGNATURE=false` and `GOOGLE_SKIP_SIGNATURE=false` sign with the role of the machine.
"""

import os
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar, cast
from urllib.parse import urlsplit

import obstore
import obstore.store
from obstore.exceptions import BaseError

from shards.contract.schema import ShardInfo
from shards.storage.causes import cause_of, status_of
from shards.storage.patience import Link, Patience
from shards.storage.urls import WEB_SCHEMES, public_url
from shards.workers.threads import Pool

if TYPE_CHECKING:
    from obstore.store import ObjectStore

REQUESTS = 16
MAX_WHOLE_BYTES = 1 << 30  # of a manifest or an index
NO_HEAD = ("405", "501")  # what servers say that answer GET alone
# Variables of the environment that name credentials, or say whether requests are signed.
CREDENTIALS = {
    "s3": (
        "AWS_ACCESS_KEY_ID",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        "AWS_SKIP_SIGNATURE",
    ),
    "gs": (
        "GOOGLE_APPLICATION_CREDENTIALS",
        "GOOGLE_SERVICE_ACCOUNT",
        "GOOGLE_SERVICE_ACCOUNT_PATH",
        "GOOGLE_SERVICE_ACCOUNT_KEY",
        "GOOGLE_SKIP_SIGNATURE",
    ),
}
GCLOUD_LOGIN = ".config/gcloud/application_default_credentials.json"  # in the home folder
T = TypeVar("T")


class RemoteStorage:
    """Files below a URL of an object store or a web server."""

    is_remote = True

    def __init__(self, url: str, patience: Patience | None = None) -> None:
        self.url = public_url(url).rstrip("/")
        self._link = Link(self.url, patience)
        self.can_list = urlsplit(self.url).scheme not in WEB_SCHEMES
        try:
            self._store: Any = open_remote(self.url, self._link)
        except (BaseError, ValueError) as error:
            raise ValueError(f"{self.url}: cannot be used ({cause_of(error)})") from None

    def read(self, name: str) -> bytes:
        """Return a whole file."""

        def get() -> tuple[bytes, str]:
            answer = obstore.get(self._store, name)
            if answer.meta["size"] > MAX_WHOLE_BYTES:
                raise ValueError(_too_large(f"{self.url}/{name}"))
            return answer.bytes().to_bytes(), str(answer.attributes.get("Content-Encoding", ""))

        return decompressed(*self._try(name, get), where=f"{self.url}/{name}")

    def sizes(self, names: Sequence[str]) -> list[int]:
        """Return the files' sizes in bytes."""
        if self.can_list:
            listed = self._try("", self._list)
            if missing := next((name for name in names if name not in listed), None):
                raise ValueError(f"{self.url}/{missing}: no such object; copy it there again")
            return [listed[name] for name in names]
        with Pool(REQUESTS, "shards-list") as pool:
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
        """Return the names of all files, sorted; a web server cannot tell."""
        self._refuse_web()
        return sorted(self._try("", self._list))

    @contextmanager
    def create(self, name: str) -> Iterator[BinaryIO]:
        """Write to a local temporary file and upload it when the context ends without error."""
        self._refuse_web()
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
        self._link.close()

    def _refuse_web(self) -> None:
        if not self.can_list:
            raise ValueError(
                f"{self.url}: a web server neither lists its files nor takes new ones; work in "
                "the folder itself, or give an s3:// or gs:// URL"
            )

    def _list(self) -> dict[str, int]:
        found = obstore.list_with_delimiter(self._store)["objects"]
        return {str(item["path"]).rsplit("/", 1)[-1]: int(item["size"]) for item in found}

    def _size(self, name: str) -> int:
        return self._try(name, lambda: int(head(self._store, name)["size"]))

    def _try(self, name: str, call: Callable[[], T]) -> T:
        try:
            return self._link.ask(name, call)
        except FileNotFoundError:
            raise ValueError(
                f"{self.url}/{name}: no such object; check the URL, or copy it again"
            ) from None


def open_remote(url: str, link: Link) -> "ObjectStore":
    """Return obstore's store of a URL; `link` alone tries requests again."""
    options: Any = {"client_options": link.client_options(), "retry_config": {"max_retries": 0}}
    scheme, bucket, *_ = urlsplit(url)
    if scheme in CREDENTIALS and not has_credentials(scheme):
        say_anonymous(f"{scheme}://{bucket}")
        options["skip_signature"] = True
    return obstore.store.from_url(url, **options)


def has_credentials(scheme: str) -> bool:
    """Tell whether the environment, or a login of gcloud, settles how requests are signed."""
    if any(name in os.environ for name in CREDENTIALS[scheme]):
        return True
    return scheme == "gs" and (Path.home() / GCLOUD_LOGIN).exists()


@cache
def say_anonymous(bucket: str) -> None:
    """Say, once per process, that requests to a bucket are not signed."""
    variables = CREDENTIALS[urlsplit(bucket).scheme]
    sys.stderr.write(
        f"{bucket}: read anonymously, as no credentials are set; for a private bucket set "
        f"{variables[0]}, or {variables[-1]}=false to sign with this machine's role\n"
    )


def head(store: Any, name: str) -> Any:
    """Return what obstore's `head` does, also of a server that answers GET alone."""
    try:
        return obstore.head(store, name)
    except (FileNotFoundError, BaseError) as error:
        if status_of(error) not in NO_HEAD:
            raise
    first_byte: Any = {"range": (0, 1)}
    return obstore.get(store, name, options=first_byte).meta


def decompressed(data: bytes, encoding: str, *, where: str) -> bytes:
    """Return a file's bytes without the `Content-Encoding` that a server put on it."""
    if encoding in ("", "identity"):
        return data
    if encoding != "gzip":
        raise ValueError(
            f"{where}: came with Content-Encoding {encoding}, which is not read; let the server "
            "send the files as they are"
        )
    inflater = zlib.decompressobj(wbits=31)
    try:
        plain = inflater.decompress(data, MAX_WHOLE_BYTES)
    except zlib.error:
        plain = b""
    if inflater.unconsumed_tail:
        raise ValueError(_too_large(where))
    if not inflater.eof:
        raise ValueError(
            f"{where}: came as damaged gzip; let the server send the files as they are"
        )
    return plain


def _too_large(where: str) -> str:
    return f"{where}: more than the {MAX_WHOLE_BYTES} bytes that a manifest or index may have"


def stamp_of(*identity: object) -> int:
    """Return a number above 0, of 32 bits, that differs between what tells two files apart."""
    return hash(identity) % (2**32 - 1) + 1
