"""Index and manifest for a WebDataset tar set that others wrote, so that it streams too.

Images are members `.npy`, uint8 in C order, which are read where they lie, or files of a picture
format, which are decoded each time; all of one shape.
"""

import hashlib
import io
import json
import math
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from typing import Any

import crc32c
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from shards.decode import EXTENSIONS, decoded
from shards.index import notes_metadata
from shards.moments import Moments, moments_of
from shards.plan import class_counts
from shards.progress import progress
from shards.schema import (
    IDENTITY_COLUMNS,
    INDEX_COLUMNS,
    SCHEMA_VERSION,
    SPLIT_NAMES,
    SPLITS,
    UNLABELLED,
    ImageSpec,
    Manifest,
    ShardInfo,
    SplitInfo,
    to_json,
)
from shards.shardset import MANIFEST
from shards.storage import HashedFile, Storage, open_storage

READ_BYTES = 4 << 20
NUMBERS = (int, float)


@dataclass(frozen=True, kw_only=True)
class ForeignSpec:
    """What the tars do not say: their split ("" takes it from each name), classes, voxels."""

    split: str = ""
    class_names: tuple[str, ...] = ()
    voxel_size_nm: tuple[float, float, float] = (1.0, 1.0, 1.0)


@dataclass
class _Scan:
    """What one tar turned out to hold."""

    name: str
    split: str
    rows: list[dict[str, Any]] = field(default_factory=list)
    shape: tuple[int, ...] = ()
    encoded: bool = False
    moments: Moments | None = None
    bytes: int = 0
    sha256: str = ""


def index_tars(url: str, spec: ForeignSpec) -> Manifest:
    """Write an index beside every tar at `url`, and a manifest; the tars stay as they are."""
    storage = open_storage(url)
    names = [name for name in storage.names() if name.endswith(".tar")]
    if not names:
        raise ValueError(f"{url}: no .tar files there; give the folder or prefix that holds them")
    with progress("index", len(names)) as advance:
        scans = []
        for name in names:
            scans.append(_scan(storage, name, spec.split or _split_of(name)))
            advance(1)
    if len({(scan.shape, scan.encoded) for scan in scans}) != 1:
        shapes = ", ".join(f"{scan.name} {scan.shape}" for scan in scans)
        raise ValueError(
            f"{url}: images differ in shape or kind ({shapes}); index each kind by itself"
        )
    manifest = _manifest(storage, scans, spec)
    with storage.create(MANIFEST) as file:
        file.write((json.dumps(to_json(manifest), indent=2, allow_nan=False) + "\n").encode())
    return manifest


def _scan(storage: Storage, name: str, split: str) -> _Scan:
    scan, file = _Scan(name=name, split=split), HashedFile(storage, name)
    total = []
    try:
        with tarfile.open(fileobj=file, mode="r|", bufsize=READ_BYTES) as tar:
            for key, members in _samples(tar):
                row, image, encoded = _row(f"{storage.url}/{name}", key, members)
                if scan.rows and (scan.shape, scan.encoded) != (image.shape, encoded):
                    raise ValueError(
                        f"{storage.url}/{name}: {key} has shape {image.shape}, others "
                        f"{scan.shape}, or another kind of file; give all images one of each"
                    )
                scan.shape, scan.encoded = image.shape, encoded
                scan.rows.append(row)
                total.append(moments_of(image[None]))
    except tarfile.TarError as error:
        raise ValueError(
            f"{storage.url}/{name}: not a whole tar ({error}); copy it again"
        ) from None
    if not scan.rows:
        raise ValueError(f"{storage.url}/{name}: no sample in it; remove it")
    scan.moments, scan.sha256 = reduce(add, total), file.drain()
    scan.bytes = storage.sizes([name])[0]
    return scan


def _samples(tar: tarfile.TarFile) -> Iterator[tuple[str, dict[str, tuple[int, bytes]]]]:
    """Yield (key, {extension: (offset, content)}) as WebDataset groups members."""
    key, members = None, {}
    for member in tar:
        reader = tar.extractfile(member)
        if reader is None:
            continue
        folder, _, base = member.name.rpartition("/")
        stem, _, extension = base.partition(".")
        found = f"{folder}/{stem}" if folder else stem
        if key is not None and found != key:
            yield key, members
            members = {}
        key = found
        members[extension] = (member.offset_data, reader.read())
    if key is not None:
        yield key, members


def _row(
    where: str, key: str, members: dict[str, tuple[int, bytes]]
) -> tuple[dict[str, Any], np.ndarray, bool]:
    """Return a sample's row of the index, its image, and whether that is an encoded file."""
    found = [name for name in members if name.rpartition(".")[2].lower() in ("npy", *EXTENSIONS)]
    if len(found) != 1:
        raise ValueError(
            f"{where}: {key} has {len(found)} images ({', '.join(members)}); images stream from "
            f"exactly one .npy, .{', .'.join(EXTENSIONS)} a sample: write them so"
        )
    offset, content = members[found[0]]
    encoded = not found[0].endswith("npy")
    if encoded:
        try:
            image, start = decoded(content), 0
        except ValueError as error:
            raise ValueError(f"{where}: {key}: {error}") from None
    else:
        image, start = _npy(content, f"{where}: {key}")
    row = {
        **_identity(members.get("json", (0, b"{}"))[1]),
        "key": key,
        "label": _label(members.get("cls", (0, str(UNLABELLED).encode()))[1], f"{where}: {key}"),
        "offset": offset + start,
        "length": len(content) - start,
        "crc32c": crc32c.crc32c(content[start:]),
    }
    return row, image, encoded


def _label(content: bytes, where: str) -> int:
    try:
        return int(content)
    except ValueError:
        raise ValueError(f"{where}: .cls is {content[:20]!r}; write a class number") from None


def _npy(content: bytes, where: str) -> tuple[np.ndarray, int]:
    """Return an array as (c, [z], y, x), and where in the file its voxels start."""
    shape, start = _npy_start(io.BytesIO(content), where)
    voxels = np.frombuffer(content, np.uint8, offset=start)
    if voxels.size != math.prod(shape):
        raise ValueError(f"{where}: it has {voxels.size} voxels, its header says {shape}")
    return voxels.reshape(shape), start


def _npy_start(stream: io.BytesIO, where: str) -> tuple[tuple[int, ...], int]:
    """Return an array's shape as (c, [z], y, x) and where its voxels start."""
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else None
    if read is None:
        raise ValueError(f"{where}: npy version {version} cannot be streamed; save it anew")
    shape, fortran, dtype = read(stream)
    if dtype != np.uint8 or fortran or len(shape) not in (2, 3, 4):
        raise ValueError(
            f"{where}: {dtype} {shape}{', Fortran order' if fortran else ''} cannot be streamed; "
            "save uint8 arrays (y, x), (c, y, x) or (c, z, y, x) in C order"
        )
    return (1, *shape) if len(shape) == 2 else shape, stream.tell()


def _identity(content: bytes) -> dict[str, Any]:
    """Return the identity columns that a sample's JSON names; unknown is 0, NaN or empty."""
    try:
        found = json.loads(content)
    except ValueError:
        found = {}
    row: dict[str, Any] = {}
    for name, kind in {**IDENTITY_COLUMNS, "qc_flags": pa.string()}.items():
        value = found.get(name) if isinstance(found, dict) else None
        if pa.types.is_string(kind):
            row[name] = value if isinstance(value, str) else ""
        elif pa.types.is_floating(kind):
            row[name] = float(value) if isinstance(value, NUMBERS) else math.nan
        else:
            row[name] = int(value) if isinstance(value, NUMBERS) else 0
    return row


def _split_of(name: str) -> str:
    start = re.match(r"[a-z]+", name.rsplit("/", 1)[-1].lower())
    if start is None or start[0] not in SPLIT_NAMES:
        raise ValueError(
            f"{name}: the name does not start with {', '.join(SPLITS)}; say --split for all tars"
        )
    return SPLIT_NAMES[start[0]]


def _manifest(storage: Storage, scans: Sequence[_Scan], spec: ForeignSpec) -> Manifest:
    highest = max(row["label"] for scan in scans for row in scan.rows)
    names = spec.class_names or tuple(f"class {label}" for label in range(highest + 1))
    infos = {scan.name: _write_index(storage, scan, names) for scan in scans}
    splits = {split: [s for s in scans if s.split == split] for split in SPLITS}
    described = splits["train"] or scans
    total = reduce(add, [scan.moments for scan in described if scan.moments])
    shape = scans[0].shape
    return Manifest(
        schema_version=SCHEMA_VERSION,
        class_names=names,
        image=ImageSpec(
            shape=shape,
            dtype="uint8",
            channels=tuple(f"channel {i}" for i in range(shape[0])),
            voxel_size_nm=spec.voxel_size_nm,
        ),
        splits={
            split: _split_info([infos[s.name] for s in ours], ours, names)
            for split, ours in splits.items()
            if ours
        },
        mean=total.mean,
        std=total.std,
        pack={
            "indexed": True,
            "encoded": scans[0].encoded,
            "mean_and_std_of": "train" if splits["train"] else "all",
        },
        dataset={},
    )


def _write_index(storage: Storage, scan: _Scan, class_names: tuple[str, ...]) -> ShardInfo:
    name = scan.name.removesuffix(".tar") + ".index.parquet"
    table = pa.Table.from_pylist(scan.rows, schema=pa.schema(list(INDEX_COLUMNS.items())))
    notes = {"tar_bytes": scan.bytes, "tar_sha256": scan.sha256, "encoded": scan.encoded}
    buffer = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata(notes_metadata(notes)), buffer, compression="zstd")
    data = buffer.getvalue().to_pybytes()
    with storage.create(name) as file:
        file.write(data)
    return ShardInfo(
        name=scan.name,
        bytes=scan.bytes,
        sha256=scan.sha256,
        index_name=name,
        index_sha256=hashlib.sha256(data).hexdigest(),
        num_samples=len(scan.rows),
        class_counts=class_counts(np.array([row["label"] for row in scan.rows]), class_names),
    )


def _split_info(
    shards: Sequence[ShardInfo], scans: Sequence[_Scan], class_names: tuple[str, ...]
) -> SplitInfo:
    labels = np.array([row["label"] for scan in scans for row in scan.rows])
    neurons = {row["neuron_id"] for scan in scans for row in scan.rows} - {0}
    return SplitInfo(
        num_samples=len(labels),
        num_neurons=len(neurons),
        class_counts=class_counts(labels, class_names),
        shards=tuple(shards),
    )
