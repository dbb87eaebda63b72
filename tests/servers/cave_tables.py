"""What CAVE's database does, for the stand-in server: tables, filters, the reference join."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

NUCLEI = "nucleus_detection_v0"
COMPARISONS = {
    "filter_greater_dict": np.greater,
    "filter_less_dict": np.less,
    "filter_greater_equal_dict": np.greater_equal,
    "filter_less_equal_dict": np.less_equal,
    "filter_equal_dict": np.equal,
}


@dataclass(frozen=True, kw_only=True)
class CaveTable:
    """Rows with CAVE's column names, positions as `_x`, `_y`, `_z`; `reference` names a table."""

    rows: pd.DataFrame
    reference: str | None = None
    resolution_nm: tuple[float, float, float] = (4.0, 4.0, 40.0)


def query(
    tables: Mapping[str, CaveTable], names: Sequence[str], body: Mapping[str, Any]
) -> pd.DataFrame:
    """Return the rows that a query's body asks of a table, or of a table and its reference.

    `filter_notin_dict` is ignored, as the public servers do; order and limit are the caller's.
    """
    rows = _filtered(tables[names[0]].rows, names[0], body)
    if len(names) == 2:
        rows = _joined(rows, tables[names[1]].rows)
    return rows


def finished(rows: pd.DataFrame, table: CaveTable, body: Mapping[str, Any]) -> pd.DataFrame:
    """Return rows in the resolution and with the columns that the body asks for."""
    rows = _scaled(rows, table.resolution_nm, body.get("desired_resolution"))
    return _selected(rows, body.get("select_columns"))


def arrow_stream(rows: pd.DataFrame, compression: str | None) -> bytes:
    batch = pa.RecordBatch.from_pandas(rows, preserve_index=False)
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.ipc.new_stream(sink, batch.schema, options=options) as stream:
        stream.write_batch(batch)
    return bytes(sink.getvalue())


def public_tables(
    synapses: pd.DataFrame, cell_types: Mapping[str, pd.DataFrame]
) -> dict[str, CaveTable]:
    """Return the tables as CAVE holds them.

    `cell_types` are already joined (with `target_id` and `pt_root_id`): each becomes a table that
    refers to `nucleus_detection_v0`, which is made of their nuclei.
    """
    nuclei = pd.concat([frame[["target_id", "pt_root_id"]] for frame in cell_types.values()])
    nuclei = nuclei.drop_duplicates("target_id").rename(columns={"target_id": "id"})
    tables = {
        name: CaveTable(rows=frame.drop(columns="pt_root_id"), reference=NUCLEI)
        for name, frame in cell_types.items()
    }
    return {"synapses_pni_2": CaveTable(rows=synapses), NUCLEI: CaveTable(rows=nuclei), **tables}


def neuron_types(rows: pd.DataFrame) -> pd.DataFrame:
    """Return a cell type table of the presynaptic neurons of synapses with their class, `ei`."""
    neurons = rows.drop_duplicates("pre_pt_root_id")
    return pd.DataFrame(
        {
            "id": np.arange(len(neurons)),
            "target_id": 10**6 + np.arange(len(neurons)),
            "pt_root_id": neurons.pre_pt_root_id.to_numpy(),
            "cell_type": neurons.ei.to_numpy(),
        }
    )


def _scaled(
    rows: pd.DataFrame, stored_nm: Sequence[float], wanted_nm: Sequence[float] | None
) -> pd.DataFrame:
    if wanted_nm is None or tuple(wanted_nm) == tuple(stored_nm):
        return rows
    rows = rows.copy()
    for axis, stored, wanted in zip("xyz", stored_nm, wanted_nm, strict=True):
        for column in [name for name in rows.columns if name.endswith(f"position_{axis}")]:
            rows[column] = rows[column] * (stored / wanted)
    return rows


def _selected(rows: pd.DataFrame, columns: Sequence[str] | None) -> pd.DataFrame:
    """Return the columns asked for; a position stands for its three columns."""
    if columns is None:
        return rows
    wanted = [n for n in rows.columns if n in columns or re.sub("_[xyz]$", "", n) in columns]
    return rows[wanted]


def _filtered(rows: pd.DataFrame, name: str, body: Mapping[str, Any]) -> pd.DataFrame:
    keep = np.ones(len(rows), dtype=bool)
    for column, values in body.get("filter_in_dict", {}).get(name, {}).items():
        keep &= rows[column].isin(values).to_numpy()
    for key, compare in COMPARISONS.items():
        for column, value in body.get(key, {}).get(name, {}).items():
            keep &= compare(rows[column].to_numpy(), value)
    return rows[keep]


def _joined(rows: pd.DataFrame, reference: pd.DataFrame) -> pd.DataFrame:
    """Join a reference table: the row's own id becomes `id_ref`, `id` is the nucleus's."""
    joined = rows.merge(reference, left_on="target_id", right_on="id", suffixes=("", "_ref"))
    return joined.rename(columns={"id": "id_ref", "id_ref": "id"})
