"""Tables that users bring: parquet, feather, Arrow and CSV files through one typed path.

    table = open_table_file("cells.csv.gz")
    for batch in table.batches({"root": Column("pt_root_id", "id"), "of": Column("type", "value")}):
        ...  # a pyarrow.RecordBatch of the columns root and of

The reader says what each column must be, and gets that or a `ValueError` of one line that names
file, column, data row (the first row below the header is 1), what was found, and the cure. Types
in the file, or values in the first rows, decide nothing.

    kind        gives                            from
    "id"        int64                            integers, decimals, text of digits; never floats
    "number"    float64, inf allowed             integers, floats, decimals, text
    "text"      string                           text, integers, booleans
    "value"     dictionary of string             the same and floats; `canonical_value`'s text
    "position"  fixed_size_list of 3 float64     lists of three numbers, "[x y z]", "(x, y, z)"

A value that is not there is null in every kind: null, NaN, an empty cell, words as NULL or NA.
`points_of` turns positions into an array.

What a file holds decides how it is decompressed (gzip, zstd, bz2), its delimiter (comma,
semicolon, tab, bar) and its encoding (UTF-8; UTF-16 and UTF-32 with a mark); its name decides
whether it is a text table at all. `MAX_TABLE_GB`, or SYNSHARDS_TABLE_GB in the environment,
limits how much one row group of a parquet file or a compressed text table may unpack to.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from shards.tabular.table_text import (
    LIMIT_VARIABLE,
    MAX_RATIO,
    Opener,
    RawRows,
    header_names,
    limit_bytes,
    open_local,
    refuse_foreign,
    text_rows,
)
from shards.tabular.table_values import TEXT_TYPES, Kind, canonical_value, convert, points_of

__all__ = [
    "Column",
    "Kind",
    "TableFile",
    "canonical_value",
    "header_names",
    "open_table_file",
    "points_of",
]

BATCH_ROWS = 1 << 18
NUMBER_BYTES = 8
PARQUET, ARROW, TEXT = (".parquet", ".pq"), (".feather", ".arrow", ".ipc"), (".csv", ".tsv", ".txt")
PACKED = ("", ".gz", ".zst", ".bz2")
FORMATS = ".parquet, .feather, .arrow, .csv or .tsv, the last two also as .gz, .zst or .bz2"


@dataclass(frozen=True, slots=True)
class Column:
    """A column to read: its name in the file, what it must hold, the cure where it holds else."""

    name: str
    kind: Kind
    cure: str | None = None


@dataclass(frozen=True, slots=True)
class TableFile:
    """An opened table: its column names in order, and its rows, batch by batch.

    `num_rows` is None where the file does not say it.
    """

    path: str
    names: tuple[str, ...]
    num_rows: int | None
    raw: RawRows  # the rows of columns, by their places, as the file has them

    def batches(self, columns: Mapping[str, Column]) -> Iterator[pa.RecordBatch]:
        """Yield the rows as record batches of `columns`, by the names that the mapping gives.

        A column that is not there or there twice, a value that does not fit its kind, a damaged
        file, or one without rows is a `ValueError`.
        """
        places = {column.name: self._place(column.name) for column in columns.values()}
        order = list(places)
        rows = 0
        with named_errors(self.path):
            for batch in self.raw(list(places.values())):
                if not len(batch):
                    continue
                arrays = [
                    convert(
                        batch.column(order.index(column.name)),
                        column.kind,
                        where=f"{self.path}: column {column.name}",
                        first_row=rows,
                        cure=column.cure,
                    )
                    for column in columns.values()
                ]
                rows += len(batch)
                yield pa.RecordBatch.from_arrays(arrays, names=list(columns))
        if not rows:
            raise ValueError(f"{self.path}: a table without rows; export it again, or remove it")

    def read(self, columns: Mapping[str, Column]) -> pa.Table:
        """Return all rows of `columns` at once."""
        return pa.Table.from_batches(list(self.batches(columns))).unify_dictionaries()

    def _place(self, name: str) -> int:
        if (count := self.names.count(name)) == 1:
            return self.names.index(name)
        if count:
            raise ValueError(f"{self.path}: {count} columns are called {name}; rename all but one")
        names = ", ".join(self.names)
        raise ValueError(
            f"{self.path}: no column {name}; it has {names}; name the right one in the config"
        )


def open_table_file(
    path: str, *, header: Sequence[str] | None = None, opener: Opener = open_local
) -> TableFile:
    """Open a table by its name's ending, in any case; one that is none is a `ValueError`.

    `header` names the columns of a CSV that has no such row. `opener` opens `path` anew at every
    call, seekable: another one reads from elsewhere.
    """
    kind = table_kind(path)
    with named_errors(path), opener(path) as file:
        head = file.read(64)
        if not head:
            raise ValueError(f"{path}: an empty file; export or download it again")
        refuse_foreign(path, head, kind)
        file.seek(0)
        if kind == "text":
            names, raw = text_rows(path, file, head, header, opener)
            return TableFile(path, names, None, raw)
        if header is not None:
            raise ValueError(f"{path}: knows its columns' names; remove `header`")
        if kind == "parquet":
            return _parquet_table(path, file, opener)
        return _arrow_table(path, file, head, opener)


def table_kind(path: str) -> str:
    """Return parquet, arrow or text, as the name's ending says; another is a `ValueError`."""
    name = path.lower()
    if name.endswith(PARQUET):
        return "parquet"
    if name.endswith(ARROW):
        return "arrow"
    if name.endswith(tuple(ending + packed for ending in TEXT for packed in PACKED)):
        return "text"
    raise ValueError(f"{path}: unknown kind of table, expected one of {FORMATS}")


@contextmanager
def named_errors(path: str) -> Iterator[None]:
    """Turn what pyarrow raises on damaged files into a `ValueError` that names the file."""
    try:
        yield
    except FileNotFoundError:
        raise ValueError(f"{path}: no such table; correct its path in the config") from None
    except (pa.ArrowException, OSError, UnicodeError, MemoryError, OverflowError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        text = " ".join(str(error).split())[:300] or type(error).__name__
        if text.startswith("CSV parse error"):
            raise ValueError(
                f"{path}: {text} (rows counted from the header's); give every row as many fields "
                "as the header has, and put fields with a delimiter in quotes"
            ) from None
        raise ValueError(
            f"{path}: damaged, cut short, or not what its name says ({text}); export or download "
            "it again"
        ) from None


def _parquet_table(path: str, file: pa.NativeFile, opener: Opener) -> TableFile:
    opened = pq.ParquetFile(file)
    schema, metadata = opened.schema_arrow, opened.metadata
    names, packed_bytes = tuple(schema.names), file.size()

    def raw(places: Sequence[int]) -> Iterator[pa.RecordBatch]:
        wanted = [names[place] for place in places]
        _check_size(path, metadata, wanted, packed_bytes)
        with opener(path) as source:
            reading = pq.ParquetFile(
                source,
                # A long text that comes a million times is held once.
                read_dictionary=[n for n in wanted if schema.field(n).type in TEXT_TYPES],
                pre_buffer=not isinstance(source, pa.OSFile),
                page_checksum_verification=True,
            )
            for batch in reading.iter_batches(BATCH_ROWS, columns=wanted):
                yield batch.select(wanted)

    return TableFile(path, names, metadata.num_rows, raw)


def _check_size(path: str, metadata: Any, wanted: Sequence[str], packed_bytes: int) -> None:
    """Refuse a file that says it unpacks to more than the limit: a row group, or by rows alone."""
    limit = limit_bytes()
    cure = f"raise {LIMIT_VARIABLE} if that is right"
    if metadata.num_rows * len(wanted) * NUMBER_BYTES > max(limit, MAX_RATIO * packed_bytes):
        raise ValueError(
            f"{path}: {packed_bytes} bytes say that they hold {metadata.num_rows} rows; {cure}"
        )
    for number in range(metadata.num_row_groups):
        # Not column by column: pyarrow ends the process over a column whose metadata is damaged.
        size = metadata.row_group(number).total_byte_size
        if size > limit:
            raise ValueError(
                f"{path}: row group {number} unpacks to {size / 1e9:.1f} GB, more than the "
                f"{limit / 1e9:g} allowed; {cure}, or write smaller groups"
            )


def _arrow_table(path: str, file: pa.NativeFile, head: bytes, opener: Opener) -> TableFile:
    is_file = head.startswith(b"ARROW1")

    def reader(source: pa.NativeFile) -> Any:
        return pa.ipc.open_file(source) if is_file else pa.ipc.open_stream(source)

    def raw(places: Sequence[int]) -> Iterator[pa.RecordBatch]:
        with opener(path) as source, reader(source) as opened:
            for whole in _arrow_batches(opened) if is_file else opened:
                batch = whole.select(list(places))
                batch.validate(full=True)
                for start in range(0, len(batch), BATCH_ROWS):
                    yield batch.slice(start, BATCH_ROWS)

    with reader(file) as opened:
        return TableFile(path, tuple(opened.schema.names), None, raw)


def _arrow_batches(opened: Any) -> Iterator[pa.RecordBatch]:
    for number in range(opened.num_record_batches):
        yield opened.get_batch(number)
