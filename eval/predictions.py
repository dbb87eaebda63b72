"""The predictions format: what a model, ours or not, says about each synapse.

A parquet file with a row a sample. `synapse_id` or `key` says which, the columns of
`shards.schema.IDENTITY_COLUMNS`, `qc_flags` and `split` are carried along where they are known, and
    two classes       `probability`, float64: of class 1
    more classes      `probability_<class name>` each, float64, adding up to 1
What the file is stands in its parquet metadata under `synshards`, as JSON: a `PredictionsInfo`.
A CSV with synapse_id, probability, label and neuron is read as well.
"""

import json
from bisect import bisect_left
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from shards.files import atomic_write
from shards.schema import IDENTITY_COLUMNS, SCHEMA_VERSION, UNLABELLED, check_schema_version

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

METADATA_KEY = b"synshards"
DEFAULT_CLASS_NAMES = ("inhibitory", "excitatory")
PREFIX = "probability_"
CENTERS = ["center_x_nm", "center_y_nm", "center_z_nm"]
ALIASES = {"neuron": "neuron_id", "id": "synapse_id", "probability_1": "probability"}
ID_COLUMNS = tuple(name for name, kind in IDENTITY_COLUMNS.items() if kind == pa.int64())
FEW_VALUES = ("label_tier", "label_source", "qc_flags", "split", "tag")
SUM_TOLERANCE = 1e-3
EXACT = 2.0**53  # from here on a float does not hold every integer


@dataclass(frozen=True, kw_only=True, slots=True)
class PredictionsInfo:
    """What made a predictions file. Paths and hashes are None where unknown."""

    class_names: tuple[str, ...] = DEFAULT_CLASS_NAMES
    schema_version: int = SCHEMA_VERSION
    run: str | None = None
    data_url: str | None = None
    manifest_sha256: str | None = None
    checkpoint: str | None = None
    tta: int = 1  # views averaged a sample
    stress: str | None = None  # the corruption that the images went through, if any

    def __post_init__(self) -> None:
        if len(self.class_names) < 2 or len(set(self.class_names)) != len(self.class_names):
            raise ValueError(
                f"class names must be two or more different ones, got {self.class_names}"
            )


def probability_columns(class_names: tuple[str, ...]) -> list[str]:
    """Return the columns that hold the probabilities of these classes."""
    if len(class_names) == 2:
        return ["probability"]
    return [PREFIX + name for name in class_names]


def probability_matrix(frame: pd.DataFrame, class_names: tuple[str, ...]) -> Floats:
    """Return the probabilities (n, k) of a predictions table, a column a class."""
    values = frame[probability_columns(class_names)].to_numpy(np.float64)
    return np.hstack([1.0 - values, values]) if len(class_names) == 2 else values


def write_predictions(path: Path, table: pa.Table | pd.DataFrame, info: PredictionsInfo) -> None:
    """Write a predictions table atomically; a malformed table is a `ValueError`."""
    if isinstance(table, pd.DataFrame):
        table = pa.Table.from_pandas(table, preserve_index=False)
    check_predictions(_to_frame(table, where=str(path)), info.class_names, where=str(path))
    document = json.dumps(asdict(info), sort_keys=True).encode()
    metadata = {**(table.schema.metadata or {}), METADATA_KEY: document}
    metadata.pop(b"pandas", None)
    with atomic_write(path) as file:
        pq.write_table(table.replace_schema_metadata(metadata), file, compression="zstd")


def read_predictions(path: Path) -> tuple[pd.DataFrame, PredictionsInfo]:
    """Return a checked predictions table and what made it, from parquet or CSV.

    Labels come back as int16 positions in the class names, `UNLABELLED` where there is none.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such predictions file; write it with `trainer predict`")
    table = _read_csv(path) if path.suffix == ".csv" else _read_parquet(path)
    frame = _to_frame(table, where=str(path))
    document = (table.schema.metadata or {}).get(METADATA_KEY)
    if document is None:
        info = PredictionsInfo(class_names=_class_names_of(frame))
    else:
        info = _info_from_json(json.loads(document), where=str(path))
    frame = _with_label_codes(frame, info.class_names, where=str(path))
    check_predictions(frame, info.class_names, where=str(path))
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
    unique = "key" if "key" in frame else "synapse_id"
    if (repeated := frame[unique].duplicated()).any():
        row = int(np.flatnonzero(repeated.to_numpy())[0])
        raise ValueError(
            f"{where}: {int(repeated.sum())} rows repeat a {unique}, first {unique} "
            f"{frame[unique].iloc[row]} in row {row}; keep one prediction a synapse"
        )


def _check_probability(frame: pd.DataFrame, name: str, identity: str, *, where: str) -> None:
    values = pd.to_numeric(frame[name], errors="coerce").to_numpy(np.float64, na_value=np.nan)
    bad = ~((values >= 0.0) & (values <= 1.0))
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        cure = "leave such rows out" if np.isnan(values[row]) else "write no logits"
        raise ValueError(
            f"{where}: {int(bad.sum())} values of {name} are not probabilities in [0, 1], first "
            f"{frame[name].iloc[row]} in row {row} ({identity} {frame[identity].iloc[row]}); {cure}"
        )


def _check_sums(frame: pd.DataFrame, columns: list[str], *, where: str) -> None:
    sums = frame[columns].to_numpy(np.float64).sum(axis=1)
    if (off := np.abs(sums - 1.0) > SUM_TOLERANCE).any():
        row = int(np.flatnonzero(off)[0])
        raise ValueError(
            f"{where}: the probabilities of row {row} add up to {sums[row]:g}, expected 1; "
            "write a softmax over all classes"
        )


def _read_csv(path: Path) -> pa.Table:
    try:
        options = pa.csv.ConvertOptions(strings_can_be_null=True)
        return pa.csv.read_csv(path, convert_options=options)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path}: not a readable CSV ({error}); check the file") from None


def _read_parquet(path: Path) -> pa.Table:
    try:
        schema = pq.read_schema(path)
        few = [name for name in FEW_VALUES if name in schema.names]
        return pq.read_table(path, read_dictionary=few)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path}: not a readable parquet file ({error}); predict again") from None


def _to_frame(table: pa.Table, *, where: str) -> pd.DataFrame:
    """Rename aliases and convert without ever passing an id through a float."""
    _check_columns(table, where=where)
    names = [
        ALIASES[name] if name in ALIASES and ALIASES[name] not in table.column_names else name
        for name in table.column_names
    ]
    table = table.rename_columns(names)
    for position, name in enumerate(names):
        column = table.column(position)
        if name in ID_COLUMNS:
            column = _as_ids(column, name, where=where).fill_null(0)
        elif name in FEW_VALUES and pa.types.is_string(column.type):
            column = column.dictionary_encode()
        elif name == "label" and pa.types.is_integer(column.type):
            column = column.fill_null(UNLABELLED)
        table = table.set_column(position, name, column)
    as_strings = {
        pa.string(): pd.StringDtype("pyarrow"),
        pa.large_string(): pd.StringDtype("pyarrow"),
    }
    frame: pd.DataFrame = table.to_pandas(types_mapper=as_strings.get)
    return frame


def _check_columns(table: pa.Table, *, where: str) -> None:
    """Refuse two columns of a name, and rows without the identity that tells them apart."""
    names = table.column_names
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(
            f"{where}: several columns are called {', '.join(twice)}; keep one of each"
        )
    for name in [name for name in ("key", "synapse_id", "id") if name in names][:1]:
        if missing := table.column(name).null_count:
            row = pc.index(table.column(name).is_null(), True).as_py()
            raise ValueError(
                f"{where}: {missing} rows have no {name}, first row {row}; give every row one"
            )


def _as_ids(column: pa.ChunkedArray, name: str, *, where: str) -> pa.ChunkedArray:
    """Return a column as int64; the first value that is no whole id is named in a `ValueError`."""
    if not _are_ids(column):
        rows = range(len(column))
        row = bisect_left(rows, True, key=lambda row: not _are_ids(column.slice(0, row + 1)))
        raise ValueError(
            f"{where}: {name} must hold integer ids, found {column[row]} in row {row}; write whole "
            "numbers with all their digits, none as a float"
        )
    return column.cast(pa.int64())


def _are_ids(column: pa.ChunkedArray) -> bool:
    try:
        column.cast(pa.int64())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return False
    largest = pc.max(pc.abs(column)).as_py() if pa.types.is_floating(column.type) else None
    return largest is None or bool(largest < EXACT)


def _class_names_of(frame: pd.DataFrame) -> tuple[str, ...]:
    named = [name.removeprefix(PREFIX) for name in frame.columns if name.startswith(PREFIX)]
    return DEFAULT_CLASS_NAMES if "probability" in frame or len(named) < 2 else tuple(named)


def _with_label_codes(
    frame: pd.DataFrame, class_names: tuple[str, ...], *, where: str
) -> pd.DataFrame:
    if "label" not in frame:
        return frame.assign(label=np.int16(UNLABELLED))
    labels = frame["label"]
    if not pd.api.types.is_integer_dtype(labels):
        codes = {name: code for code, name in enumerate(class_names)}
        codes |= {str(code): code for code in range(-1, len(class_names))}
        text = labels.astype("string").str.removesuffix(".0")
        mapped = text.map(codes).where(text.notna(), UNLABELLED)
    else:
        mapped = labels.where(labels.between(UNLABELLED, len(class_names) - 1))
    if (unknown := mapped.isna()).any():
        row = int(np.flatnonzero(unknown.to_numpy())[0])
        raise ValueError(
            f"{where}: label {labels.iloc[row]} in row {row} is not a class; expected 0 to "
            f"{len(class_names) - 1} or one of {', '.join(class_names)}, {UNLABELLED} for none"
        )
    return frame.assign(label=mapped.astype(np.int16))


def _info_from_json(value: dict[str, Any], *, where: str) -> PredictionsInfo:
    check_schema_version(value.get("schema_version"), where=where)
    known = {field.name for field in fields(PredictionsInfo)}
    info = PredictionsInfo(**{k: v for k, v in value.items() if k in known})
    return replace(info, class_names=tuple(info.class_names))
