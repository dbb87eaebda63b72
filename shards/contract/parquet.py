"""Parquet files whose bits are checked when they are read.

A file that is read whole has its SHA-256 in the document that is written after it; one that is
read by row group has a SHA-256 per part there. A file that stands for itself carries its own, the
seal: a block's record in its footer, where the seal must be; a predictions file between the last
row group and the footer, where no reader of parquet looks:

    synshards sha256 9f86d081...

A tool that writes such a table again leaves that out, and the file is read unchecked as those of
other tools are.
"""

import hashlib
import io
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

SEAL_KEY = "content_sha256"
BLANK = b"0" * 64
# In the footer, which is Thrift's compact form: a field header and a length between key and value.
SEAL_PATTERN = re.compile(SEAL_KEY.encode() + rb"..([0-9a-f]{64})", re.DOTALL)
HIDDEN_SEAL = b"synshards sha256 "
HIDDEN_PATTERN = re.compile(HIDDEN_SEAL + b"([0-9a-f]{64})")


def read_parquet(path: Path, sha256: str | None, *, cure: str) -> pa.Table:
    """Return a parquet file as a table; one that is missing, damaged or altered is a `ValueError`.

    `sha256` is that of the file, None where it is not known.
    """
    data = _bytes(path, cure=cure)
    if sha256 is not None:
        _compare(hashlib.sha256(data).hexdigest(), sha256, where=str(path), cure=cure)
    return _parsed(path, data, cure=cure)


def sealed(data: bytes) -> bytes:
    """Return a parquet file with a blank seal (see `blank_seal`) with its SHA-256 put there."""
    start, stop = _seal_place(data)
    digest = hashlib.sha256(data).hexdigest().encode()
    return data[:start] + digest + data[stop:]


def blank_seal() -> dict[str, str]:
    """Return the key and value that a parquet file to be sealed has in its footer."""
    return {SEAL_KEY: BLANK.decode()}


def read_sealed(path: Path, *, required: bool, cure: str) -> pa.Table:
    """Return a sealed parquet file as a table; as `read_parquet`.

    One without a seal is read as it is unless it is `required`.
    """
    data = _bytes(path, cure=cure)
    if SEAL_PATTERN.search(data) is not None:
        start, stop = _seal_place(data)
        digest = hashlib.sha256(data[:start] + BLANK + data[stop:]).hexdigest()
        _compare(digest, data[start:stop].decode(), where=str(path), cure=cure)
    elif required:
        raise ValueError(f"{path}: damaged (it carries no SHA-256); {cure}")
    return _parsed(path, data, cure=cure)


def with_hidden_seal(data: bytes) -> bytes:
    """Return a parquet file with the SHA-256 of its bytes put before its footer."""
    start, _ = _footer(io.BytesIO(data))
    digest = hashlib.sha256(data).hexdigest().encode()
    return data[:start] + HIDDEN_SEAL + digest + data[start:]


def check_hidden_seal(data: bytes, *, where: str, cure: str) -> None:
    """Refuse a parquet file whose hidden seal does not fit; one without a seal passes."""
    for match in HIDDEN_PATTERN.finditer(data):
        digest = hashlib.sha256(memoryview(data)[: match.start()])
        digest.update(memoryview(data)[match.end() :])
        if digest.hexdigest().encode() == match[1]:
            return
    if HIDDEN_SEAL in data:
        raise _altered(where, cure=cure)


def part_hashes(path: Path) -> tuple[str, ...]:
    """Return the SHA-256 of a parquet file's parts: of its footer, then of its row groups."""
    with path.open("rb") as file:
        footer = _footer(file)
        return tuple(_sha256(file, part) for part in (footer, *_row_groups(file, footer)))


def read_row_group(path: Path, group: int, hashes: Sequence[str], *, cure: str) -> pa.Table:
    """Return one row group of a parquet file, checked by the file's `part_hashes`.

    Errors are those of `read_parquet`. Without hashes it is read as it is.
    """
    try:
        with path.open("rb") as file:
            if hashes:
                _check_parts(file, group, hashes, where=str(path), cure=cure)
            return pq.ParquetFile(file).read_row_group(group)
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, error, cure=cure) from None


Part = tuple[int, int]  # the first byte, and the one behind the last


def _check_parts(
    file: BinaryIO, group: int, hashes: Sequence[str], *, where: str, cure: str
) -> None:
    footer = _footer(file)
    _compare(_sha256(file, footer), hashes[0], where=where, cure=cure)
    part = _row_groups(file, footer)[group]
    _compare(_sha256(file, part), hashes[1 + group], where=where, cure=cure)


def _footer(file: BinaryIO) -> Part:
    """Return where the footer is, from its length in the last 8 bytes; it may be damaged."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 8))
    return max(0, size - 8 - int.from_bytes(file.read(4), "little")), size


def _row_groups(file: BinaryIO, footer: Part) -> list[Part]:
    """Return where the row groups are: all bytes from the file's first to the footer."""
    metadata = pq.read_metadata(file)
    columns = [metadata.row_group(k).column(0) for k in range(metadata.num_row_groups)]
    starts = [column.dictionary_page_offset or column.data_page_offset for column in columns]
    return list(zip([0, *starts[1:]], [*starts[1:], footer[0]], strict=True)) if starts else []


def _sha256(file: BinaryIO, part: Part) -> str:
    file.seek(part[0])
    return hashlib.sha256(file.read(part[1] - part[0])).hexdigest()


def _seal_place(data: bytes) -> Part:
    match = SEAL_PATTERN.search(data)
    assert match is not None
    return match.span(1)


def _compare(found: str, expected: str, *, where: str, cure: str) -> None:
    if found != expected:
        raise _altered(where, cure=cure)


def _altered(where: str, *, cure: str) -> ValueError:
    return ValueError(f"{where}: altered since it was written, its SHA-256 differs; {cure}")


def _bytes(path: Path, *, cure: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error, cure=cure) from None


def _parsed(path: Path, data: bytes, *, cure: str) -> pa.Table:
    try:
        return pq.read_table(pa.BufferReader(data))
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, error, cure=cure) from None


def _unreadable(path: Path, error: Exception, *, cure: str) -> ValueError:
    if isinstance(error, FileNotFoundError):
        return ValueError(f"{path}: missing; {cure}")
    return ValueError(f"{path}: not readable ({' '.join(str(error).split())}); {cure}")
