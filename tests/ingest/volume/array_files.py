"""One image, z, y, x, written in every array format that a volume may have."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numcodecs
import numpy as np
import zarr
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, ShardingCodec, TransposeCodec

Writer = Callable[[Path, np.ndarray], str]

SIZE_NM = (40.0, 8.0, 8.0)
OFFSET_VX = (3, 10, 20)  # of the finest scale
CHUNK = (8, 16, 20)
SHARD = (16, 32, 40)


def axes_of(names: str, unit: str | None = "nanometer") -> list[dict[str, str]]:
    kinds = {"t": "time", "c": "channel"}
    return [
        {"name": name, "type": kinds.get(name, "space")}
        | ({} if unit is None or name in kinds else {"unit": unit})
        for name in names
    ]


def multiscales(names: str, paths: list[str], factor: float = 1.0, **axes: Any) -> dict[str, Any]:
    """OME-Zarr's `multiscales` whose scale n has voxels 2ⁿ times as wide along y and x."""
    datasets = []
    for level, path in enumerate(paths):
        zyx = np.array(SIZE_NM) * [1, 2**level, 2**level]
        # Means of 2ⁿ voxels lie half a voxel less one half of a fine one behind the first's center.
        shift = np.array(OFFSET_VX) * SIZE_NM + (zyx - SIZE_NM) / 2
        sizes = {"t": 1.0, "c": 1.0, **dict(zip("zyx", zyx * factor, strict=True))}
        shifts = {"t": 0.0, "c": 0.0, **dict(zip("zyx", shift * factor, strict=True))}
        datasets.append(
            {
                "path": path,
                "coordinateTransformations": [
                    {"type": "scale", "scale": [sizes[name] for name in names]},
                    {"type": "translation", "translation": [shifts[name] for name in names]},
                ],
            }
        )
    return {"multiscales": [{"axes": axes_of(names, **axes), "datasets": datasets}]}


def scales_of(image: np.ndarray) -> list[np.ndarray]:
    """The image and a scale of a quarter of its voxels."""
    return [image, image[:, ::2, ::2]]


def write_ome_04(folder: Path, image: np.ndarray) -> str:
    group = zarr.create_group(folder, zarr_format=2)
    for name, scale in zip("01", scales_of(image), strict=True):
        array = group.create_array(
            name,
            shape=(1, 1, *scale.shape),
            chunks=(1, 1, *CHUNK),
            dtype=scale.dtype,
            chunk_key_encoding={"name": "v2", "separator": "/"},
        )
        array[:] = scale[None, None]
    micrometers = multiscales("tczyx", ["0", "1"], 1e-3, unit="micrometer")
    group.attrs.update({**micrometers, "version": "0.4"})
    return str(folder)


def write_ome_05(folder: Path, image: np.ndarray) -> str:
    group = zarr.create_group(folder, zarr_format=3)
    for name, scale in zip(("s0", "s1"), scales_of(image), strict=True):
        array = group.create_array(
            name, shape=scale.shape, chunks=CHUNK, shards=SHARD, dtype=scale.dtype
        )
        array[:] = scale
    group.attrs["ome"] = {"version": "0.5", **multiscales("zyx", ["s0", "s1"])}
    return str(folder)


def write_zarr_2(folder: Path, image: np.ndarray) -> str:
    """In the order x, y, z, named as xarray does."""
    array = zarr.create_array(
        folder,
        shape=image.shape[::-1],
        chunks=CHUNK[::-1],
        dtype=image.dtype,
        order="F",
        zarr_format=2,
        compressors=numcodecs.Blosc("lz4"),
    )
    array[:] = image.T
    array.attrs["_ARRAY_DIMENSIONS"] = ["x", "y", "z"]
    array.attrs["resolution"] = SIZE_NM[::-1]
    array.attrs["offset"] = (np.array(OFFSET_VX) * SIZE_NM)[::-1].tolist()
    return str(folder)


def write_zarr_3(folder: Path, image: np.ndarray) -> str:
    """Inside of a group, transposed, with checksums, in shards of which the index comes first."""
    codecs = [TransposeCodec(order=(2, 0, 1)), BytesCodec(endian="big")]
    codecs += [BloscCodec(cname="zstd", typesize=1), Crc32cCodec()]
    sharding = ShardingCodec(chunk_shape=CHUNK, codecs=codecs, index_location="start")
    array = zarr.create_array(
        folder / "volumes" / "raw",
        shape=image.shape,
        chunks=SHARD,
        dtype=image.dtype,
        serializer=sharding,
        compressors=None,
        dimension_names=("z", "y", "x"),
    )
    array[:] = image
    array.attrs["voxel_size"] = [0.04, 0.008, 0.008]
    array.attrs["units"] = ["um", "um", "um"]
    array.attrs["offset"] = [0.12, 0.08, 0.16]
    return f"{folder}/volumes/raw"


def lz4_blocks(data: bytes) -> bytes:
    """What lz4-java's LZ4BlockOutputStream writes: blocks of up to 64 KB, then an empty one."""
    parts = []
    for start in range(0, len(data), 1 << 16):
        plain = data[start : start + (1 << 16)]
        packed = bytes(numcodecs.lz4.compress(plain))[4:]
        method, body = (0x20, packed) if len(packed) < len(plain) else (0x10, plain)
        parts += [struct.pack("<8sBiiI", b"LZ4Block", method | 6, len(body), len(plain), 0), body]
    return b"".join([*parts, struct.pack("<8sBiiI", b"LZ4Block", 0x16, 0, 0, 0)])


N5_CODECS: dict[str, tuple[dict[str, Any], Callable[[bytes], bytes]]] = {
    "raw": ({"type": "raw"}, bytes),
    "gzip": ({"type": "gzip"}, numcodecs.GZip().encode),
    "zlib": ({"type": "gzip", "useZlib": True}, numcodecs.Zlib().encode),
    "blosc": ({"type": "blosc", "cname": "lz4"}, numcodecs.Blosc("lz4").encode),
    "zstd": ({"type": "zstd"}, numcodecs.Zstd().encode),
    "bzip2": ({"type": "bzip2"}, numcodecs.BZ2().encode),
    "xz": ({"type": "xz"}, numcodecs.LZMA().encode),
    "lz4": ({"type": "lz4"}, lz4_blocks),
}


def write_n5_array(folder: Path, image: np.ndarray, codec: str, **attributes: Any) -> None:
    """Blocks as the specification has them: big-endian, cut short where the array ends."""
    compression, encode = N5_CODECS[codec]
    folder.mkdir(parents=True)
    head = {"dimensions": image.shape[::-1], "blockSize": CHUNK[::-1], "compression": compression}
    head |= {"dataType": image.dtype.name, **attributes}
    (folder / "attributes.json").write_text(json.dumps(head))
    for place in np.ndindex(*(-(-np.array(image.shape) // CHUNK))):
        low = np.array(place) * CHUNK
        block = image[tuple(slice(a, a + n) for a, n in zip(low, CHUNK, strict=True))]
        data = block.astype(block.dtype.newbyteorder(">")).tobytes()
        path = folder.joinpath(*map(str, place[::-1]))
        path.parent.mkdir(parents=True, exist_ok=True)
        header = struct.pack(">HHIII", 0, 3, *block.shape[::-1])
        path.write_bytes(header + bytes(encode(data)))


def write_n5(folder: Path, image: np.ndarray) -> str:
    """Two scales; the group states the voxel size of the finest."""
    folder.mkdir()
    group = {"n5": "2.5.0", "pixelResolution": {"dimensions": SIZE_NM[::-1], "unit": "nm"}}
    group |= {"scales": [[1, 1, 1], [2, 2, 1]]}
    (folder / "attributes.json").write_text(json.dumps(group))
    for name, scale in zip(("s0", "s1"), scales_of(image), strict=True):
        write_n5_array(folder / name, scale, "gzip")
    return str(folder)


def write_hdf5(path: Path, image: np.ndarray) -> str:
    """CREMI's layout: the image beside labels of another type."""
    with h5py.File(path, "w") as file:
        raw = file.create_dataset("volumes/raw", data=image, chunks=CHUNK, compression="gzip")
        raw.attrs["resolution"] = SIZE_NM
        raw.attrs["offset"] = np.array(OFFSET_VX) * SIZE_NM
        ids = file.create_dataset("volumes/labels/neuron_ids", data=image.astype("u8"))
        ids.attrs["resolution"] = SIZE_NM
        file["annotations/locations"] = np.zeros((5, 3))
    return str(path)


WRITERS: dict[str, Writer] = {
    "ome 0.4": write_ome_04,
    "ome 0.5": write_ome_05,
    "zarr v2": write_zarr_2,
    "zarr v3": write_zarr_3,
    "n5": write_n5,
    "hdf5": write_hdf5,
}
NAMES = {"n5": "em.n5", "hdf5": "sample_A.hdf"}
