"""Tables from parquet, CSV and feather files, streamed, under our own column names."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from ingest.config import SynapseConfig
from ingest.remote import check_table, is_remote, table_source
from ingest.tree import TREE_COLUMNS, tree_table

BATCH_ROWS = 1 << 18
AXES = ("x", "y", "z")
# What the header of a released table says of a column; other types are told from the values.
SQL_TYPES = {
    "bigint": pa.int64(),
    "integer": pa.int64(),
    "double precision": pa.float64(),
    "real": pa.float64(),
    "boolean": pa.string(),
    "text": pa.string(),
    "character varying": pa.string(),
}
FORMATS = ".parquet, .feather, .arrow, .csv, .csv.gz, or a folder SPLIT/CLASS/FILE"


@dataclass(frozen=True, slots=True)
class Table:
    """An opened table: its column names, and its rows batch by batch."""

    path: str
    names: tuple[str, ...]
    header: dict[str, str] | None = None  # name -> type ("" if unknown) of a CSV without its own

    def batches(self, columns: Sequence[str]) -> Iterator[pd.DataFrame]:
        """Yield the rows of `columns`; a column that is not there is a `ValueError`."""
        if missing := [name for name in columns if name not in self.names]:
            raise ValueError(
                f"{self.path}: no column {', '.join(missing)}; it has {', '.join(self.names)}; "
                "name the right one in the config"
            )
        try:
            for batch in _batches(self.path, list(dict.fromkeys(columns)), self.header):
                yield pa.Table.from_batches([batch]).to_pandas(ignore_metadata=True)
        except pa.ArrowInvalid as error:
            raise ValueError(f"{self.path}: not readable: {error}") from None


def open_table(path: str, header: str | None = None) -> Table:
    """Open a table, a file or a URL.

    `header` is for a CSV that has none: a CSV with a line for each column, its name and its SQL
    type, as CAVE releases them, or one line with all names.
    """
    check_table(path)
    given = None if header is None else _header(header)
    try:
        names = tuple(given or _names(path))
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path}: not readable as a table: {error}") from None
    return Table(path, names, given)


def _header(path: str) -> dict[str, str]:
    check_table(path)
    with pa.input_stream(table_source(path)) as stream:
        rows = [row for row in csv.reader(io.StringIO(stream.read().decode("utf-8-sig"))) if row]
    if not rows:
        raise ValueError(f"{path}: empty, expected the names of columns; correct `header`")
    if len(rows) > 1 and all(len(row) == 2 for row in rows):
        return {name.strip(): kind.strip().lower() for name, kind in rows}
    return {name.strip(): "" for name in rows[0]}


def synapse_batches(
    config: SynapseConfig, center: str, extra: Sequence[str]
) -> Iterator[pd.DataFrame]:
    """Yield the synapse table in our columns.

    They are synapse_id, pre_root_id, post_root_id (0 where the table has none), size, center_x_nm,
    center_y_nm, center_z_nm (NaN where it has none), and the table's own `extra` ones.
    """
    table = open_table(config.path, config.header)
    columns = config.columns
    position = position_columns(table, getattr(columns, center))
    ids = [columns.synapse_id, columns.pre_root_id, columns.post_root_id, columns.size]
    wanted = [name for name in ids if name is not None]
    for batch in table.batches([*wanted, *position, *extra]):
        yield _ours(batch, config, position, extra)


def position_columns(table: Table, name: str | None) -> tuple[str, ...]:
    """Return the columns of a position: three, or one that holds lists; else all that lack."""
    if name is None:
        return ()
    if "," in name:
        return tuple(part.strip() for part in name.split(","))
    split = tuple(f"{name}_{axis}" for axis in AXES)
    return (name,) if name in table.names and split[0] not in table.names else split


def num_rows(path: str) -> int | None:
    """Return a table's number of rows where its file says so."""
    path = path.removeprefix("file://")
    return pq.ParquetFile(path).metadata.num_rows if path.endswith(".parquet") else None


def _ours(
    batch: pd.DataFrame, config: SynapseConfig, position: Sequence[str], extra: Sequence[str]
) -> pd.DataFrame:
    columns, path = config.columns, config.path
    if len(position) == 1:
        points = np.array(batch[position[0]].to_list(), dtype=np.float64).reshape(-1, 3)
    elif position:
        points = batch[list(position)].to_numpy(np.float64)
    else:
        points = np.full((len(batch), 3), np.nan)
    if position and np.isnan(points).any():
        row = int(np.flatnonzero(np.isnan(points).any(axis=1))[0])
        raise ValueError(
            f"{path}: synapse {batch[columns.synapse_id].iloc[row]} has no position in "
            f"{', '.join(position)}; remove the row or choose another samples.center"
        )
    points_nm = points * np.asarray(config.position_resolution_nm)
    ours = pd.DataFrame(
        {
            "synapse_id": _ids(batch, columns.synapse_id, path),
            "pre_root_id": _ids(batch, columns.pre_root_id, path),
            "post_root_id": _ids(batch, columns.post_root_id, path),
            "size": np.nan if columns.size is None else batch[columns.size].astype(np.float64),
        }
    )
    for axis, name in enumerate(AXES):
        ours[f"center_{name}_nm"] = points_nm[:, axis]
    for name in extra:
        ours[name] = batch[name].to_numpy()
    return ours


def _ids(batch: pd.DataFrame, name: str | None, path: str) -> np.ndarray:
    if name is None:
        return np.zeros(len(batch), dtype=np.int64)
    values = batch[name]
    if not pd.api.types.is_integer_dtype(values):
        raise ValueError(
            f"{path}: column {name} holds {values.dtype}, expected whole numbers without gaps; "
            "ids stored as decimals have lost digits, export the table again"
        )
    return values.to_numpy(np.int64)


def _names(path: str) -> Iterable[str]:
    if path.endswith(".parquet"):
        return list(pq.ParquetFile(table_source(path)).schema_arrow.names)
    if path.endswith((".feather", ".arrow")):
        with pa.ipc.open_file(table_source(path)) as file:
            return list(file.schema.names)
    if Path(path).is_dir():
        return TREE_COLUMNS
    if path.endswith((".csv", ".csv.gz")):
        with _csv_stream(path) as stream, pa_csv.open_csv(stream) as reader:
            return list(reader.schema.names)
    raise ValueError(f"{path}: unknown kind of table, expected one of {FORMATS}")


def _csv_stream(path: str) -> pa.NativeFile:
    return pa.input_stream(table_source(path), compression="gzip" if path.endswith("gz") else None)


def _batches(
    path: str, columns: list[str], header: dict[str, str] | None
) -> Iterator[pa.RecordBatch]:
    if path.endswith(".parquet"):
        file = pq.ParquetFile(table_source(path), pre_buffer=is_remote(path))
        yield from file.iter_batches(BATCH_ROWS, columns=columns)
    elif path.endswith((".feather", ".arrow")):
        with pa.ipc.open_file(table_source(path)) as file:
            for index in range(file.num_record_batches):
                yield file.get_batch(index).select(columns)
    elif Path(path).is_dir():
        yield tree_table(path).select(columns)
    else:
        read = pa_csv.ReadOptions(column_names=header and list(header), block_size=16 << 20)
        kinds = {n: SQL_TYPES[kind] for n, kind in (header or {}).items() if kind in SQL_TYPES}
        convert = pa_csv.ConvertOptions(include_columns=columns, column_types=kinds)
        with _csv_stream(path) as stream:
            yield from pa_csv.open_csv(stream, read_options=read, convert_options=convert)
