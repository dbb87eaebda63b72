"""Index and manifest for a WebDataset tar set that others wrote, so that it streams too.

Images are members `.npy`, uint8 in C order, which are read where they lie, or files of a picture
format, which are decoded each time; all of one shape. `shards.pack.foreign_samples` says what a
sample is and where its label comes from.
"""

import math
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from shards.cli.progress import progress
from shards.contract.documents import sealed_json
from shards.contract.index import IndexNotes, index_bytes, parse_index
from shards.contract.schema import (
    INDEX,
    INDEX_COLUMNS,
    MANIFEST,
    SPLIT_NAMES,
    SPLITS,
    TAR,
    ImageSpec,
    Manifest,
    PackNotes,
    check_file_name,
    parse_manifest,
)
from shards.contract.statistics import Moments, moments_of
from shards.images.limits import max_image_bytes
from shards.pack.foreign_samples import MOST_COLORS, Seen, row_of, samples_of
from shards.pack.make_manifest import FinishedShard, make_manifest
from shards.pack.tar_reader import read_tar
from shards.storage.local import HashedFile, Storage, open_storage, sole_writer_to

COMPRESSED = re.compile(r".*\.(tar\.\w+|tgz|tbz2?|txz|tzst|zip)", re.IGNORECASE | re.DOTALL)
MAX_ROWS = 10**7  # of an index that is there already
SHOWN = 5
FORCE = "--force replaces it"


@dataclass(frozen=True, kw_only=True)
class ForeignSpec:
    """Facts that tars lack: split ("": by their names), classes, voxel size (None: unknown)."""

    split: str = ""
    class_names: tuple[str, ...] = ()
    voxel_size_nm: tuple[float, float, float] | None = None

    def __post_init__(self) -> None:
        if not all(0 < side < math.inf for side in self.voxel_size_nm or ()):
            raise ValueError(f"voxel sizes must be above 0 nm, got {self.voxel_size_nm}")
        if len(set(self.class_names)) != len(self.class_names):
            raise ValueError(f"class names must differ, got {', '.join(self.class_names)}")


@dataclass
class Scan:
    """Contents of one tar."""

    name: str
    split: str
    seen: Seen = field(default_factory=Seen)
    rows: list[dict[str, Any]] = field(default_factory=list)
    shape: tuple[int, ...] = ()
    encoded: bool = False
    moments: Moments | None = None
    bytes: int = 0
    sha256: str = ""

    @property
    def labels(self) -> np.ndarray:
        """The label of each sample."""
        return np.array([row["label"] for row in self.rows])

    def table(self) -> pa.Table:
        """Return the rows in the columns of an index."""
        return pa.Table.from_pylist(self.rows, schema=pa.schema(list(INDEX_COLUMNS.items())))


def index_tars(
    url: str,
    spec: ForeignSpec,
    *,
    force: bool = False,
    say: Callable[[str], object] = lambda text: sys.stderr.write(f"{text}\n"),
) -> Manifest:
    """Write an index beside every tar at `url`, and a manifest; the tars stay as they are.

    A manifest or an index of somebody else's is kept and refused, unless `force`. What is left
    out, and samples without a label, are said through `say`. Nothing is written after an error.
    """
    storage = open_storage(url)
    with sole_writer_to(storage):
        names = _tar_names(storage, say)
        if not force:
            _refuse_others(storage, names)
        with progress("index", len(names)) as advance:
            scans = []
            for name in names:
                scans.append(scan(storage, name, spec.split or _split_of(name), spec.class_names))
                advance(1)
        _check(url, scans)
        _say_what_is_odd(scans, say)
        files = {_index_name(scan): _index(scan) for scan in scans}
        manifest = _manifest(scans, files, spec)
        for name, data in {**files, MANIFEST: sealed_json(manifest)}.items():
            with storage.create(name) as file:
                file.write(data)
        storage.discard_unfinished()
    return manifest


def scan(storage: Storage, name: str, split: str, class_names: Sequence[str]) -> Scan:
    """Read a tar to its end and return its samples; what is not right is a `ValueError`."""
    found, file, where = (
        Scan(name=name, split=split),
        HashedFile(storage, name),
        f"{storage.url}/{name}",
    )
    for sample in samples_of(read_tar(file, where, max_image_bytes()), where, found.seen):
        row, image, encoded = row_of(sample, where, class_names, found.seen)
        if found.rows and (found.shape, found.encoded) != (image.shape, encoded):
            raise ValueError(
                f"{where}: sample {sample.key} has shape {image.shape}, others "
                f"{found.shape}, or another kind of file; give all images one of each"
            )
        found.shape, found.encoded = image.shape, encoded
        found.rows.append(row)
        moments = moments_of(image[None])
        found.moments = moments if found.moments is None else found.moments + moments
    found.bytes, found.sha256 = file.size, file.drain()
    if not found.rows:
        raise ValueError(f"{where}: no sample in it; remove it")
    return found


def _tar_names(storage: Storage, say: Callable[[str], object]) -> list[str]:
    """Return the tars to index, and say which others are left out."""
    names, left_out = [], _folders_with_tars(storage)
    for name in storage.names():
        if name.endswith(TAR) and not name.startswith("."):
            names.append(name)
        elif name.lower().endswith(TAR) or COMPRESSED.fullmatch(name):
            left_out.append(name)
    listed = _listed(left_out)
    if not names:
        raise ValueError(
            f"{storage.url}: no .tar files there{f', only {listed}' if listed else ''}; give the "
            "folder or prefix that holds them, uncompressed"
        )
    first: dict[str, str] = {}
    for name in names:
        check_file_name(name, TAR)
        if (other := first.setdefault(name.casefold(), name)) != name:
            raise ValueError(
                f"{storage.url}: {other} and {name} differ in case alone, and are one file on many "
                "disks; rename one"
            )
    if left_out:
        say(
            f"note: left out: {listed}; only files .tar in the folder itself are indexed: unpack "
            "compressed ones, index folders by themselves"
        )
    return names


def _folders_with_tars(storage: Storage) -> list[str]:
    if storage.is_remote:
        return []
    return sorted({f"{path.parent.name}/" for path in Path(storage.url).glob(f"*/*{TAR}*")})


def _refuse_others(storage: Storage, names: Sequence[str]) -> None:
    """Refuse to replace a manifest or an index that `index_tars` did not write."""
    there = set(storage.names())
    where = f"{storage.url}/{MANIFEST}"
    if MANIFEST in there:
        try:
            indexed = parse_manifest(storage.read(MANIFEST), where=where).pack.indexed
        except ValueError:
            raise ValueError(
                f"{where}: a file that `shards index` did not write, or that was altered since; "
                f"move it elsewhere, or {FORCE}"
            ) from None
        if not indexed:
            raise ValueError(f"{where} is that of a packed set, which needs no index; {FORCE}")
    for name in there & {name.removesuffix(TAR) + INDEX for name in names}:
        where = f"{storage.url}/{name}"
        _, notes = parse_index(storage.read(name), where=where, max_rows=MAX_ROWS)
        if notes.plan:
            raise ValueError(f"{where} is that of an unfinished packing: pack again, or {FORCE}")


def _check(url: str, scans: Sequence[Scan]) -> None:
    """Refuse tars that differ in their images, and keys that are in two tars."""
    if len({(scan.shape, scan.encoded) for scan in scans}) != 1:
        shapes = ", ".join(f"{scan.name} {scan.shape}" for scan in scans[:SHOWN])
        raise ValueError(
            f"{url}: images differ in shape or kind ({shapes}); index each kind by itself"
        )
    first: dict[str, str] = {}
    for found in scans:
        for row in found.rows:
            if (other := first.setdefault(row["key"], found.name)) != found.name:
                raise ValueError(
                    f"{url}/{found.name}: sample {row['key']} is in {other} too; keys must differ: "
                    "rename, or remove the copy"
                )


def _say_what_is_odd(scans: Sequence[Scan], say: Callable[[str], object]) -> None:
    for found in scans:
        if found.seen.skipped:
            say(f"note: {found.name}: no samples, skipped: {_listed(found.seen.skipped)}")
    if (channels := scans[0].shape[0]) > MOST_COLORS:
        say(
            f"note: images of shape {scans[0].shape} are of {channels} channels; a stack of "
            "sections is (1, z, y, x)"
        )
    total = sum(len(found.rows) for found in scans)
    if unlabelled := sum(found.seen.unlabelled for found in scans):
        offers = sorted(set[str]().union(*(found.seen.offers for found in scans)))
        how_many = "NONE" if unlabelled == total else f"{total - unlabelled} only"
        say(
            f"WARNING: {how_many} of {total} samples {'have' if total > 1 else 'has'} a label; "
            "labels are read from .cls (a class number or name) and from 'label' in .json; the "
            f"samples without one have {_listed(offers, 20)}"
        )


def _listed(names: Sequence[str], shown: int = SHOWN) -> str:
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(ascii(n)[1:-1] if not n.isprintable() else n for n in names[:shown]) + more


def _split_of(name: str) -> str:
    start = re.match(r"[a-z]+", name.lower())
    if start is None or start[0] not in SPLIT_NAMES:
        raise ValueError(
            f"{name}: the name does not start with {', '.join(SPLITS)}; say --split for all tars"
        )
    return SPLIT_NAMES[start[0]]


def _manifest(scans: Sequence[Scan], files: dict[str, bytes], spec: ForeignSpec) -> Manifest:
    highest = max(int(found.labels.max()) for found in scans)
    shape = scans[0].shape
    return make_manifest(
        [_finished(found, files) for found in scans],
        spec.class_names or tuple(f"class {label}" for label in range(highest + 1)),
        ImageSpec(
            shape=shape,
            dtype="uint8",
            channels=tuple(f"channel {i}" for i in range(shape[0])),
            voxel_size_nm=spec.voxel_size_nm,
        ),
        PackNotes(indexed=True, encoded=scans[0].encoded),
        {},
    )


def _finished(found: Scan, files: dict[str, bytes]) -> FinishedShard:
    assert found.moments is not None
    return FinishedShard(
        split=found.split,
        name=found.name,
        num_bytes=found.bytes,
        sha256=found.sha256,
        index_name=_index_name(found),
        index=files[_index_name(found)],
        labels=found.labels,
        neuron_ids=np.array([row["neuron_id"] for row in found.rows], np.int64),
        moments=found.moments,
    )


def _index_name(found: Scan) -> str:
    return found.name.removesuffix(TAR) + INDEX


def _index(found: Scan) -> bytes:
    notes = IndexNotes(tar_bytes=found.bytes, tar_sha256=found.sha256, encoded=found.encoded)
    return index_bytes(found.table(), notes)
