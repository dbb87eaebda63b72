"""A shard set, opened for reading: its manifest, its indices, its images."""

import hashlib
import os
from collections.abc import Sequence
from threading import Lock
from typing import Any

import crc32c
import numpy as np

from shards.contract.index import Index, load_index
from shards.contract.schema import MANIFEST, Manifest, manifest_name, parse_manifest
from shards.images.decode import decoded
from shards.storage.cache_folder import CacheSpec, cache_from_environment
from shards.storage.local import Storage, open_storage
from shards.storage.patience import Patience
from shards.stream.section_view import Sections
from shards.workers.forks import renew_in_children


class ShardSet:
    """An open shard set. Safe to use from many threads; pickled, it is opened anew.

    `url`; `fold` of a cross-validation, or None; `manifest`; `manifest_sha256`, the hash of its
    file, which names the set's whole content, since it holds the hash of every other file.
    """

    def __init__(
        self,
        storage: Storage,
        manifest: Manifest,
        manifest_sha256: str,
        *,
        cache: CacheSpec | None = None,
        patience: Patience | None = None,
        fold: int | None = None,
    ) -> None:
        self.url = storage.url
        self.manifest = manifest
        self.manifest_sha256 = manifest_sha256
        self.fold = fold
        self.storage = storage
        self._encoded = manifest.pack.encoded
        self._opened_with = cache, patience
        self._indices: dict[str, Index] = {}
        self._checked: dict[str, np.ndarray] = {}  # the file's stamp when a sample was right
        renew_in_children(self)

    def renew(self) -> None:
        """Make the lock anew."""
        self._lock = Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopened, (self.url, *self._opened_with, self.fold, self.manifest_sha256)

    def __enter__(self) -> "ShardSet":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close open files."""
        self.storage.close()

    def index(self, split: str) -> Index:
        """Return the index of a split; read on first use, when the shards' sizes are checked."""
        with self._lock:
            if split not in self._indices:
                self._indices[split] = self._load_index(split)
                self._checked[split] = np.zeros(len(self._indices[split]), np.uint32)
            return self._indices[split]

    def read_images(self, split: str, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return the images (b, c, [z], y, x) of these rows of the split's index, crc-checked."""
        self.index(split)  # whose checks bound what an image may take
        image = self.manifest.image
        out = np.empty((len(rows), *image.shape), image.dtype)
        self.read_into(split, np.asarray(rows, np.int64), out)
        return out

    def read_into(
        self, split: str, rows: np.ndarray, out: np.ndarray, sections: Sections | None = None
    ) -> None:
        """Read the images of `rows` into `out` (b, c, [z], y, x), or their sections (b, s, y, x).

        `out` is C-contiguous. The first time a sample is read in this process, and after its file
        has changed, the whole of it is read and its checksum verified.
        """
        index, checked = self.index(split), self._checked[split]
        if sections is None and not self._encoded:
            self._read_voxels(index, checked, rows, out)
            return
        for item, row in enumerate(rows.tolist()):
            if sections is None:
                self._read_sample(index, checked, row, out[item])
            elif self._encoded or not self._read_sections(
                index, checked[row], row, out[item], sections
            ):
                cube = np.empty(self.manifest.image.shape, out.dtype)
                self._read_sample(index, checked, row, cube)
                out[item] = sections.of(cube)

    def _read_voxels(
        self, index: Index, checked: np.ndarray, rows: np.ndarray, out: np.ndarray
    ) -> None:
        """Read whole images as they are stored, with as little Python a sample as can be."""
        data, size = out.reshape(-1).view(np.uint8).data, self.manifest.image.nbytes
        shards, read_into = index.shards, self.storage.read_into
        where = zip(index.shard[rows].tolist(), index.offset[rows].tolist(), strict=True)
        before = checked[rows].tolist()
        for item, (shard, offset) in enumerate(where):
            voxels = data[item * size : (item + 1) * size]
            stamp = read_into(shards[shard].name, offset, voxels)
            if stamp != before[item]:
                row = int(rows[item])
                checked[row] = self._verified(index, row, voxels, stamp)

    def _read_sample(self, index: Index, checked: np.ndarray, row: int, image: np.ndarray) -> None:
        if not self._encoded:
            self._read_voxels(index, checked, np.array([row]), image)
            return
        name, data = index.shards[index.shard[row]].name, bytearray(index.length[row])
        stamp = self.storage.read_into(name, int(index.offset[row]), memoryview(data))
        if checked[row] != stamp:
            checked[row] = self._verified(index, row, memoryview(data), stamp)
        array = decoded(bytes(data))
        if array.shape != image.shape:
            raise ValueError(
                f"{self.url}/{name}: sample {index.column('key')[row]} is an image of shape "
                f"{array.shape}, the manifest says {image.shape}; index the tars again"
            )
        image[...] = array

    def _read_sections(
        self, index: Index, stamp: int, row: int, image: np.ndarray, sections: Sections
    ) -> bool:
        """Read sections of a cube that was right when its file had this stamp, if it still has."""
        name, offset = index.shards[index.shard[row]].name, int(index.offset[row])
        voxels = image.reshape(-1).view(np.uint8)
        done, size = 0, image.dtype.itemsize
        for first, count in sections.runs(self.manifest.image.shape):
            part = voxels[done : done + count * size]
            if not stamp or self.storage.read_into(name, offset + first * size, part.data) != stamp:
                return False
            done += count * size
        return True

    def _verified(self, index: Index, row: int, data: memoryview, stamp: int) -> int:
        """Return the stamp of the file in which a sample is right; read it again if it is not."""
        expected = index.crc32c[row]
        if (found := crc32c.crc32c(data)) == expected:
            return stamp
        name = index.shards[index.shard[row]].name
        if self.storage.forget(name):
            stamp = self.storage.read_into(name, int(index.offset[row]), data)
            if (found := crc32c.crc32c(data)) == expected:
                return stamp
        raise ValueError(
            f"{self.url}/{name}: sample {index.column('key')[row]} has checksum {found:08x}, its "
            f"index says {expected:08x}: the shard was altered; copy it again, or pack again"
        )

    def _load_index(self, split: str) -> Index:
        info = self.manifest.splits.get(split)
        if info is None:
            raise ValueError(
                f"{self.url} has no split {split!r}, only {', '.join(self.manifest.splits)}"
            )
        self.storage.know(info.shards, self.manifest_sha256)
        names = [shard.name for shard in info.shards]
        for shard, size in zip(info.shards, self.storage.sizes(names), strict=True):
            if size != shard.bytes:
                raise ValueError(
                    f"{self.url}/{shard.name} has {size} bytes, the manifest says {shard.bytes}: "
                    "it is truncated or another file; copy it again, or pack again"
                )
        return load_index(self.storage, self.manifest, split)


def open_shards(
    url: str,
    cache: CacheSpec | None = None,
    patience: Patience | None = None,
    *,
    fold: int | None = None,
) -> ShardSet:
    """Open the shard set at `url`, or fold `fold` of a cross-validation there.

    Remote shards are kept in `cache`, by default the one that SYNSHARDS_CACHE_DIR names; without
    either every read goes to the remote side. `patience` says how long a request is tried.
    """
    cache = cache or cache_from_environment(os.environ)
    storage = open_storage(str(url), cache, patience)
    name, data = read_manifest(storage, fold)
    manifest = parse_manifest(data, where=f"{storage.url}/{name}")
    digest = hashlib.sha256(data).hexdigest()
    return ShardSet(storage, manifest, digest, cache=cache, patience=patience, fold=fold)


def read_manifest(storage: Storage, fold: int | None) -> tuple[str, bytes]:
    """Return the name and the bytes of a set's manifest, or of a fold's.

    A fold of a set without folds, and folds without a choice, are told apart from no set at all.
    """
    if fold is not None and fold < 0:
        raise ValueError(f"fold must be 0 or more, got {fold}")
    name = manifest_name(fold)
    try:
        return name, storage.read(name)
    except ValueError:
        if fold is None and _has(storage, manifest_name(0)):
            raise ValueError(
                f"{storage.url} holds the folds of a cross-validation; choose one with --fold 0, "
                "--fold 1, …; in Python open_shards(url, fold=0)"
            ) from None
        if fold is not None and _has(storage, MANIFEST):
            raise ValueError(
                f"{storage.url} holds no folds; leave --fold out, or pack with --folds"
            ) from None
        if fold and _has(storage, manifest_name(0)):
            first = manifest_name(0)
            known = parse_manifest(storage.read(first), where=f"{storage.url}/{first}").pack
            raise ValueError(
                f"{storage.url} holds no fold {fold}; its {known.num_folds} folds begin at 0"
            ) from None
        raise


def _has(storage: Storage, name: str) -> bool:
    try:
        storage.sizes([name])
    except ValueError:
        return False
    return True


def _reopened(
    url: str,
    cache: CacheSpec | None,
    patience: Patience | None,
    fold: int | None,
    manifest_sha256: str,
) -> ShardSet:
    """Return the set that was pickled, opened by its URL."""
    shards = open_shards(url, cache, patience, fold=fold)
    if shards.manifest_sha256 != manifest_sha256:
        raise ValueError(f"{url}: another shard set than when it was pickled; start again")
    return shards
