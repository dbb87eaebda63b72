"""Does a shard set hold what its manifest and indices say? Every fault by name."""

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import crc32c
import numpy as np

from shards.cli.progress import progress
from shards.contract.index import load_shard_table
from shards.contract.schema import INDEX, TAR, ImageSpec, Manifest, ShardInfo
from shards.images.limits import max_image_bytes
from shards.pack.import_webdataset import scan
from shards.pack.make_manifest import class_counts
from shards.pack.tar import npy_header
from shards.pack.tar_reader import Member, read_tar
from shards.pack.write_shards import identity_json
from shards.storage.local import HashedFile, Storage, open_storage
from shards.stream.shardset import open_shards
from shards.workers.threads import Pool

FOLD_INDEX = re.compile(rf"\.fold(\d+){re.escape(INDEX)}$")
MEMBERS = ("image.npy", "cls", "json")


def verify(url: str, *, fold: int | None = None, fast: bool = False, workers: int = 2) -> list[str]:
    """Return every fault of the shard set at `url`, one line each; none means all is well.

    Checks the manifest, every file's size and hash, and every member of every tar against the
    index: name, order, place, checksum, label, identity. `fast` leaves the tars' contents out:
    sizes, and the indices' hashes and counts. A manifest that cannot be used is an error.
    """
    with open_shards(url, fold=fold) as shards:
        manifest = shards.manifest
    storage = open_storage(url)
    jobs = list(manifest.shards())
    faults = list(_unlisted(storage, manifest))
    with Pool(workers, "shards-verify") as pool, progress("verify", len(jobs)) as advance:
        for found in pool.map(lambda job: _shard_faults(storage, job, manifest, fast), jobs):
            faults.extend(found)
            advance(1)
    return faults + _repeated_keys(storage, manifest)


def _shard_faults(storage: Storage, shard: ShardInfo, manifest: Manifest, fast: bool) -> list[str]:
    faults = []
    try:
        size = storage.sizes([shard.name])[0]
        if size != shard.bytes:
            faults.append(f"{shard.name}: has {size} bytes, the manifest says {shard.bytes}")
        table = load_shard_table(storage, manifest, shard)
    except ValueError as error:
        return [*faults, str(error)]
    counts = class_counts(table["label"].to_numpy(), manifest.class_names)
    if Counter(counts) != Counter(shard.class_counts):
        faults.append(f"{shard.index_name}: labels {counts}, the manifest says otherwise")
    if not fast:
        check = _foreign_faults if manifest.pack.indexed else _tar_faults
        found = check(storage, shard, table.to_pylist(), manifest)
        faults.extend(f"{shard.name}: {fault}" for fault in found)
    return faults


def _foreign_faults(
    storage: Storage, shard: ShardInfo, rows: list[dict[str, Any]], manifest: Manifest
) -> Iterator[str]:
    """Read a tar that others wrote as `shards index` does, and compare with its index."""
    try:
        found = scan(storage, shard.name, "", manifest.class_names)
    except ValueError as error:
        yield f"cannot be read as when it was indexed: {error}"
        return
    if found.sha256 != shard.sha256:
        yield "SHA-256 differs from the manifest's"
    if len(found.rows) != len(rows):
        yield f"has {len(found.rows)} samples, the index says {len(rows)}"
    for row, other in zip(rows, found.table().to_pylist(), strict=False):
        if row["key"] != other["key"]:
            yield f"sample {other['key']} stands where the index says {row['key']}"
        elif row["crc32c"] != other["crc32c"]:
            yield f"{row['key']}: checksum differs from the index"
        else:
            for name, value in row.items():
                if value != other[name] and value == value:  # noqa: PLR0124 (NaN)
                    yield f"{row['key']}: {name} is {other[name]!r}, the index says {value!r}"


def _tar_faults(
    storage: Storage, shard: ShardInfo, rows: list[dict[str, Any]], manifest: Manifest
) -> Iterator[str]:
    file, members, unlisted = HashedFile(storage, shard.name), 0, 0
    is_fold = manifest.pack.fold is not None
    try:
        for member in read_tar(file, f"{storage.url}/{shard.name}", max_image_bytes()):
            number, place = divmod(members, len(MEMBERS))
            row = rows[number] if number < len(rows) else None
            begins = place == 0 and (row is None or member.name != f"{row['key']}.{MEMBERS[0]}")
            if is_fold and (unlisted or begins):  # overlaps what this fold holds out
                unlisted = (unlisted + 1) % len(MEMBERS)
                continue
            yield from _member_faults(member, row, MEMBERS[place], manifest.image)
            members += 1
    except (ValueError, OSError) as error:
        yield f"cannot be read to its end: {error}"
        return
    if members != len(rows) * len(MEMBERS):
        yield f"has {members} members, the index says {len(rows)} samples of {len(MEMBERS)}"
    if file.drain() != shard.sha256:
        yield "SHA-256 differs from the manifest's"


def _member_faults(
    member: Member, row: dict[str, Any] | None, suffix: str, image: ImageSpec
) -> Iterator[str]:
    name, data = f"member {ascii(member.name)[1:-1]}", member.content
    if row is None:
        yield f"{name} is not in the index"
    elif member.name != f"{row['key']}.{suffix}":
        yield f"{name} stands where the index says {row['key']}.{suffix}"
    elif suffix == "image.npy":
        header = npy_header(image.shape, image.dtype)
        if not data.startswith(header):
            yield f"{name} is not a {image.dtype} array {image.shape}"
        if member.offset + len(header) != row["offset"]:
            yield f"{name}: the index has another offset"
        if crc32c.crc32c(data[len(header) :]) != row["crc32c"]:
            yield f"{name}: checksum differs from the index"
    elif suffix == "cls":
        if data != str(row["label"]).encode():
            yield f"{name}: label {data[:40]!r}, the index says {row['label']}"
    elif data != identity_json(row):
        yield f"{name}: identity differs from the index"


def _unlisted(storage: Storage, manifest: Manifest) -> Iterator[str]:
    listed = set(manifest.file_names())
    for name in storage.names() if storage.can_list else ():
        of_fold = None if manifest.pack.fold is None else FOLD_INDEX.search(name)
        if of_fold and int(of_fold[1]) != manifest.pack.fold:
            continue
        if name.endswith((TAR, INDEX)) and name not in listed:
            yield f"{ascii(name)[1:-1]}: not in the manifest"


def _repeated_keys(storage: Storage, manifest: Manifest) -> list[str]:
    keys: list[np.ndarray] = []
    for shard in manifest.shards():
        try:
            keys.append(load_shard_table(storage, manifest, shard, ("key",))["key"].to_numpy())
        except ValueError:
            continue  # named already
    values, counts = np.unique(np.concatenate(keys) if keys else [], return_counts=True)
    return [
        f"key {key}: {n} samples have it" for key, n in zip(values, counts, strict=True) if n > 1
    ]
