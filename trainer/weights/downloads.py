"""Downloads into torch's hub folder: whole and checked, or not there at all."""

import io
import sys
from collections.abc import Callable
from hashlib import sha256
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import torch

from shards.storage.atomic import atomic_write
from shards.storage.local import open_storage
from shards.storage.urls import sign_in_headers

TIMEOUT_S = 60
PART_BYTES = 1 << 20
MAX_BYTES = 16 << 30
Check = Callable[[bytes], object]  # raises a `ValueError` for bytes that are not to be kept


def cache_folder(url: str) -> Path:
    """Return the folder, below torch's hub folder, for what is fetched from `url`."""
    return Path(torch.hub.get_dir()) / "synshards" / sha256(url.encode()).hexdigest()[:16]


def fetch_to(path: Path, url: str, *, cure: str, check: Check) -> Path:
    """Download a URL to `path` unless the file is there; return the path.

    What is cut off, or fails the check, is not kept.
    """
    if path.is_file():
        return path
    sys.stderr.write(f"downloading {url} to {path}\n")
    try:
        data = _download(url)
        check(data)
        with atomic_write(path) as file:
            file.write(data)
    except (OSError, ValueError, HTTPException) as error:
        raise ValueError(
            f"cannot download {url} ({error}); fetch it elsewhere and put it at {path}, or {cure}"
        ) from None
    return path


def _download(url: str) -> bytes:
    if urlsplit(url).scheme in ("s3", "gs"):
        folder, _, name = url.rpartition("/")
        return open_storage(folder).read(name)
    request = Request(url, headers={"User-Agent": "synshards"})
    for name, value in sign_in_headers(url).items():
        request.add_unredirected_header(name, value)  # for this server alone
    buffer = io.BytesIO()
    with urlopen(request, timeout=TIMEOUT_S) as response:
        length = response.headers.get("Content-Length", "")
        while part := response.read(PART_BYTES):
            buffer.write(part)
            if buffer.tell() > MAX_BYTES:
                raise ValueError(f"more than {MAX_BYTES >> 30} GiB")
    if length.isdigit() and buffer.tell() != int(length):
        raise ValueError(f"cut off after {buffer.tell()} of {length} bytes")
    return buffer.getvalue()
