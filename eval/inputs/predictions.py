"""The predictions format: what any model says about each synapse.

A table with a row per sample. `synapse_id` or `key` says which; the columns of
`shards.contract.schema.IDENTITY_COLUMNS`, `qc_flags` and `split` are carried along where they are
known, and
    two classes       `probability`, float64: of class 1
    more classes      `probability_<class name>` each, float64, adding up to 1
Ours are parquet files, sealed (`shards.contract.parquet`); what one is stands in its metadata under
`synshards`, as JSON: a `PredictionsInfo`. Any table of `shards.tabular.table_files` is read, also
with `id` for `synapse_id`, `neuron` for `neuron_id`, and `probability_0`, `probability_1`, … for
the classes.
"""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from eval.inputs.columns import (
    FEW_VALUES,
    ID_COLUMNS,
    LABEL,
    PREFIX,
    class_columns,
    columns_of,
    probability_columns,
)
from shards.contract.documents import document, dump_json, parse_json
from shards.contract.parquet import check_hidden_seal, with_hidden_seal
from shards.contract.schema import SCHEMA_VERSION, UNLABELLED, check_schema_version
from shards.storage.atomic import atomic_write
from shards.tabular.table_files import canonical_value, open_table_file, table_kind

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

METADATA_KEY = b"synshards"
DEFAULT_CLASS_NAMES = ("inhibitory", "excitatory")
CENTERS = ["center_x_nm", "center_y_nm", "center_z_nm"]
SUM_TOLERANCE = 1e-3
BOOLEANS = {"false": 0, "true": 1}


@document
@dataclass(frozen=True, kw_only=True, slots=True)
class PredictionsInfo:
    """Origin of a predictions file. Paths and hashes are None where unknown."""

    class_names: tuple[str, ...] = DEFAULT_CLASS_NAMES
    schema_version: int = SCHEMA_VERSION
    run: str | None = None
    data_url: str | None = None
    fold: int | None = None  # of a cross-validation at `data_url`
    manifest_sha256: str | None = None
    dataset: str | None = None  # planned data set whose volume was read, in place of `data_url`
    checkpoint: str | None = None
    tta: int = 1  # views averaged per sample
    stress: str | None = None  # the corruption that the images went through, if any

    def __post_init__(self) -> None:
        check_schema_version(self.schema_version, where="predictions")
        if len(self.class_names) < 2 or len(set(self.class_names)) != len(self.class_names):
            raise ValueError(
                f"class names must be two or more different ones, got {self.class_names}"
            )


def probability_matrix(frame: pd.DataFrame, class_names: tuple[str, ...]) -> Floats:
    """Return the probabilities (n, k) of a predictions table, one column per class."""
    values = frame[probability_columns(class_names)].to_numpy(np.float64)
    return np.hstack([1.0 - values, values]) if len(class_names) == 2 else values


def with_probabilities(
    table: pa.Table, probabilities: Floats, class_names: tuple[str, ...]
) -> pa.Table:
    """Return a table of samples with the columns of their probabilities (n, k)."""
    columns = probability_columns(class_names)
    values = probabilities[:, 1:] if len(columns) == 1 else probabilities
    for number, name in enumerate(columns):
        table = table.append_column(name, pa.array(values[:, number]))
    return table


def write_predictions(
    path: Path,
    table: pa.Table | pd.DataFrame,
    info: PredictionsInfo,
    *,
    may_be_empty: bool = False,
) -> None:
    """Write a predictions table atomically; a malformed table is a `ValueError`."""
    if isinstance(table, pd.DataFrame):
        table = pa.Table.from_pandas(table, preserve_index=False)
    checked = [*probability_columns(info.class_names), "synapse_id", "key"]
    names = [name for name in checked if name in table.column_names]
    if len(table) or not may_be_empty:
        check_predictions(table.select(names).to_pandas(), info.class_names, where=str(path))
    metadata = {**(table.schema.metadata or {}), METADATA_KEY: dump_json(info)}
    metadata.pop(b"pandas", None)
    buffer = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(metadata), buffer, compression="zstd")
    with atomic_write(path) as file:
        file.write(with_hidden_seal(buffer.getvalue()))


def read_predictions(
    path: Path, *, may_be_empty: bool = False
) -> tuple[pd.DataFrame, PredictionsInfo]:
    """Return a checked predictions table and what made it.

    Labels come back as int16 positions in the class names, `UNLABELLED` where there is none. A part
    of predictions `may_be_empty`: a frame without columns.
    """
    where = str(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such predictions file; write it with `trainer predict`")
    kind = table_kind(where)
    data = path.read_bytes()
    if kind == "parquet":
        check_hidden_seal(data, where=where, cure="predict again, or copy the file again")
    opened = open_table_file(where, opener=lambda _: pa.BufferReader(data))
    info = _info_of(data, where=where) if kind == "parquet" else None
    if may_be_empty and info and not pq.read_metadata(pa.BufferReader(data)).num_rows:
        return pd.DataFrame(), info
    classes, probabilities = class_columns(
        opened.names, info.class_names if info else None, DEFAULT_CLASS_NAMES, where=where
    )
    info = info or PredictionsInfo(class_names=classes)
    wanted = columns_of(opened.names, where=where) | probabilities
    order = sorted(wanted, key=lambda name: opened.names.index(wanted[name].name))
    table = opened.read({name: wanted[name] for name in order})
    frame = _to_frame(table, where=where)
    frame = _with_label_codes(frame, info.class_names, where=where)
    frame = _with_one_probability(frame, info.class_names, where=where)
    check_predictions(frame, info.class_names, where=where)
    return frame, info


def check_predictions(frame: pd.DataFrame, class_names: tuple[str, ...], *, where: str) -> None:
    """Refuse a table without identity, with bad or missing probabilities or with duplicates."""
    columns = probability_columns(class_names)
    if missing := [name for name in columns if name not in frame]:
        raise ValueError(
            f"{where}: column {', '.join(missing)} is missing for classes {', '.join(class_names)}"
            f"; found {', '.join(frame.columns)}"
        )
    identity = [name for name in ("synapse_id", "key") if name in frame]
    if not identity:
        raise ValueError(f"{where}: no synapse_id or key column; add one to say which is which")
    if not len(frame):
        raise ValueError(f"{where}: no predictions, the file has no rows; predict a split first")
    for name in columns:
        _check_probability(frame, name, identity[0], where=where)
    if len(columns) > 1:
        _check_sums(frame, columns, where=where)
    _check_identity(frame, "key" if "key" in frame else "synapse_id", where=where)


def _check_identity(frame: pd.DataFrame, name: str, *, where: str) -> None:
    if (missing := frame[name].isna().to_numpy()).any():
        raise ValueError(
            f"{where}: {int(missing.sum())} rows have no {name}, first data row "
            f"{int(missing.argmax()) + 1}; give every row one"
        )
    if (repeated := frame[name].duplicated().to_numpy()).any():
        row = int(repeated.argmax())
        raise ValueError(
            f"{where}: {int(repeated.sum())} rows repeat a {name}, first {name} "
            f"{frame[name].iloc[row]} in data row {row + 1}; keep one prediction per synapse"
        )


def _check_probability(frame: pd.DataFrame, name: str, identity: str, *, where: str) -> None:
    values = pd.to_numeric(frame[name], errors="coerce").to_numpy(np.float64, na_value=np.nan)
    bad = ~((values >= 0.0) & (values <= 1.0))
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise ValueError(
            f"{where}: {int(bad.sum())} values of {name} are not probabilities in [0, 1], first "
            f"{frame[name].iloc[row]} in data row {row + 1} ({identity} "
            f"{frame[identity].iloc[row]}); {_cure(values, values[row])}"
        )


def _cure(values: Floats, first: float) -> str:
    """Return what to do about a column of which `first` is no probability."""
    if np.isnan(first):
        return "leave such rows out"
    if np.nanmin(values) >= 0.0 and np.nanmax(values) <= 100.0:
        return "if these are percent, divide them by 100"
    return "write probabilities, no logits: 1 / (1 + exp(-logit)), or a softmax over all classes"


def _check_sums(frame: pd.DataFrame, columns: list[str], *, where: str) -> None:
    sums = frame[columns].to_numpy(np.float64).sum(axis=1)
    if (off := np.abs(sums - 1.0) > SUM_TOLERANCE).any():
        row = int(np.flatnonzero(off)[0])
        raise ValueError(
            f"{where}: the probabilities of data row {row + 1} add up to {sums[row]:g}, expected "
            "1; write a softmax over all classes"
        )


def _info_of(data: bytes, *, where: str) -> PredictionsInfo | None:
    text = (pq.read_metadata(pa.BufferReader(data)).metadata or {}).get(METADATA_KEY)
    if text is None:
        return None
    return parse_json(
        PredictionsInfo,
        text,
        where=f"{where}: metadata {METADATA_KEY.decode()} of the file",
        cure="predict again with this version",
    )


def _to_frame(table: pa.Table, *, where: str) -> pd.DataFrame:
    """Return a table as a frame: ids int64, 0 where unknown, never by way of a float."""
    unique = next((name for name in ("key", "synapse_id") if name in table.column_names), None)
    for place, name in enumerate(table.column_names):
        if name in ID_COLUMNS:
            column = table.column(name)
            if name == unique and column.null_count:
                row = column.is_null().index(True).as_py()
                raise ValueError(
                    f"{where}: {column.null_count} rows have no {name}, first data row {row + 1}; "
                    "give every row one"
                )
            if name != "synapse_id" and (lowest := pc.min(column).as_py() or 0) < 0:
                raise ValueError(
                    f"{where}: {name} {lowest} in a row, expected ids from 1; leave the cell "
                    "empty, or write 0, where there is none"
                )
            table = table.set_column(place, name, column.fill_null(0))
        elif name in FEW_VALUES:
            column = table.column(name).combine_chunks().dictionary_encode()
            table = table.set_column(place, name, column)
    as_strings = {pa.string(): pd.StringDtype("pyarrow")}
    frame: pd.DataFrame = table.to_pandas(types_mapper=as_strings.get)
    return frame


def _with_label_codes(
    frame: pd.DataFrame, class_names: tuple[str, ...], *, where: str
) -> pd.DataFrame:
    """Turn labels, the canonical texts of names, codes or booleans, into codes."""
    if LABEL not in frame:
        return frame.assign(label=np.int16(UNLABELLED))
    codes = {str(code): code for code in range(UNLABELLED, len(class_names))}
    codes |= BOOLEANS if len(class_names) == 2 else {}
    named = {canonical_value(name) or name: code for code, name in enumerate(class_names)}
    codes |= {name.lower(): code for name, code in named.items()} | named
    labels = frame[LABEL]
    texts = {text: codes.get(text, codes.get(text.lower())) for text in labels.cat.categories}
    if unknown := [text for text, code in texts.items() if code is None]:
        row = int(labels.isin(unknown).to_numpy().argmax())
        raise ValueError(
            f"{where}: label {labels.iloc[row]} in data row {row + 1} is not a class; expected 0 "
            f"to {len(class_names) - 1} or one of {', '.join(class_names)}, {UNLABELLED} or "
            "nothing for none"
        )
    places = np.array([*texts.values(), UNLABELLED], np.int16)
    return frame.assign(label=places[labels.cat.codes.to_numpy()])


def _with_one_probability(
    frame: pd.DataFrame, class_names: tuple[str, ...], *, where: str
) -> pd.DataFrame:
    """Turn two columns that add up to 1 into `probability` of class 1."""
    both = [PREFIX + name for name in class_names]
    if len(class_names) > 2 or any(name not in frame for name in both):
        return frame
    for name in both:
        _check_probability(frame, name, frame.columns[0], where=where)
    _check_sums(frame, both, where=where)
    return frame.assign(probability=frame[both[1]]).drop(columns=both)
