"""One array of zarr or N5 as it is stored: its chunks' names, and their bytes as voxels."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ingest.volume.arrays.chunk_bytes import Step, undo_all
from ingest.volume.arrays.zarr_shards import ZarrShards
from ingest.volume.geometry import Triple
from ingest.volume.ranges.chunk_codec import SPARE_BYTES, Voxels
from ingest.volume.ranges.compression import Buffer, DamagedChunkError, Stored, decompress
from ingest.volume.volume_info import MAX_VOXELS
from shards.images.limits import IMAGE_VARIABLE, max_image_bytes

AXES = ("z", "y", "x")


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredArray:
    """An array of `ndim` dimensions, of which `axes` are z, y, x and the others have length 1.

    `shape` and `chunk` are z, y, x; a chunk is an inner one where there are shards. `name`
    returns the file of a chunk or shard by its place along the stored dimensions. `steps` undo
    compression; then `dtype` with its byte order, and `order` in which dimensions were transposed.
    """

    key: str
    shape: Triple
    chunk: Triple
    ndim: int
    axes: Triple
    dtype: np.dtype[np.generic]
    fill: int
    order: tuple[int, ...]
    steps: tuple[Step, ...]
    name: Callable[[tuple[int, ...]], str]
    shards: ZarrShards | None = None
    has_headers: bool = False  # N5: each chunk states its own shape

    def file(self, place: Triple) -> str:
        """Return the path of the chunk, or of the shard, at a place (z, y, x) of their grid."""
        full = [0] * self.ndim
        for axis, index in zip(self.axes, place, strict=True):
            full[axis] = index
        name = self.name(tuple(full))
        return f"{self.key}/{name}" if self.key else name

    def voxels(self, stored: Stored, shape: Triple) -> Voxels:
        """Return the first `shape` voxels (z, y, x) of a chunk's stored bytes.

        It is stored whole where the volume ends within it, but N5 may cut it short. Bytes that are
        no such chunk are a `DamagedChunkError`.
        """
        full = self._full(self.chunk)
        limit_bytes = 2 * math.prod(full) * self.dtype.itemsize + SPARE_BYTES
        data = decompress(*stored, limit_bytes)
        if self.has_headers:
            full, data = _n5_block(data, self.ndim, full)
        num_bytes = math.prod(full) * self.dtype.itemsize
        plain = undo_all(self.steps, data, limit_bytes)
        if len(plain) != num_bytes:
            raise DamagedChunkError(f"{len(plain)} bytes, expected {num_bytes}")
        turned = np.frombuffer(plain, self.dtype).reshape([full[axis] for axis in self.order])
        values = turned.transpose(np.argsort(self.order))
        others = [axis for axis in range(self.ndim) if axis not in self.axes]
        values = values.transpose(*others, *self.axes)
        values = values.reshape(values.shape[len(others) :])
        if not all(np.greater_equal(values.shape, shape)):
            raise DamagedChunkError(f"it holds {values.shape} voxels, expected {shape}")
        values = values[tuple(slice(size) for size in shape)]
        return values.astype(self.dtype.newbyteorder("="), copy=False)

    def _full(self, triple: Triple) -> tuple[int, ...]:
        """Return sizes along the stored dimensions."""
        full = [1] * self.ndim
        for axis, size in zip(self.axes, triple, strict=True):
            full[axis] = size
        return tuple(full)


def find_axes(names: Sequence[str | None] | None, shape: Sequence[int], *, where: str) -> Triple:
    """Return the dimensions that are z, y, x, by their names; without names, the last three are.

    Others must be of length 1.
    """
    if names is None or not any(names):
        names = [*("" for _ in shape[:-3]), *AXES][-len(shape) :]
    labels = [str(name or "").lower() for name in names]
    shown = ", ".join(f"{n or '?'} {size}" for n, size in zip(labels, shape, strict=False))
    if len(labels) != len(shape) or any(labels.count(axis) != 1 for axis in AXES):
        raise ValueError(
            f"{where}: found dimensions {shown or 'none'}, expected z, y and x; point the config "
            "at an array of three dimensions, or name its dimensions so in its metadata"
        )
    sizes = dict(zip(labels, shape, strict=True))
    if long := [name for name, size in sizes.items() if name not in AXES and size != 1]:
        raise ValueError(
            f"{where}: found dimensions {shown}, expected {long[0] or 'the others'} of length 1; "
            "store the EM image alone, as an array z, y, x"
        )
    z, y, x = (labels.index(axis) for axis in AXES)
    return z, y, x


def check_chunk(
    shape: Sequence[int], chunk: Sequence[int], dtype: np.dtype[np.generic], *, where: str
) -> None:
    """Refuse sizes that nothing can have, and chunks that take more memory than one may."""
    if min((*shape, *chunk)) < 1 or math.prod(shape) > MAX_VOXELS:
        raise ValueError(
            f"{where}: found {list(shape)} voxels in chunks of {list(chunk)}, expected each size "
            f"above 0 and at most {MAX_VOXELS} voxels; correct its metadata"
        )
    if math.prod(chunk) * dtype.itemsize > (limit := max_image_bytes()):
        raise ValueError(
            f"{where}: chunks of {list(chunk)} voxels of {dtype} are over the {limit} bytes that "
            f"one may have; if that is right, raise {IMAGE_VARIABLE}"
        )


def _n5_block(data: Buffer, ndim: int, most: tuple[int, ...]) -> tuple[tuple[int, ...], Buffer]:
    """Return a block's sizes along the dimensions as arrays have them, and its compressed data.

    https://github.com/saalfeldlab/n5#file-system-specification
    """
    head = 4 + 4 * ndim
    if len(data) < head:
        raise DamagedChunkError(f"{len(data)} bytes, expected a header of {head}")
    mode, stated = (int(n) for n in np.frombuffer(data, ">u2", 2))
    sizes = tuple(int(n) for n in np.frombuffer(data, ">u4", ndim, 4))[::-1]
    if mode != 0 or stated != ndim or any(not 0 < s <= m for s, m in zip(sizes, most, strict=True)):
        raise DamagedChunkError(f"its header says mode {mode}, sizes {sizes}, expected {most}")
    return sizes, data[head:]
