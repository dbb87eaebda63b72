"""Writes sections as a sharded precomputed volume with minnie65's scheme, scaled down.

Mip 0 is 8×8×40 nm, raw with gzip data, chunks 128×128×16; mip 1 is 16×16×40 nm, JPEG, chunks 64³.
The shards are CloudVolume's own; only the compression of a chunk is ours, because CloudVolume
stamps the time into each gzip header and takes the slowest level.
"""

import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from cloudvolume import Bbox, CloudVolume
from cloudvolume.datasource.precomputed.sharding import ShardingSpecification

from ingest.phantom.fields import Gray, Triple
from ingest.phantom.phantom_config import CHUNK

CHUNK_MIP1 = (64, 64, 64)  # x, y, z
MAX_CHUNKS_PER_SHARD_BITS = 6
JPEG_QUALITY = 87


def sharding(grid_xyz: Triple, *, gzip_data: bool) -> dict[str, str | int]:
    """Return a sharding scheme for a grid of chunks: several shards, each of several minishards."""
    bits = sum((n - 1).bit_length() for n in grid_xyz)
    within = min(max(bits - 3, 0), MAX_CHUNKS_PER_SHARD_BITS)
    return {
        "@type": "neuroglancer_uint64_sharded_v1",
        "preshift_bits": within - within // 2,
        "hash": "identity",
        "minishard_bits": within // 2,
        "shard_bits": bits - within,
        "minishard_index_encoding": "gzip",
        "data_encoding": "gzip" if gzip_data else "raw",
    }


def new_volume(path: Path, size_xyz: Triple, offset_xyz: Triple, **kind: str) -> CloudVolume:
    """Return a volume of one scale, 8×8×40 nm, whose `info` is not written yet."""
    info = CloudVolume.create_new_info(
        num_channels=1,
        **kind,
        resolution=[8, 8, 40],
        voxel_offset=list(offset_xyz),
        volume_size=list(size_xyz),
        chunk_size=list(CHUNK),
    )
    return CloudVolume(f"file://{path.resolve()}", info=info, progress=False)


def create_volume(path: Path, size_xyz: Triple, offset_xyz: Triple) -> CloudVolume:
    """Write the `info` of an empty volume and return the volume."""
    kind = {"layer_type": "image", "data_type": "uint8", "encoding": "raw"}
    volume = new_volume(path, size_xyz, offset_xyz, **kind)
    volume.add_scale((2, 2, 1), encoding="jpeg", chunk_size=list(CHUNK_MIP1))
    storage = ((CHUNK, True), (CHUNK_MIP1, False))
    for scale, (chunk, gzip_data) in zip(volume.info["scales"], storage, strict=True):
        grid = [-(-size // c) for size, c in zip(scale["size"], chunk, strict=True)]
        scale["sharding"] = sharding((grid[0], grid[1], grid[2]), gzip_data=gzip_data)
        if scale["encoding"] == "jpeg":
            scale["jpeg_quality"] = JPEG_QUALITY
    volume.commit_info()
    return volume


def write_volume(
    volume: CloudVolume, draw: Callable[[int, int], Gray], *, workers: int
) -> Iterator[int]:
    """Draw and write the volume slab by slab; yield the sections done with each.

    `draw(first, last)` returns the sections from `first` to `last` as (z, y, x). It is called from
    `workers` threads, for a chunk's depth at a time.
    """
    nx, ny, nz = (int(n) for n in volume.volume_size)
    depth = int(volume.image.shard_shape(0)[2])
    half = np.zeros((nz, ny // 2, nx // 2), np.uint8)
    with ThreadPoolExecutor(workers) as pool:
        for low in range(0, nz, depth):
            high = min(low + depth, nz)
            starts = range(low, high, CHUNK[2])
            parts = pool.map(lambda z: draw(z, min(z + CHUNK[2], nz)), starts)
            slab = np.concatenate(list(parts))
            half[low:high] = _halved(slab)
            _write_shards(volume, 0, slab, low, pool)
            yield high - low
        depth = int(volume.image.shard_shape(1)[2])
        for low in range(0, nz, depth):
            _write_shards(volume, 1, half[low : low + depth], low, pool)


def _halved(slab: Gray) -> Gray:
    """Return the mean of each 2×2 pixels, as downsampled volumes have it."""
    wide = slab.astype(np.uint16)
    total = wide[:, ::2, ::2] + wide[:, 1::2, ::2] + wide[:, ::2, 1::2] + wide[:, 1::2, 1::2]
    return ((total + 2) // 4).astype(np.uint8)


def _write_shards(
    volume: CloudVolume, mip: int, slab: Gray, low: int, pool: ThreadPoolExecutor
) -> None:
    """Write the shards that a slab, starting `low` sections from the top, consists of."""
    step_x, step_y, _ = (int(n) for n in volume.image.shard_shape(mip))
    ny, nx = slab.shape[1:]
    corners = product(range(0, ny, step_y), range(0, nx, step_x))

    def write(corner: tuple[int, int]) -> None:
        y, x = corner
        box = slab[:, y : y + step_y, x : x + step_x]
        start = np.add(volume.meta.voxel_offset(mip), (x, y, low))
        _write_shard(volume, mip, box.transpose(2, 1, 0)[..., None], start)

    for _ in pool.map(write, corners):
        pass


def _write_shard(volume: CloudVolume, mip: int, image_xyzc: Gray, start: npt.NDArray[Any]) -> None:
    image = volume.image
    box = Bbox(start, start + image_xyzc.shape[:3])
    spec = image.shard_spec(mip)
    chunks = image.make_shard_chunks(image_xyzc, box, mip=mip)
    if spec.data_encoding == "gzip":
        chunks = {code: _gzip(data) for code, data in chunks.items()}
    stored = ShardingSpecification.from_dict({**spec.to_dict(), "data_encoding": "raw"})
    name, data = image.make_shard(chunks, box, mip=mip, spec=stored)
    folder = Path(volume.cloudpath.removeprefix("file://")) / volume.meta.key(mip)
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(_without_time(bytearray(data), int(spec.minishard_bits)))


def _gzip(data: bytes) -> bytes:
    """Return `data` as gzip, packing runs only: noise has no other matches, and it is quick."""
    packer = zlib.compressobj(1, zlib.DEFLATED, 31, 9, zlib.Z_RLE)
    return packer.compress(data) + packer.flush()


def _without_time(shard: bytearray, minishard_bits: int) -> bytes:
    """Clear the time of writing from the gzip header of each minishard index."""
    behind = 16 << minishard_bits
    for start, stop in np.frombuffer(shard[:behind], "<u8").reshape(-1, 2):
        if stop > start:
            at = behind + int(start) + 4
            shard[at : at + 4] = bytes(4)
    return bytes(shard)
