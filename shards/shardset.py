"""A shard set, opened for reading: its manifest, its indices, its images."""

import hashlib
import json
import os
from collections.abc import Sequence
from threading import Lock

import crc32c
import numpy as np

from shards.cache import CacheSpec, cache_from_environment
from shards.decode import decoded
from shards.index import Index, load_index
from shards.remote import Patience
from shards.schema import Manifest, manifest_from_json
from shards.sections import Sections
from shards.storage import Storage, open_storage

MANIFEST = "manifest.json"


class ShardSet:
    """What `open_shards` returns. Safe to use from many threads.

    `url`; `manifest`; `manifest_sha256`, the hash of `manifest.json`, which names the set's
    whole content, since the manifest holds the hash of every other file.
    """

    def __init__(self, storage: Storage, manifest: Manifest, manifest_sha256: str) -> None:
        self.url = storage.url
        self.manifest = manifest
        self.manifest_sha256 = manifest_sha256
        self.storage = storage
        self._encoded = bool(manifest.pack.get("encoded"))
        self._lock = Lock()
        self._indices: dict[str, Index] = {}
        self._checked: dict[str, np.ndarray] = {}  # the file's stamp when a sample was right

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
        for item, row in enumerate(rows.tolist()):
            if sections is None:
                self._read_sample(index, checked, row, out[item])
            elif self._encoded or not self._read_sections(
                index, checked[row], row, out[item], sections
            ):
                cube = np.empty(self.manifest.image.shape, out.dtype)
                self._read_sample(index, checked, row, cube)
                out[item] = sections.of(cube)

    def _read_sample(self, index: Index, checked: np.ndarray, row: int, image: np.ndarray) -> None:
        name, offset = index.shards[index.shard[row]].name, int(index.offset[row])
        voxels = image.reshape(-1).view(np.uint8)
        data = np.empty(index.length[row], np.uint8) if self._encoded else voxels
        stamp = self.storage.read_into(name, offset, data.data)
        if checked[row] != stamp:
            if not _matches(index, row, data):
                stamp = self._read_again(index, row, data)
            checked[row] = stamp
        if self._encoded:
            image[...] = decoded(data.tobytes())

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

    def _read_again(self, index: Index, row: int, data: np.ndarray) -> int:
        """Read a sample that was wrong once more if that may help, and return its file's stamp."""
        name = index.shards[index.shard[row]].name
        if self.storage.forget(name):
            stamp = self.storage.read_into(name, int(index.offset[row]), data.data)
            if _matches(index, row, data):
                return stamp
        found, expected = crc32c.crc32c(data.data), index.crc32c[row]
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
        self.storage.know(info.shards)
        names = [shard.name for shard in info.shards]
        for shard, size in zip(info.shards, self.storage.sizes(names), strict=True):
            if size != shard.bytes:
                raise ValueError(
                    f"{self.url}/{shard.name} has {size} bytes, the manifest says {shard.bytes}: "
                    "it is truncated or another file; copy it again, or pack again"
                )
        return load_index(self.storage, split, info, self.manifest.image)


def open_shards(
    url: str, cache: CacheSpec | None = None, patience: Patience | None = None
) -> ShardSet:
    """Open the shard set at `url` (a folder that holds a `manifest.json`).

    Remote shards are kept in `cache`, by default the one that SYNSHARDS_CACHE_DIR names; without
    either every read goes to the remote side. `patience` says how long a request is tried.
    """
    storage = open_storage(str(url), cache or cache_from_environment(os.environ), patience)
    where = f"{storage.url}/{MANIFEST}"
    data = storage.read(MANIFEST)
    try:
        manifest = manifest_from_json(json.loads(data), where=where)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: not a readable manifest ({error}); pack again") from None
    return ShardSet(storage, manifest, hashlib.sha256(data).hexdigest())


def _matches(index: Index, row: int, voxels: np.ndarray) -> bool:
    return bool(crc32c.crc32c(voxels.data) == index.crc32c[row])
