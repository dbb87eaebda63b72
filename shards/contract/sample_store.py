"""The sample store: a zarr group and a table that `ingest` writes and `shards pack` reads.

One inner chunk is one sample, so that reading a sample is one ranged read. Chunks carry a crc32c
and are not compressed unless the job names a codec: EM hardly shrinks (zstd 1.00 to 1.07 times on
mouse cortex) and inflating it costs more than reading it; masks shrink a hundredfold. A rejected
sample leaves a hole that takes no room.

A writer owns whole zarr shards. `rows_per_shard` rows share one file, which every write rewrites,
so two writers in one shard lose each other's samples in silence. `write_rows` therefore accepts
only whole shards: rows from a multiple of `rows_per_shard` up to the next one, or to the end.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import zarr
from zarr.storage import LocalStore

from shards.contract.documents import read_bytes, write_document
from shards.contract.parquet import read_parquet
from shards.contract.schema import (
    SAMPLE_COLUMNS,
    SCHEMA_VERSION,
    Codec,
    Dataset,
    ImageSpec,
    check_schema_version,
    parse_dataset,
    with_names,
)
from shards.contract.zarr_shard import ShardFiles, chunk_codecs, compressor_of, write_shard
from shards.storage.atomic import TEMPORARY_PATTERN, atomic_write, sha256_of_file

ARRAYS, SAMPLES, DATASET = "samples.zarr", "samples.parquet", "dataset.json"
CURE = "run `python -m ingest finish DATASET`"
VERSION_ATTRIBUTE = "synshards_schema_version"
Array = zarr.Array[Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleStore:
    """A complete store: its description, its accepted samples in order of `row`, its images."""

    path: Path
    dataset: Dataset
    samples: pa.Table

    def array(self, view: str) -> Array:
        """Return the zarr array of a view: (n, c, y, x) or (n, c, z, y, x), indexed by `row`."""
        if view not in self.dataset.views:
            raise ValueError(
                f"{self.path} holds no {view} images, only {', '.join(self.dataset.views)}; "
                f"add `{view}` to the ingest config's views and run it again"
            )
        return _open_array(self.path, view, mode="r")

    def files(self, view: str) -> ShardFiles:
        """Return a fast reader of a view's images by `row`, for one thread."""
        return ShardFiles(self.array(view), self.path / ARRAYS / view)


def create_store(
    dataset_dir: Path,
    views: Mapping[str, ImageSpec],
    num_rows: int,
    rows_per_shard: int,
    *,
    codec: Codec = "none",
) -> None:
    """Create `dataset_dir/samples.zarr` with an empty array of `num_rows` images for each view.

    Replaces arrays that are already there. One process calls it, before any writer starts.
    """
    if num_rows < 1 or rows_per_shard < 1:
        raise ValueError(
            f"a store needs rows and rows a shard, got {num_rows} and {rows_per_shard}"
        )
    group = zarr.create_group(dataset_dir / ARRAYS, overwrite=True, zarr_format=3)
    for view, spec in views.items():
        if not view.startswith(spec.view) or spec.dtype != "uint8":
            raise ValueError(f"view {view!r} must be uint8 with matching axes, got {spec}")
        group.create_array(
            view,
            shape=(num_rows, *spec.shape),
            chunks=(1, *spec.shape),
            shards=(rows_per_shard, *spec.shape),
            dtype=spec.dtype,
            fill_value=0,
            filters=None,
            compressors=chunk_codecs(codec),
            dimension_names=("row", *spec.axes),
            attributes={"voxel_size_nm": list(spec.size_nm), "channels": list(spec.channels)},
        )
    group.attrs[VERSION_ATTRIBUTE] = SCHEMA_VERSION


def open_for_write(dataset_dir: Path, view: str) -> Array:
    """Return a view's array to write to, through `write_rows`."""
    return _open_array(dataset_dir, view, mode="r+")


def write_rows(array: Array, start: int, images: np.ndarray) -> None:
    """Write `images` (rows, c, [z], y, x) at row `start`; they must fill whole zarr shards.

    A row of zeros is a hole: nothing is stored for it. Writing the same rows again gives the
    same bytes, so an interrupted block is simply run again. On return the bytes are on the disk.
    """
    assert array.shards is not None
    rows_per_shard, num_rows = array.shards[0], array.shape[0]
    stop = start + len(images)
    if start % rows_per_shard or (stop % rows_per_shard and stop != num_rows):
        raise ValueError(
            f"rows {start} to {stop} do not fill whole zarr shards of {rows_per_shard} rows "
            f"(of {num_rows}); another writer may own the rest: write whole shards"
        )
    if images.shape[1:] != array.shape[1:] or images.dtype != array.dtype:
        raise ValueError(
            f"images of {images.dtype} {images.shape[1:]} do not fit the array of "
            f"{array.dtype} {array.shape[1:]}"
        )
    images, compressor = np.ascontiguousarray(images), compressor_of(array)
    for row in range(start, stop, rows_per_shard):
        part = images[row - start : row - start + rows_per_shard]
        write_shard(shard_path(array, row // rows_per_shard), part, rows_per_shard, compressor)


def shard_path(array: Array, shard: int) -> Path:
    """Return the file of a zarr shard of a store's array."""
    store = array.store
    assert isinstance(store, LocalStore)
    return store.root.joinpath(array.path, "c", str(shard), *["0"] * (array.ndim - 1))


def remove_leftovers(dataset_dir: Path) -> None:
    """Remove what killed writers left; nobody else may be writing."""
    for path in dataset_dir.rglob(TEMPORARY_PATTERN):
        path.unlink(missing_ok=True)


def conform(table: pa.Table | pd.DataFrame, columns: Mapping[str, pa.DataType]) -> pa.Table:
    """Return `columns`, and names where there are any, in order and type, without null texts."""
    if isinstance(table, pd.DataFrame):
        table = pa.Table.from_pandas(table, preserve_index=False)
    if missing := [name for name in columns if name not in table.column_names]:
        raise ValueError(
            f"table lacks the columns {', '.join(missing)}; it has {', '.join(table.column_names)}"
        )
    columns = with_names(columns, table.column_names)
    schema = pa.schema(list(columns.items()))
    return table.select(list(columns)).replace_schema_metadata(None).cast(schema).combine_chunks()


def write_samples(dataset_dir: Path, samples: pa.Table | pd.DataFrame) -> None:
    """Write `samples.parquet`: the accepted samples, in the columns of `SAMPLE_COLUMNS`."""
    table = conform(samples, SAMPLE_COLUMNS).sort_by("row")
    with atomic_write(dataset_dir / SAMPLES) as file:
        pq.write_table(table, file, compression="zstd")


def file_hashes(dataset_dir: Path, views: Iterable[str], *names: str) -> dict[str, str]:
    """Return the SHA-256 of the named files and of the zarr metadata, by path in the store."""
    arrays = [f"{ARRAYS}/zarr.json", *(f"{ARRAYS}/{view}/zarr.json" for view in views)]
    return {name: sha256_of_file(dataset_dir / name) for name in (*names, *arrays)}


def write_dataset(dataset_dir: Path, dataset: Dataset) -> None:
    """Write `dataset.json`, the last file of a store: its presence says that all is there."""
    write_document(dataset_dir / DATASET, dataset)


def read_dataset(dataset_dir: Path) -> Dataset:
    """Return the description of a complete store."""
    path, what = dataset_dir / DATASET, "finished data set"
    data = read_bytes(path, what=what, cure=CURE)
    return parse_dataset(data, where=f"{path}: not a {what}", cure=CURE)


def check_metadata(dataset_dir: Path, files: Mapping[str, str]) -> None:
    """Refuse a store whose zarr metadata is not what its SHA-256 in `files` says."""
    for name, sha256 in files.items():
        if name.endswith("zarr.json") and sha256_of_file(dataset_dir / name) != sha256:
            raise ValueError(
                f"{dataset_dir / name}: altered since it was written, its SHA-256 differs; copy "
                "the data set again, or run the ingest again"
            )


def open_store(dataset_dir: Path) -> SampleStore:
    """Open a complete store and check that its table fits its arrays and its description."""
    path, dataset = dataset_dir / DATASET, read_dataset(dataset_dir)
    check_metadata(dataset_dir, dataset.files)
    table = read_parquet(dataset_dir / SAMPLES, dataset.files.get(SAMPLES), cure=CURE)
    samples = conform(table, SAMPLE_COLUMNS).sort_by("row")
    store = SampleStore(path=dataset_dir, dataset=dataset, samples=samples)
    if len(samples) != dataset.num_samples:
        raise ValueError(
            f"{dataset_dir / SAMPLES} has {len(samples)} rows but {path} says "
            f"{dataset.num_samples}; {CURE}"
        )
    _check_rows(store)
    return store


def _check_rows(store: SampleStore) -> None:
    where = store.path / SAMPLES
    rows = store.samples["row"].to_numpy()
    keys = store.samples["key"]
    if len(np.unique(rows)) != len(rows) or len(keys.unique()) != len(keys):
        raise ValueError(f"{where}: `row` and `key` must be unique; run the ingest's finish again")
    for name, spec in store.dataset.views.items():
        array = _open_array(store.path, name, mode="r")
        if array.shape[1:] != spec.shape or str(array.dtype) != spec.dtype:
            raise ValueError(
                f"{store.path / ARRAYS}/{name} holds {array.dtype} {array.shape[1:]} but "
                f"{DATASET} says {spec.dtype} {spec.shape}; run the ingest again"
            )
        if len(rows) and not 0 <= rows[0] <= rows[-1] < array.shape[0]:
            raise ValueError(
                f"{where}: rows {rows[0]} to {rows[-1]} do not fit the {array.shape[0]} images "
                f"of {name}; run the ingest again"
            )


def _open_array(dataset_dir: Path, view: str, *, mode: Any) -> Array:
    path = dataset_dir / ARRAYS
    try:
        group = zarr.open_group(path, mode=mode, zarr_format=3)
        array = group[view]
    except (FileNotFoundError, KeyError):
        raise ValueError(
            f"{path}: no zarr array {view!r}; run the ingest again: python -m ingest run DATASET"
        ) from None
    check_schema_version(group.attrs.get(VERSION_ATTRIBUTE), where=str(path))
    assert isinstance(array, zarr.Array)
    return array
