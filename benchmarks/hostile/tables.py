"""Synapse tables as CSV and parquet, and predictions.

Same meaning: delimiters, quoting, line ends, compression, order of rows and columns, types, row
groups. Damage to text is judged by Python's csv module and int and float, cell by cell; damage to
parquet by pyarrow with the page checksums that the base is written with.
"""

import bz2
import csv
import gzip
import io
import json
import random
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.hostile.damage import damaged
from benchmarks.hostile.kinds import Answer, Case, Kind
from benchmarks.hostile.samples import predictions, rows, synapses, write_job_folder
from eval.inputs.predictions import read_predictions
from ingest.job.job_file import load_job
from ingest.tables.complete_job import complete_job
from ingest.tables.synapse_tables import synapse_batches

WHOLE = re.compile(r"[+-]?\d+(\.0*)?$")


def write_csv(frame: pd.DataFrame, rng: random.Random) -> tuple[str, bytes]:
    """Return the ending and the bytes of one of the ways to write a table as text."""
    delimiter = rng.choice((",", ",", ";", "\t"))
    text = frame.to_csv(
        index=False,
        sep=delimiter,
        quoting=rng.choice((csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC)),
        lineterminator=rng.choice(("\n", "\r\n")),
    )
    if rng.random() < 0.2:
        text = text.rstrip("\r\n")
    data = text.encode(rng.choice(("utf-8", "utf-8", "utf-8-sig")))
    ending = ".tsv" if delimiter == "\t" and rng.random() < 0.5 else ".csv"
    packed = rng.choice(("", "", ".gz", ".bz2"))
    data = gzip.compress(data) if packed == ".gz" else bz2.compress(data) if packed else data
    return ending + packed, data


def write_parquet(frame: pd.DataFrame, rng: random.Random, ids: list[str]) -> bytes:
    """Return one of the ways to write a table as parquet."""
    table = pa.Table.from_pandas(frame, preserve_index=False)
    for name in ids:
        kind = rng.choice((None, None, pa.uint64(), pa.string(), pa.large_string()))
        if kind is not None:
            place = table.schema.get_field_index(name)
            table = table.set_column(place, name, table.column(name).cast(kind))
    buffer = io.BytesIO()
    pq.write_table(
        table,
        buffer,
        compression=rng.choice(("none", "snappy", "gzip", "zstd", "lz4", "brotli")),
        row_group_size=rng.choice((3, 16, 1000)),
        use_dictionary=rng.random() < 0.5,
        data_page_version=rng.choice(("1.0", "2.0")),
        version=rng.choice(("1.0", "2.4", "2.6")),
        write_page_checksum=True,
    )
    return buffer.getvalue()


def mixed(frame: pd.DataFrame, rng: random.Random) -> pd.DataFrame:
    """Return the frame with rows and columns in another order, and one more column."""
    columns = rng.sample(list(frame.columns), len(frame.columns))
    order = rng.sample(range(len(frame)), len(frame))
    return frame.iloc[order][columns].assign(note='n, "o"; t')


class Synapses(Kind):
    """The synapse table of a job, as ingest reads it."""

    path: Path

    def write_base(self) -> None:
        """Write parquet."""
        self.config = write_job_folder(self.folder)
        self.path = self.folder / "synapses.parquet"
        self.frame = synapses()

    def answer(self) -> Answer:
        """Return the rows."""
        self.config["synapses"]["path"] = str(self.path)
        job = self.folder / "job.yaml"
        job.write_text(json.dumps(self.config))
        return rows(pd.concat(synapse_batches(complete_job(load_job(job)))))

    def put(self, ending: str, data: bytes) -> None:
        """Write the table in place of the one before."""
        for old in self.folder.glob("synapses.*"):
            old.unlink()
        self.path = self.folder / f"synapses{ending}"
        self.path.write_bytes(data)

    def read_frame(self, frame: pd.DataFrame) -> Answer:
        """Return the rows that ingest must read from values that an independent reader found."""
        out = {
            "synapse_id": [whole(v) for v in frame["id"]],
            "pre_root_id": [whole(v) if filled(v) else 0 for v in frame["pre_pt_root_id"]],
            "post_root_id": [whole(v) if filled(v) else 0 for v in frame["post_pt_root_id"]],
            "size": [float(v) if filled(v) else None for v in frame["size"]],
            "ei": [v if filled(v) else None for v in frame["ei"]],
        }
        for axis, nm in zip("xyz", (8, 8, 40), strict=True):
            values = frame[f"ctr_pt_position_{axis}"]
            out[f"center_{axis}_nm"] = [float(v) * nm for v in values]
        return rows(pd.DataFrame({name: pd.Series(v, dtype=object) for name, v in out.items()}))


class SynapseCsv(Synapses):
    """As text."""

    def edit(self, rng: random.Random) -> Case:
        """Write the same otherwise, or damage."""
        if rng.random() < 0.35:
            ending, data = write_csv(mixed(self.frame, rng), rng)
            self.put(ending, data)
            return self.same(f"same as {ending}")
        name, data = damaged(self.frame.to_csv(index=False).encode(), rng)
        self.put(".csv", data)
        return self.as_read(name, lambda: self.read_frame(strict_csv(data)))


class SynapseParquet(Synapses):
    """As parquet."""

    def edit(self, rng: random.Random) -> Case:
        """Write the same otherwise, or damage."""
        ids = ["id", "pre_pt_root_id", "post_pt_root_id"]
        data = write_parquet(mixed(self.frame, rng), rng, ids)
        if rng.random() < 0.35:
            self.put(".parquet", data)
            return self.same("same")
        name, data = damaged(data, rng)
        self.put(".parquet", data)
        return self.as_read(name, lambda: self.read_frame(checked_parquet(data)))


class Predictions(Kind):
    """A table of predictions that another tool wrote, as CSV or parquet."""

    path: Path

    def write_base(self) -> None:
        """Write CSV."""
        self.frame = predictions()
        self.path = self.folder / "p.csv"
        self.path.write_bytes(self.frame.to_csv(index=False).encode())

    def answer(self) -> Answer:
        """Return the rows of the columns that count."""
        frame, info = read_predictions(self.path)
        names = ["synapse_id", "split", "label", "probability", "neuron_id"]
        frame = frame.reindex(columns=names).astype({"split": object})
        frame["neuron_id"] = frame["neuron_id"].fillna(0)  # unknown
        return rows(frame.assign(split=frame["split"].str.lower())), info.class_names

    def edit(self, rng: random.Random) -> Case:
        """Write the same otherwise, or damage."""
        self.path.unlink()
        as_text = rng.random() < 0.5
        same = rng.random() < 0.35
        if as_text and same:
            ending, data = write_csv(mixed(self.frame, rng), rng)
        elif as_text:
            ending, data = ".csv", self.frame.to_csv(index=False).encode()
        else:
            data = write_parquet(mixed(self.frame, rng), rng, ["synapse_id", "neuron"])
            ending = ".parquet"
        name = "same"
        if not same:
            name, data = damaged(data, rng)
        self.path = self.folder / f"p{ending}"
        self.path.write_bytes(data)
        if same:
            return self.same(f"same as {ending}")
        read = strict_csv if as_text else checked_parquet
        return self.as_read(f"{ending} {name}", lambda: self._read(read(data)))

    def _read(self, frame: pd.DataFrame) -> Answer:
        out = {
            "synapse_id": [whole(v) for v in frame["synapse_id"]],
            "split": [str(v).strip().lower() for v in frame["split"]],
            "label": [whole(v) if filled(v) else -1 for v in frame["label"]],
            "probability": [float(v) for v in frame["probability"]],
        }
        known = frame["neuron"] if "neuron" in frame else [None] * len(frame)
        out["neuron_id"] = [whole(v) if filled(v) else 0 for v in known]
        names = self.right[1]
        return rows(pd.DataFrame({k: pd.Series(v, dtype=object) for k, v in out.items()})), names


def strict_csv(data: bytes) -> pd.DataFrame:
    """Return the cells as text; a line of another width, or bytes that are no UTF-8, are errors."""
    lines = list(csv.reader(io.StringIO(data.decode(), newline=""), strict=True))
    lines = [line for line in lines if line]
    if len({len(line) for line in lines}) != 1 or len(set(lines[0])) != len(lines[0]):
        raise ValueError("not a table")
    return pd.DataFrame(lines[1:], columns=lines[0], dtype=object)


def checked_parquet(data: bytes) -> pd.DataFrame:
    """Return the values; pages whose checksum is wrong are errors."""
    table = pq.read_table(io.BytesIO(data), page_checksum_verification=True)
    return pd.DataFrame(
        {n: pd.Series(table.column(n).to_pylist(), dtype=object) for n in table.column_names}
    )


def filled(value: Any) -> bool:
    """Whether a cell holds something."""
    return value is not None and str(value).strip() != ""


def whole(value: Any) -> int:
    """Return a cell as a whole number."""
    if isinstance(value, int) or (isinstance(value, str) and re.fullmatch(r"\s*\d+\s*", value)):
        return int(value)
    raise ValueError(f"no whole number: {value!r}")
