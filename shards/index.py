"""A split's index: where each sample's voxels lie, and who the sample is."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from shards.schema import (
    INDEX_COLUMNS,
    SCHEMA_VERSION,
    ImageSpec,
    ShardInfo,
    SplitInfo,
    check_schema_version,
)
from shards.storage import Storage

METADATA_KEY = b"synshards"
LOADING_THREADS = 8
# What streaming needs; the other columns are read when somebody asks for them.
HOT_COLUMNS = ("neuron_id", "label", "offset", "length", "crc32c")


@dataclass(frozen=True)
class Index:
    """All samples of a split, in the order of the shards and of the samples in them.

    `shard` (n,) int32 is the number of a sample's shard in the split; `label` (n,) int16;
    `neuron_id`, `offset`, `length` (n,) int64; `crc32c` (n,) uint32.
    """

    split: str
    shards: tuple[ShardInfo, ...]
    storage: Storage
    image: ImageSpec
    shard: np.ndarray
    label: np.ndarray
    neuron_id: np.ndarray
    offset: np.ndarray
    length: np.ndarray
    crc32c: np.ndarray

    def __len__(self) -> int:
        return len(self.shard)

    @cached_property
    def table(self) -> pa.Table:
        """Every column of `INDEX_COLUMNS`, a row a sample; read on first use."""
        return _load(self.storage, self.shards, self.image, tuple(INDEX_COLUMNS))

    def column(self, name: str) -> np.ndarray:
        """Return one column of `INDEX_COLUMNS`; text as objects."""
        if name in HOT_COLUMNS:
            return np.asarray(getattr(self, name))
        if name not in INDEX_COLUMNS:
            raise ValueError(f"no index column {name!r}; there are {', '.join(INDEX_COLUMNS)}")
        loaded = _load(self.storage, self.shards, self.image, (name,))
        return np.asarray(loaded[name].to_numpy())


def load_index(storage: Storage, split: str, info: SplitInfo, image: ImageSpec) -> Index:
    """Read and check the index files of a split."""
    hot = _load(storage, info.shards, image, HOT_COLUMNS)
    counts = [shard.num_samples for shard in info.shards]
    return Index(
        split=split,
        shards=info.shards,
        storage=storage,
        image=image,
        shard=np.repeat(np.arange(len(counts), dtype=np.int32), counts),
        **{name: hot[name].to_numpy() for name in HOT_COLUMNS},
    )


def parse_index(data: bytes, *, where: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Return an index file's table after checking its schema version."""
    file = pq.ParquetFile(pa.BufferReader(data))
    notes = index_notes(file.metadata.metadata, where)
    check_schema_version(notes.get("schema_version"), where=where)
    return file.read(columns=list(columns or INDEX_COLUMNS), use_threads=False)


def index_notes(metadata: Mapping[bytes, bytes] | None, where: str) -> dict[str, Any]:
    """Return what the writer noted in an index file's metadata."""
    try:
        notes = json.loads((metadata or {})[METADATA_KEY])
    except (KeyError, ValueError):
        raise ValueError(f"{where}: not a shard's index; pack the shards again") from None
    return dict(notes)


def notes_metadata(notes: dict[str, Any]) -> dict[bytes, bytes]:
    """Return parquet metadata that `index_notes` reads back."""
    value = {"schema_version": SCHEMA_VERSION, **notes}
    return {METADATA_KEY: json.dumps(value, sort_keys=True).encode()}


def load_shard_table(
    storage: Storage,
    shard: ShardInfo,
    image: ImageSpec,
    columns: Sequence[str] = tuple(INDEX_COLUMNS),
) -> pa.Table:
    """Return some columns of a shard's index after checking hash, version, rows and places."""
    where = f"{storage.url}/{shard.index_name}"
    data = storage.read(shard.index_name)
    if hashlib.sha256(data).hexdigest() != shard.index_sha256:
        raise ValueError(
            f"{where} is not the index that the manifest names (its SHA-256 differs); "
            "copy it again, or pack again"
        )
    checked = dict.fromkeys([*columns, "offset", "length"])
    table = parse_index(data, where=where, columns=tuple(checked))
    encoded = index_notes(table.schema.metadata, where).get("encoded", False)
    _check(where, shard, table, None if encoded else image)
    return table.replace_schema_metadata(None).select(list(columns))


def _load(
    storage: Storage, shards: Sequence[ShardInfo], image: ImageSpec, columns: Sequence[str]
) -> pa.Table:
    with ThreadPoolExecutor(LOADING_THREADS) as pool:
        tables = pool.map(lambda shard: load_shard_table(storage, shard, image, columns), shards)
        empty = pa.schema([(name, INDEX_COLUMNS[name]) for name in columns]).empty_table()
        return pa.concat_tables([empty, *tables])


def _check(where: str, shard: ShardInfo, table: pa.Table, image: ImageSpec | None) -> None:
    """Refuse rows that cannot be: of another number, size (where images have one) or place."""
    offset, length = table["offset"].to_numpy(), table["length"].to_numpy()
    if len(table) != shard.num_samples:
        raise ValueError(
            f"{where} has {len(table)} rows, the manifest says {shard.num_samples}; pack again"
        )
    if image and np.any(length != (nbytes := image.nbytes)):
        row = int(np.argmax(length != nbytes))
        raise ValueError(
            f"{where}: row {row} has {length[row]} bytes, an image of {image.dtype} "
            f"{image.shape} has {nbytes}; pack again"
        )
    if len(table) and (offset.min() < 0 or (offset + length).max() > shard.bytes):
        raise ValueError(f"{where} points behind the end of {shard.name}; pack again")
