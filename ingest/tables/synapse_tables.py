"""The tables of a job, streamed, under our own column names."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from ingest.job.job_config import Columns, Ids, JobConfig
from ingest.tables.name_ids import NameIds
from ingest.tables.remote_tables import check_table, open_source
from ingest.volume.files.image_folder import TREE_COLUMNS, tree_table
from shards.tabular.table_files import (
    Column,
    Kind,
    TableFile,
    header_names,
    open_table_file,
    points_of,
)

AXES = ("x", "y", "z")
IDS = ("synapse_id", "pre_root_id", "post_root_id")
LABEL_VALUE, SPLIT_NAME, IMAGE_NAME = "label_value", "split_name", "image_name"
NO_POST = "synapses whose postsynaptic root id is empty: unknown"
NAME_COLUMNS = {"synapse_id": "synapse_name", "pre_root_id": "neuron_name"}
NAMES_CURE = (
    "correct it; an empty cell means that there is none; where ids are names, state `ids: names` "
    "in the job"
)

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


def open_table(path: str, header: str | None = None) -> TableFile:
    """Open a table: a file, a URL, or a folder SPLIT/CLASS/FILE of images.

    `header` is for a CSV that has none: see `header_names`.
    """
    check_table(path)
    if Path(path.removeprefix("file://")).is_dir():
        batch = tree_table(path)
        return TableFile(path, TREE_COLUMNS, len(batch), lambda p: iter([batch.select(list(p))]))
    if header is None:
        return open_table_file(path, opener=open_source)
    check_table(header)
    return open_table_file(path, header=header_names(header, open_source), opener=open_source)


def num_rows(path: str) -> int | None:
    """Return a table's number of rows where its file says so."""
    return open_table(path).num_rows


def synapse_batches(
    job: JobConfig, note: Callable[[str, int], None] = lambda *_: None
) -> Iterator[pd.DataFrame]:
    """Yield the synapse table of a job that is complete (`complete_job`) in our columns.

    They are synapse_id, pre_root_id, post_root_id (0 where there is none), size, center_x_nm,
    center_y_nm, center_z_nm (NaN where the table has none), and LABEL_VALUE, SPLIT_NAME and
    IMAGE_NAME where the job has columns for them; where ids are names, also NAME_COLUMNS. `note`
    is told how many rows lack a post root.
    """
    config = job.synapses
    table = open_table(config.path, config.header)
    position = position_columns(table.names, getattr(config.columns, job.samples.center))
    row, without_post, names = 0, 0, NameIds()
    for batch in table.batches(_columns(job, position)):
        yield _ours(batch, job, position, row, names)
        row += len(batch)
        if config.columns.post_root_id is not None:
            without_post += batch.column("post_root_id").null_count
    if without_post:
        note(NO_POST, without_post)


def position_columns(names: Sequence[str], name: str | None) -> tuple[str, ...]:
    """Return the columns of a position: three, or one that holds lists; else all that lack."""
    if name is None:
        return ()
    if "," in name:
        return tuple(part.strip() for part in name.split(","))
    split = tuple(f"{name}_{axis}" for axis in AXES)
    return (name,) if name in names and split[0] not in names else split


def known_ids(column: pa.Array, *, where: str, first_row: int = 0) -> Ints:
    """Return ids of neurons or nuclei, 0 where there is none; one below 0 is a `ValueError`."""
    ids: Ints = column.fill_null(0).to_numpy()
    if len(ids) and ids.min() < 0:
        row = int(np.flatnonzero(ids < 0)[0])
        raise ValueError(
            f"{where}, data row {first_row + row + 1}: found {ids[row]}, expected ids from 1; "
            "leave the cell empty, or write 0, where there is none"
        )
    return ids


def _columns(job: JobConfig, position: Sequence[str]) -> dict[str, Column]:
    """Return what to read of the synapse table: ids, size, position, extra columns."""
    columns = job.synapses.columns
    wanted = {name: id_column(getattr(columns, name), job.ids) for name in _ids_of(columns)}
    if columns.size is not None:
        wanted["size"] = Column(columns.size, "number")
    kind: Kind = "position" if len(position) == 1 else "number"
    wanted |= {_axis(axis): Column(name, kind) for axis, name in enumerate(position)}
    return wanted | _extra(job)


def id_column(name: str, ids: Ids) -> Column:
    """Return a column of ids, to read as numbers or as names."""
    return Column(name, "text") if ids == "names" else Column(name, "id", NAMES_CURE)


def _ids_of(columns: Columns) -> list[str]:
    return [name for name in IDS if getattr(columns, name) is not None]


def _axis(axis: int) -> str:
    return f"position {axis}"


def _extra(job: JobConfig) -> dict[str, Column]:
    """Return the columns that only some jobs name."""
    extra = dict[str, Column]()
    if job.labels.column is not None:
        extra[LABEL_VALUE] = Column(job.labels.column, "value")
    if job.splits.by == "column":
        extra[SPLIT_NAME] = Column(job.splits.column, "text")
    if job.synapses.columns.file is not None:
        extra[IMAGE_NAME] = Column(job.synapses.columns.file, "text")
    return extra


def _ours(
    batch: pa.RecordBatch,
    job: JobConfig,
    position: Sequence[str],
    first_row: int,
    names: NameIds,
) -> pd.DataFrame:
    config = job.synapses
    ids = {name: np.zeros(len(batch), dtype=np.int64) for name in IDS}
    for name in _ids_of(config.columns):
        column, where = batch.column(name), f"{config.path}: column {getattr(config.columns, name)}"
        if name == "synapse_id" and column.null_count:
            row = first_row + column.is_null().index(True).as_py() + 1
            raise ValueError(f"{where}, data row {row}: an empty cell; give every synapse an id")
        if job.ids == "names":
            ids[name] = names.numbers(column, where=where)
        elif name == "synapse_id":
            ids[name] = column.to_numpy()
        else:
            ids[name] = known_ids(column, where=where, first_row=first_row)
    points = _points(batch, position)
    if position and (missing := np.isnan(points).any(axis=1)).any():
        row = int(np.flatnonzero(missing)[0])
        raise ValueError(
            f"{config.path}: synapse {ids['synapse_id'][row]}, data row {first_row + row + 1}, has "
            f"no position in {', '.join(position)}; remove the row or choose another samples.center"
        )
    points_nm = points * np.asarray(config.position_resolution_nm)
    size = _floats(batch.column("size")) if config.columns.size is not None else np.nan
    centers = {f"center_{name}_nm": points_nm[:, axis] for axis, name in enumerate(AXES)}
    extra = {name: batch.column(name).to_pandas() for name in _extra(job)}
    if job.ids == "names":
        extra |= {
            name: batch.column(of).fill_null("").to_pandas() if of in batch.schema.names else ""
            for of, name in NAME_COLUMNS.items()
        }
    return pd.DataFrame({**ids, "size": size, **centers, **extra})


def _points(batch: pa.RecordBatch, position: Sequence[str]) -> Floats:
    """Return positions (n, 3) as the table has them, NaN where there is none."""
    if len(position) == 1:
        return points_of(batch.column(_axis(0)))
    points = np.full((len(batch), 3), np.nan)
    for axis in range(len(position)):
        points[:, axis] = _floats(batch.column(_axis(axis)))
    return points


def _floats(column: pa.Array) -> Floats:
    floats: Floats = column.to_numpy(zero_copy_only=False)
    return floats
