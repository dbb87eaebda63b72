"""Does a shard set hold what its manifest and indices say? Every fault by name."""

import json
import tarfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import crc32c
import numpy as np

from shards.index import load_shard_table
from shards.progress import progress
from shards.schema import SPLITS, ImageSpec, Manifest, ShardInfo
from shards.shardset import MANIFEST, open_shards
from shards.storage import HashedFile, Storage, hash_of, open_storage
from shards.tar import npy_header

READ_BYTES = 4 << 20
MEMBERS = ("image.npy", "cls", "json")


def verify(url: str, *, fast: bool = False, workers: int = 2) -> list[str]:
    """Return every fault of the shard set at `url`, one line each; none means all is well.

    Checks the manifest, every file's size and hash, and every member of every tar against the
    index: name, order, place, checksum, label, identity. `fast` leaves the tars' contents out:
    sizes, and the indices' hashes and counts. A manifest that cannot be used is an error.
    """
    with open_shards(url) as shards:
        manifest = shards.manifest
    storage = open_storage(url)
    jobs = [(split, shard) for split, info in manifest.splits.items() for shard in info.shards]
    faults = [*_counts(manifest), *_unlisted(storage, manifest)]
    with ThreadPoolExecutor(workers) as pool, progress("verify", len(jobs)) as advance:
        for found in pool.map(lambda job: _shard_faults(storage, job[1], manifest, fast), jobs):
            faults.extend(found)
            advance(1)
    return faults + _repeated_keys(storage, manifest)


def _shard_faults(storage: Storage, shard: ShardInfo, manifest: Manifest, fast: bool) -> list[str]:
    faults = []
    try:
        size = storage.sizes([shard.name])[0]
        if size != shard.bytes:
            faults.append(f"{shard.name}: has {size} bytes, the manifest says {shard.bytes}")
        rows = load_shard_table(storage, shard, manifest.image).to_pylist()
    except ValueError as error:
        return [*faults, str(error)]
    counts = Counter(
        manifest.class_names[row["label"]] if row["label"] >= 0 else "unlabelled" for row in rows
    )
    if counts != Counter(shard.class_counts):
        faults.append(f"{shard.index_name}: labels {dict(counts)}, the manifest says otherwise")
    if manifest.pack.get("indexed") and not fast:
        faults.extend(_foreign_faults(storage, shard, rows))
    elif not fast:
        faults.extend(
            f"{shard.name}: {fault}" for fault in _tar_faults(storage, shard, rows, manifest.image)
        )
    return faults


def _foreign_faults(
    storage: Storage, shard: ShardInfo, rows: list[dict[str, Any]]
) -> Iterator[str]:
    """Check tars that others wrote: their hash, and every image where the index says."""
    if hash_of(storage, shard.name) != shard.sha256:
        yield f"{shard.name}: SHA-256 differs from the manifest's"
    for row in rows:
        data = bytearray(row["length"])
        storage.read_into(shard.name, row["offset"], memoryview(data))
        if crc32c.crc32c(bytes(data)) != row["crc32c"]:
            yield f"{shard.name}: {row['key']}: checksum differs from the index"


def _tar_faults(
    storage: Storage, shard: ShardInfo, rows: list[dict[str, Any]], image: ImageSpec
) -> Iterator[str]:
    file = HashedFile(storage, shard.name)
    members = 0
    try:
        with tarfile.open(fileobj=file, mode="r|", bufsize=READ_BYTES) as tar:
            for member in tar:
                reader = tar.extractfile(member)
                data = reader.read() if reader else b""
                row = rows[members // len(MEMBERS)] if members < len(rows) * len(MEMBERS) else None
                yield from _member_faults(member, data, row, MEMBERS[members % len(MEMBERS)], image)
                members += 1
    except (tarfile.TarError, ValueError, OSError) as error:
        yield f"cannot be read to its end: {error}"
        return
    if members != len(rows) * len(MEMBERS):
        yield f"has {members} members, the index says {len(rows)} samples of {len(MEMBERS)}"
    if file.drain() != shard.sha256:
        yield "SHA-256 differs from the manifest's"


def _member_faults(
    member: tarfile.TarInfo,
    data: bytes,
    row: dict[str, Any] | None,
    suffix: str,
    image: ImageSpec,
) -> Iterator[str]:
    if row is None:
        yield f"member {member.name} is not in the index"
    elif member.name != f"{row['key']}.{suffix}":
        yield f"member {member.name} stands where the index says {row['key']}.{suffix}"
    elif suffix == "image.npy":
        header = npy_header(image.shape, image.dtype)
        if not data.startswith(header):
            yield f"member {member.name} is not a {image.dtype} array {image.shape}"
        if member.offset_data + len(header) != row["offset"]:
            yield f"member {member.name}: the index has another offset"
        if crc32c.crc32c(data[len(header) :]) != row["crc32c"]:
            yield f"member {member.name}: checksum differs from the index"
    elif suffix == "cls":
        if data != str(row["label"]).encode():
            yield f"member {member.name}: label {data!r}, the index says {row['label']}"
    else:
        yield from _identity_faults(member.name, data, row)


def _identity_faults(name: str, data: bytes, row: dict[str, Any]) -> Iterator[str]:
    try:
        found = json.loads(data)
    except ValueError:
        yield f"member {name}: not JSON"
        return
    expected = {column: row[column] for column in found if column in row}
    same = all(
        found[column] == value or (found[column] is None and value != value)  # noqa: PLR0124 (NaN)
        for column, value in expected.items()
    )
    if not same or len(expected) != len(found):
        yield f"member {name}: identity differs from the index"


def _counts(manifest: Manifest) -> Iterator[str]:
    for split, info in manifest.splits.items():
        if split not in SPLITS:
            yield f"{MANIFEST}: split {split!r} is not one of {', '.join(SPLITS)}"
        if sum(shard.num_samples for shard in info.shards) != info.num_samples:
            yield f"{MANIFEST}: the shards of {split} do not add up to {info.num_samples} samples"
        total: Counter[str] = Counter()
        for shard in info.shards:
            total.update(shard.class_counts)
        if total != Counter(info.class_counts):
            yield f"{MANIFEST}: the classes of {split}'s shards do not add up"


def _unlisted(storage: Storage, manifest: Manifest) -> Iterator[str]:
    listed = {MANIFEST}
    for info in manifest.splits.values():
        listed.update(name for shard in info.shards for name in (shard.name, shard.index_name))
    for name in storage.names() if storage.can_list else ():
        if name.endswith((".tar", ".index.parquet")) and name not in listed:
            yield f"{name}: not in the manifest"


def _repeated_keys(storage: Storage, manifest: Manifest) -> list[str]:
    keys: list[np.ndarray] = []
    for info in manifest.splits.values():
        for shard in info.shards:
            try:
                keys.append(
                    load_shard_table(storage, shard, manifest.image, ("key",))["key"].to_numpy()
                )
            except ValueError:
                continue  # named already
    values, counts = np.unique(np.concatenate(keys) if keys else [], return_counts=True)
    return [
        f"key {key}: {n} samples have it" for key, n in zip(values, counts, strict=True) if n > 1
    ]
