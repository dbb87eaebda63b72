"""A data set's folder while it is made: its files, and their reading and writing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ingest.config import JobConfig, job_from_plain
from shards.files import atomic_write, read_json
from shards.schema import (
    IDENTITY_COLUMNS,
    SAMPLE_COLUMNS,
    Dataset,
    ImageSpec,
    check_schema_version,
    dataset_from_json,
)

BLOCKS_A_ROW_GROUP = 64  # of plan.parquet: a worker reads one row group to find its block
ROW_GROUP = 1 << 17  # of other tables
REJECT_COLUMNS = {**IDENTITY_COLUMNS, "reason": pa.string()}


@dataclass(frozen=True, slots=True)
class Layout:
    """The files of the data set in `root`."""

    root: Path

    @property
    def plan_json(self) -> Path:
        """What was decided; written last by `plan`."""
        return self.root / "plan.json"

    @property
    def plan_table(self) -> Path:
        """A row a planned sample, in the order of the store."""
        return self.root / "plan.parquet"

    @property
    def plan_rejects(self) -> Path:
        """What the plan left out, and why."""
        return self.root / "plan-rejects.parquet"

    @property
    def dataset_json(self) -> Path:
        """Written last of all, by `finish`."""
        return self.root / "dataset.json"

    def block(self, number: int) -> Path:
        """The record of a finished block."""
        return self.root / "blocks" / f"{number:06d}.parquet"


@dataclass(frozen=True, slots=True)
class Plan:
    """A plan as `run` needs it."""

    document: dict[str, Any]
    job: JobConfig

    @property
    def num_blocks(self) -> int:
        """How many blocks there are to run."""
        return int(self.document["num_blocks"])


def plan_columns(job: JobConfig) -> dict[str, pa.DataType]:
    """Return the columns of plan.parquet; `file` is where an image that exists already lies."""
    columns = {name: kind for name, kind in SAMPLE_COLUMNS.items() if name != "qc_flags"}
    return {**columns, "file": pa.string()} if job.has_images else columns


def image_specs(
    job: JobConfig, voxel_size_nm: Mapping[str, Sequence[float]]
) -> dict[str, ImageSpec]:
    """Return what the images of each view are; `voxel_size_nm` gives each view's z, y, x."""
    specs = {}
    for name in sorted(job.samples.views):
        z, y, x = voxel_size_nm[name]
        specs[name] = ImageSpec(
            shape=job.samples.image_shape(name),
            dtype="uint8",
            channels=job.samples.channels,
            voxel_size_nm=(z, y, x),
        )
    return specs


def read_plan(layout: Layout) -> Plan:
    """Return the plan of a data set."""
    where = str(layout.plan_json)
    document = read_json(layout.plan_json, what="plan", cure="make it with `python -m ingest plan`")
    check_schema_version(document.get("schema_version"), where=where)
    return Plan(document, job_from_plain(document["config"], where=where))


def read_dataset(layout: Layout) -> Dataset:
    """Return the description of a finished data set."""
    where = layout.dataset_json
    value = read_json(where, what="finished data set", cure="run `python -m ingest finish` on it")
    return dataset_from_json(value, where=str(where))


def write_table(
    path: Path,
    frame: pd.DataFrame,
    columns: dict[str, pa.DataType],
    row_group_size: int | None = None,
) -> None:
    """Write the columns of a frame as parquet, atomically; the same bytes for the same rows.

    A sample without a key of its own goes by its synapse's id.
    """
    schema = pa.schema(list(columns.items()))
    size = row_group_size or ROW_GROUP
    with atomic_write(path) as file, pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for start in range(0, max(len(frame), 1), size):
            part = frame.iloc[start : start + size]
            if "key" in columns and "key" not in part:
                part = part.assign(key=part.synapse_id.astype(str))
            table = pa.Table.from_pandas(part[list(columns)], schema, preserve_index=False)
            writer.write_table(table.replace_schema_metadata(None))


def read_table(path: Path, **options: Any) -> pd.DataFrame:
    """Return a parquet file of ours as a frame."""
    try:
        frame: pd.DataFrame = pq.read_table(path, **options).to_pandas()
    except FileNotFoundError:
        raise ValueError(f"{path}: missing; delete the data set and plan it again") from None
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path}: damaged ({error}); delete it and run again") from None
    return frame
