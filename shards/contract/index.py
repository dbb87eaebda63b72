"""A split's index: where each sample's voxels lie, and who the sample is."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from shards.contract.documents import document, parse_json
from shards.contract.schema import (
    INDEX_COLUMNS,
    NAME_COLUMNS,
    SCHEMA_VERSION,
    UNLABELLED,
    Manifest,
    ShardInfo,
    check_schema_version,
    with_names,
)
from shards.contract.statistics import Moments
from shards.storage.local import Storage
from shards.workers.threads import Pool

METADATA_KEY = b"synshards"
LOADING_THREADS = 8
KINDS = {**INDEX_COLUMNS, **NAME_COLUMNS}
# What streaming needs; the other columns are read when somebody asks for them.
HOT_COLUMNS = ("neuron_id", "label", "offset", "length", "crc32c")
MAX_BYTES_A_ROW, MAX_BYTES = 4096, 1 << 20  # of an index: as a file, and unpacked


@document
@dataclass(frozen=True, kw_only=True, slots=True)
class IndexNotes:
    """Notes of an index's writer beside its rows.

    `plan` names all that decides a packed shard's bytes; `moments` are those of its voxels.
    `sha256` is the hash of the other notes and of all rows; an index without it is read unchecked.
    """

    schema_version: int = SCHEMA_VERSION
    plan: str = ""
    tar_bytes: int = 0
    tar_sha256: str = ""
    moments: Moments | None = None
    encoded: bool = False
    sha256: str = ""


@dataclass(frozen=True)
class Index:
    """All samples of a split, in the order of the shards and of the samples in them.

    `shard` (n,) int32 is the number of a sample's shard in the split; `label` (n,) int16;
    `neuron_id`, `offset`, `length` (n,) int64; `crc32c` (n,) uint32.
    """

    split: str
    shards: tuple[ShardInfo, ...]
    storage: Storage
    manifest: Manifest
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
        """Every column of `INDEX_COLUMNS`, and names of ids if any; read on first use."""
        return _load(self.storage, self.manifest, self.shards, tuple(INDEX_COLUMNS))

    def column(self, name: str) -> np.ndarray:
        """Return one column of `INDEX_COLUMNS`; text as objects."""
        if name in HOT_COLUMNS:
            return np.asarray(getattr(self, name))
        if name not in INDEX_COLUMNS:
            raise ValueError(f"no index column {name!r}; there are {', '.join(INDEX_COLUMNS)}")
        loaded = _load(self.storage, self.manifest, self.shards, (name,))
        return np.asarray(loaded[name].to_numpy())


def load_index(storage: Storage, manifest: Manifest, split: str) -> Index:
    """Read and check the index files of a split."""
    shards = manifest.splits[split].shards
    hot = _load(storage, manifest, shards, HOT_COLUMNS)
    counts = [shard.num_samples for shard in shards]
    return Index(
        split=split,
        shards=shards,
        storage=storage,
        manifest=manifest,
        shard=np.repeat(np.arange(len(counts), dtype=np.int32), counts),
        **{name: hot[name].to_numpy() for name in HOT_COLUMNS},
    )


def index_bytes(table: pa.Table, notes: IndexNotes) -> bytes:
    """Return the file of an index: the columns of `INDEX_COLUMNS` and the notes with their hash."""
    noted = replace(notes, sha256=_content_sha256(table, notes))
    buffer = pa.BufferOutputStream()
    pq.write_table(
        table.replace_schema_metadata({METADATA_KEY: _notes_json(noted)}),
        buffer,
        compression="zstd",
    )
    data: bytes = buffer.getvalue().to_pybytes()
    return data


def parse_index(
    data: bytes, *, where: str, max_rows: int, columns: Sequence[str] = tuple(INDEX_COLUMNS)
) -> tuple[pa.Table, IndexNotes]:
    """Return some columns of an index file, without nulls, and its notes, after checking both.

    The notes' hash is checked where all columns are read.
    """
    cure = "copy the shard set again, or make it again"
    if len(data) > MAX_BYTES + MAX_BYTES_A_ROW * max_rows:
        raise ValueError(f"{where}: {len(data)} bytes are too many for {max_rows} rows; {cure}")
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        notes = _notes(file.metadata.metadata, where)
        if whole := tuple(columns) == tuple(INDEX_COLUMNS):
            columns = tuple(with_names(INDEX_COLUMNS, file.schema_arrow.names))
        _check_layout(file, max_rows, columns, where)
        table = file.read(columns=list(columns), use_threads=False)
    except (pa.ArrowException, OSError, MemoryError) as error:
        text = " ".join(str(error).split())[:200]
        raise ValueError(f"{where}: not readable as parquet ({text}); {cure}") from None
    if empty := [n for n in columns if table[n].null_count and not _may_be_empty(n)]:
        raise ValueError(f"{where}: column {empty[0]} has empty cells; {cure}")
    if whole and notes.sha256 and notes.sha256 != _content_sha256(table, notes):
        raise ValueError(f"{where}: altered since it was written, its SHA-256 differs; {cure}")
    return table.replace_schema_metadata(None), notes


def load_shard_table(
    storage: Storage,
    manifest: Manifest,
    shard: ShardInfo,
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
    checked = dict.fromkeys([*columns, "offset", "length", "label"])
    table, _ = parse_index(data, where=where, max_rows=shard.num_samples, columns=tuple(checked))
    _check_rows(where, manifest, shard, table)
    whole = tuple(columns) == tuple(INDEX_COLUMNS)
    return table if whole else table.select(list(columns))


def _load(
    storage: Storage, manifest: Manifest, shards: Sequence[ShardInfo], columns: Sequence[str]
) -> pa.Table:
    with Pool(LOADING_THREADS, "shards-index") as pool:
        tables = pool.map(lambda shard: load_shard_table(storage, manifest, shard, columns), shards)
        empty = pa.schema([(name, INDEX_COLUMNS[name]) for name in columns]).empty_table()
        return pa.concat_tables([empty, *tables], promote_options="default")


def _notes(metadata: Mapping[bytes, bytes] | None, where: str) -> IndexNotes:
    where, cure = f"{where}: not a shard's index", "pack the shards again, or index the tars again"
    text = (metadata or {}).get(METADATA_KEY)
    if text is None:
        raise ValueError(f"{where}; {cure}")
    notes = parse_json(IndexNotes, text, where=where, cure=cure)
    check_schema_version(notes.schema_version, where=where)
    return notes


def _may_be_empty(name: str) -> bool:
    return bool(pa.types.is_floating(KINDS[name]))


def _content_sha256(table: pa.Table, notes: IndexNotes) -> str:
    """Return the hash of the notes, but for their own, and of all values by column."""
    hashed = hashlib.sha256(_notes_json(replace(notes, sha256="")))
    for name, kind in with_names(INDEX_COLUMNS, table.column_names).items():
        values = table[name].to_numpy()
        is_text = pa.types.is_string(kind)
        hashed.update(json.dumps(values.tolist()).encode() if is_text else values.tobytes())
    return hashed.hexdigest()


def _notes_json(notes: IndexNotes) -> bytes:
    return json.dumps(asdict(notes), sort_keys=True).encode()


def _check_layout(file: pq.ParquetFile, max_rows: int, columns: Sequence[str], where: str) -> None:
    """Refuse other columns, and what would take more memory than its rows may."""
    metadata, schema = file.metadata, file.schema_arrow
    for name in columns:
        kind = KINDS[name]
        if name not in schema.names or schema.field(name).type != kind:
            found = schema.field(name).type if name in schema.names else "missing"
            raise ValueError(f"{where}: column {name} is {found}, expected {kind}; make it again")
    unpacked = sum(
        metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups)
    )
    if metadata.num_rows > max_rows or unpacked > MAX_BYTES + MAX_BYTES_A_ROW * max_rows:
        raise ValueError(
            f"{where} has {metadata.num_rows} rows that unpack to {unpacked} bytes, the manifest "
            f"says {max_rows} rows (of up to {MAX_BYTES_A_ROW} bytes); pack again"
        )


def _check_rows(where: str, manifest: Manifest, shard: ShardInfo, table: pa.Table) -> None:
    """Refuse rows that cannot be: of another number, size (where images have one), place, class."""
    offset, length = table["offset"].to_numpy(), table["length"].to_numpy()
    label, image = table["label"].to_numpy(), manifest.image
    if len(table) != shard.num_samples:
        raise ValueError(
            f"{where} has {len(table)} rows, the manifest says {shard.num_samples}; pack again"
        )
    if not manifest.pack.encoded and np.any(length != (nbytes := image.nbytes)):
        row = int(np.argmax(length != nbytes))
        raise ValueError(
            f"{where}: row {row} has {length[row]} bytes, an image of {image.dtype} "
            f"{image.shape} has {nbytes}; pack again"
        )
    within = (length >= 0) & (length <= shard.bytes)
    if not np.all(within & (offset >= 0) & (offset <= shard.bytes - np.where(within, length, 0))):
        raise ValueError(f"{where} points behind the end of {shard.name}; pack again")
    if np.any((label < UNLABELLED) | (label >= len(manifest.class_names))):
        raise ValueError(
            f"{where}: labels {label.min()} to {label.max()} do not fit the "
            f"{len(manifest.class_names)} classes of the manifest; pack again"
        )
