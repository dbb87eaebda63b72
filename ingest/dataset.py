"""A data set's folder while it is made: its files, and their reading and writing."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ingest.job.job_config import JobConfig
from shards.contract.parquet import blank_seal, read_parquet, sealed
from shards.contract.sample_store import DATASET
from shards.contract.schema import (
    IDENTITY_COLUMNS,
    SAMPLE_COLUMNS,
    Dataset,
    ImageSpec,
    with_names,
)
from shards.storage.atomic import atomic_write

BLOCKS_A_ROW_GROUP = 64  # of plan.parquet: a worker reads one row group to find its block
ROW_GROUP = 1 << 17  # of other tables
REJECT_COLUMNS = {**IDENTITY_COLUMNS, "reason": pa.string()}


@dataclass(frozen=True, slots=True)
class Layout:
    """The files of the data set in `root`."""

    root: Path

    @property
    def plan_json(self) -> Path:
        """The decisions; written last by `plan`."""
        return self.root / "plan.json"

    @property
    def plan_table(self) -> Path:
        """A row a planned sample, in the order of the store."""
        return self.root / "plan.parquet"

    @property
    def plan_rejects(self) -> Path:
        """Samples that the plan left out, with the reason."""
        return self.root / "plan-rejects.parquet"

    @property
    def dataset_json(self) -> Path:
        """Written last of all, by `finish`."""
        return self.root / DATASET

    def block(self, number: int) -> Path:
        """The record of a finished block."""
        return self.root / "blocks" / f"{number:06d}.parquet"


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


def write_table(
    path: Path,
    frame: pd.DataFrame,
    columns: dict[str, pa.DataType],
    row_group_size: int | None = None,
) -> None:
    """Write the columns of a frame as parquet, atomically; the same bytes for the same rows.

    A sample without a key of its own goes by its synapse's id.
    """
    with atomic_write(path) as file:
        _write(file, frame, columns, row_group_size or ROW_GROUP)


def write_block(path: Path, frame: pd.DataFrame, columns: dict[str, pa.DataType]) -> None:
    """Write a block's record as `write_table` does, with its own SHA-256 in it."""
    data = io.BytesIO()
    _write(data, frame, columns, ROW_GROUP, metadata=blank_seal())
    with atomic_write(path) as file:
        file.write(sealed(data.getvalue()))


def read_table(path: Path, sha256: str | None = None) -> pd.DataFrame:
    """Return a parquet file of ours as a frame, checked by its SHA-256 where that is known."""
    cure = "delete the data set and plan it again"
    frame: pd.DataFrame = read_parquet(path, sha256, cure=cure).to_pandas()
    return frame


def read_finished(layout: Layout, name: str, dataset: Dataset) -> pd.DataFrame:
    """Return a table that `finish` wrote, checked by what dataset.json says of it."""
    cure = f"run `python -m ingest finish {layout.root}` again"
    table = read_parquet(layout.root / name, dataset.files.get(name), cure=cure)
    frame: pd.DataFrame = table.to_pandas()
    return frame


def _write(
    file: BinaryIO,
    frame: pd.DataFrame,
    columns: dict[str, pa.DataType],
    row_group_size: int,
    metadata: Mapping[str, str] | None = None,
) -> None:
    columns, size = with_names(columns, frame), row_group_size
    schema = pa.schema(list(columns.items()))
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for start in range(0, max(len(frame), 1), size):
            part = frame.iloc[start : start + size]
            if "key" in columns and "key" not in part:
                part = part.assign(key=part.synapse_id.astype(str))
            table = pa.Table.from_pandas(part[list(columns)], schema, preserve_index=False)
            writer.write_table(table.replace_schema_metadata(None))
        if metadata is not None:
            writer.add_key_value_metadata(metadata)
