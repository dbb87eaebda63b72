"""Small inputs that are right: a job with its tables, a volume, a tar set, predictions."""

import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tifffile

from shards.pack.import_webdataset import ForeignSpec, index_tars

BIG_ID = 864691135000000007  # above 2^53: a float loses its digits


def synapses(count: int = 40) -> pd.DataFrame:
    """Return a synapse table in CAVE's columns."""
    number = np.arange(count)
    frame = pd.DataFrame(
        {
            "id": BIG_ID // 3 + number,
            "pre_pt_root_id": BIG_ID + number // 4,
            "post_pt_root_id": BIG_ID * 2 + number,
            "size": 10.5 * number + 1,
            "ei": np.where(number // 4 % 2 == 0, "excitatory", "inhibitory"),
        }
    )
    for axis, name in enumerate("xyz"):
        frame[f"ctr_pt_position_{name}"] = 100 + 3 * number + 7 * axis
    return frame


def write_job_folder(folder: Path) -> dict[str, Any]:
    """Write a synapse table and return the values of a job on it."""
    synapses().to_parquet(folder / "synapses.parquet", write_page_checksum=True)
    return {
        "axes": "xyz",
        "volume": {"path": "stack.tif", "format": "tiff", "voxel_size_nm": [8, 8, 40]},
        "synapses": {
            "path": "synapses.parquet",
            "position_resolution_nm": [8, 8, 40],
            "columns": {"pre": None, "post": None},
        },
        "labels": {"column": "ei", "class_names": ["inhibitory", "excitatory"]},
        "splits": {
            "by": "neuron",
            "fractions": {"train": 0.5, "val": 0.25, "test": 0.25},
            "overlap": "keep",
        },
        "samples": {"center": "ctr", "views": {"patch": {"size": [32, 32]}}},
        "samples_per_block": 16,
    }


def write_volume(folder: Path) -> dict[str, Any]:
    """Write the chunks of a precomputed volume of 2 × 2 × 1 chunks; return its `info`."""
    scale = {
        "key": "8_8_40",
        "size": [48, 32, 8],
        "resolution": [8, 8, 40],
        "voxel_offset": [16, 8, 4],
        "chunk_sizes": [[32, 16, 8]],
        "encoding": "raw",
    }
    (folder / "8_8_40").mkdir(parents=True, exist_ok=True)
    voxels = (np.arange(48 * 32 * 8, dtype=np.uint32) % 251 + 1).astype("u1").reshape(8, 32, 48)
    for y in (0, 16):
        for x in (0, 32):
            chunk = voxels[:, y : y + 16, x : x + 32]
            name = f"{16 + x}-{16 + x + chunk.shape[2]}_{8 + y}-{8 + y + 16}_4-12"
            (folder / "8_8_40" / name).write_bytes(chunk.tobytes())
    return {"type": "image", "data_type": "uint8", "num_channels": 1, "scales": [scale]}


def image(number: int) -> np.ndarray:
    """Return the image (1, y, x) of a sample of the tar."""
    return (np.arange(12 * 16) * (number + 3) % 256).astype("u1").reshape(1, 12, 16)


def npy(array: np.ndarray) -> bytes:
    """Return an array as the bytes of an .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def tar_members(count: int = 8) -> list[tuple[str, bytes]]:
    """Return names and bytes of the members of a WebDataset tar, sample by sample."""
    members = []
    for number in range(count):
        members.append((f"s{number:03}.npy", npy(image(number))))
        members.append((f"s{number:03}.cls", str(number % 2).encode()))
        members.append((f"s{number:03}.json", json.dumps({"neuron_id": number // 2}).encode()))
    return members


def tar(
    members: Sequence[tuple[str, bytes]], form: int = tarfile.USTAR_FORMAT, **info: Any
) -> bytes:
    """Return a tar of these members."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as file:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            for key, value in info.items():
                setattr(member, key, value)
            file.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def write_set(folder: Path) -> None:
    """Write an indexed shard set of two tars."""
    folder.mkdir(parents=True, exist_ok=True)
    members = tar_members()
    (folder / "train-0.tar").write_bytes(tar(members[:12]))
    (folder / "val-0.tar").write_bytes(tar(members[12:]))
    index_tars(str(folder), ForeignSpec(class_names=("a", "b")), force=True, say=lambda _: None)


def predictions(count: int = 40) -> pd.DataFrame:
    """Return a predictions table of two classes and three splits."""
    number = np.arange(count)
    return pd.DataFrame(
        {
            "synapse_id": BIG_ID + number,
            "split": np.array(["train", "val", "test"])[number % 3],
            "label": number % 2,
            "probability": (number * 37 % 100) / 100,
            "neuron": BIG_ID * 3 + number // 4,
        }
    )


def rows(frame: pd.DataFrame) -> list[tuple[Any, ...]]:
    """Return a frame's rows as plain values in order, NaN as None."""
    columns = {str(name): _plain(frame[name]) for name in sorted(map(str, frame.columns))}
    return sorted(zip(*columns.values(), strict=True), key=repr)


def _plain(column: pd.Series) -> list[Any]:
    return [None if pd.isna(v) else v for v in column.astype(object)]


def write_small_job(folder: Path) -> None:
    """Write a stack of noise and 96 synapses of 24 neurons around it, with a job of six blocks."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    stack = rng.integers(1, 255, (24, 160, 160), dtype=np.uint8)
    tifffile.imwrite(folder / "stack.tif", stack, photometric="minisblack", metadata=None)
    frame = synapses(96)
    for axis, (low, high) in zip("xyz", ((32, 128), (32, 128), (8, 16)), strict=True):
        frame[f"ctr_pt_position_{axis}"] = rng.integers(low, high, len(frame))
    job = write_job_folder(folder)
    frame.to_parquet(folder / "synapses.parquet")
    job["samples"]["views"] = {"patch": {"size": [32, 32]}, "cube": {"size": [32, 32, 8]}}
    (folder / "job.yaml").write_text(json.dumps(job))
