"""Text tables (CSV, TSV): how they are written is told from their first bytes."""

import csv
import io
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.csv as pa_csv

CSV_BLOCK_BYTES = 16 << 20  # a row may not be longer
HEAD_BYTES = 1 << 20  # in which a CSV's first row must end
MAX_TABLE_GB = 32.0
LIMIT_VARIABLE = "SYNSHARDS_TABLE_GB"
MAX_RATIO = 200  # of a compressed text table beyond the limit

DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
COMPRESSIONS = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bz2"}
ENCODINGS = {
    b"\xff\xfe\x00\x00": "utf-32",
    b"\x00\x00\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
    b"\xef\xbb\xbf": "utf-8-sig",
}
# First bytes of files that are something else than their name says.
FOREIGN = {
    b"PAR1": "a parquet file: name it .parquet",
    b"ARROW1": "an Arrow file: name it .arrow",
    b"FEA1": "a feather file of version 1: write it again, as version 2 or as parquet",
    b"PK\x03\x04": "a zip archive, or an Excel sheet: unpack it, or export it as CSV",
    b"\xfd7zXZ": "packed with xz: unpack it",
    b"version https://git-lfs": "a pointer of Git LFS: fetch the file itself (git lfs pull)",
    b"sep=": "begins with a line `sep=` that only Excel reads: remove that line",
    b"<!doctype": "an HTML page: download the file itself",
    b"<html": "an HTML page: download the file itself",
}

Opener = Callable[[str], pa.NativeFile]
RawRows = Callable[[Sequence[int]], Iterator[pa.RecordBatch]]


@dataclass(frozen=True, kw_only=True, slots=True)
class CsvLayout:
    """Dialect of a text table."""

    names: tuple[str, ...]
    has_header: bool
    is_header_alone: bool
    blank_lines: int  # before the first row
    delimiter: str
    encoding: str


def open_local(path: str) -> pa.NativeFile:
    """Open a file of this machine."""
    return pa.OSFile(path.removeprefix("file://"))


def header_names(path: str, opener: Opener = open_local) -> tuple[str, ...]:
    """Return the names of columns that a file of its own gives to a CSV.

    It has a line for each column, name and SQL type, as CAVE releases them, or one with all names.
    """
    with opener(path) as file:
        data = file.read(HEAD_BYTES)
    encoding = next((name for mark, name in ENCODINGS.items() if data.startswith(mark)), "utf-8")
    text = data.decode(encoding, errors="replace")
    delimiter = max(DELIMITERS, key=text.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    rows = [row for row in reader if row]
    if not rows:
        raise ValueError(f"{path}: empty, expected the names of columns; correct `header`")
    is_list = len(rows) > 1 and all(len(row) == 2 for row in rows)
    return tuple(name.strip() for name in ([row[0] for row in rows] if is_list else rows[0]))


def text_rows(
    path: str, file: pa.NativeFile, head: bytes, header: Sequence[str] | None, opener: Opener
) -> tuple[tuple[str, ...], RawRows]:
    packing = next((name for magic, name in COMPRESSIONS.items() if head.startswith(magic)), None)
    packed_bytes = file.size()
    with _unpacked(file, packing) as stream:
        first = stream.read(HEAD_BYTES)
    refuse_foreign(path, first, "text")
    layout = _layout(path, first, header)

    def raw(places: Sequence[int]) -> Iterator[pa.RecordBatch]:
        if layout.is_header_alone:
            return
        with opener(path) as source, _unpacked(source, packing) as stream:
            unpacked, limit = 0, limit_bytes()
            for batch in _open_csv(stream, layout, places):
                unpacked += CSV_BLOCK_BYTES
                if packing and unpacked > max(limit, MAX_RATIO * packed_bytes):
                    raise ValueError(
                        f"{path}: {packed_bytes} bytes unpack to more than {limit / 1e9:g} GB and "
                        f"{MAX_RATIO} times as much; if that is right, raise {LIMIT_VARIABLE}"
                    )
                yield batch

    return layout.names, raw


def _unpacked(file: pa.NativeFile, packing: str | None) -> pa.NativeFile:
    return file if packing is None else pa.CompressedInputStream(file, packing)


def _open_csv(stream: pa.NativeFile, layout: CsvLayout, places: Sequence[int]) -> Any:
    """Return a reader of the wanted columns as bytes."""
    keys = [str(place) for place in range(len(layout.names))]
    wanted = [keys[place] for place in places]
    read = pa_csv.ReadOptions(
        column_names=keys,
        skip_rows=layout.blank_lines,
        skip_rows_after_names=int(layout.has_header),
        block_size=CSV_BLOCK_BYTES,
        encoding=layout.encoding.removesuffix("-sig"),
        use_threads=False,  # or errors do not say which row; columns stay bytes, so it costs little
    )
    options = pa_csv.ConvertOptions(
        include_columns=wanted,
        column_types=dict.fromkeys(wanted, pa.binary()),
        strings_can_be_null=False,
        check_utf8=False,
    )
    parse = pa_csv.ParseOptions(delimiter=layout.delimiter, newlines_in_values=True)
    return pa_csv.open_csv(stream, read, parse, options)


def _layout(path: str, first: bytes, header: Sequence[str] | None) -> CsvLayout:
    """Return how a text table is written, from its first bytes."""
    encoding = next((name for mark, name in ENCODINGS.items() if first.startswith(mark)), "utf-8")
    if encoding.startswith("utf-8") and b"\0" in first:
        raise ValueError(f"{path}: not text, it holds null bytes; save it as CSV in UTF-8")
    text = first.decode(encoding, errors="replace")
    try:
        by_delimiter = {delimiter: _first_rows(text, delimiter) for delimiter in DELIMITERS}
    except csv.Error as error:
        raise ValueError(f"{path}: not readable as CSV ({error}); export it again") from None
    count = None if header is None else len(header)
    best = max(by_delimiter, key=lambda d: _fitness(by_delimiter[d][1], count))
    blank_lines, row, is_alone = by_delimiter[best]
    if not row:
        raise ValueError(f"{path}: blank lines alone; export or download it again")
    if count is not None and len(row) != count:
        raise ValueError(
            f"{path}: its first row has {len(row)} fields ({DELIMITERS[best]} between), but "
            f"`header` names {count}; give the header of this table"
        )
    return CsvLayout(
        names=tuple(name.strip() for name in (row if header is None else header)),
        has_header=header is None,
        is_header_alone=header is None and is_alone and len(first) < HEAD_BYTES,
        blank_lines=blank_lines,
        delimiter=best,
        encoding=encoding,
    )


def _fitness(row: Sequence[str], count: int | None) -> tuple[bool, int]:
    return len(row) == count, len(row)


def _first_rows(text: str, delimiter: str) -> tuple[int, list[str], bool]:
    """Return the blank lines before the first row, that row, and whether there is no other."""
    blank_lines, row = 0, list[str]()
    for found in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter):
        if not found and not row:
            blank_lines += 1
        elif found and row:
            return blank_lines, row, False
        elif found:
            row = found
    return blank_lines, row, True


def limit_bytes() -> int:
    """Return how much a part of a table may unpack to."""
    text = os.environ.get(LIMIT_VARIABLE, str(MAX_TABLE_GB))
    try:
        return int(float(text) * 1e9)
    except (ValueError, OverflowError):
        raise ValueError(f"{LIMIT_VARIABLE} is {text!r}, expected a number of gigabytes") from None


def refuse_foreign(path: str, head: bytes, kind: str) -> None:
    expected = {"parquet": b"PAR1", "arrow": b"ARROW1"}.get(kind)
    for magic, what in FOREIGN.items():
        if magic != expected and head.lstrip().lower().startswith(magic.lower()):
            raise ValueError(f"{path}: {what}")
    if kind == "parquet" and not head.startswith(b"PAR1"):
        raise ValueError(f"{path}: not a parquet file; export or download it again")
