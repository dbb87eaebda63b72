"""A volume whose voxels are a formula of x, y, z, in every way a volume can be stored."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile
import yaml
from cloudfiles import CloudFiles
from cloudvolume import Bbox, CloudVolume

OFFSET_XYZ = (160, 96, 48)
SIZE_XYZ = (200, 176, 72)  # no multiple of a chunk: the last chunks are cut short
CHUNK_XYZ = (64, 32, 16)
RESOLUTION_XYZ = (8, 8, 40)
SHARDING = {
    "@type": "neuroglancer_uint64_sharded_v1",
    "preshift_bits": 2,
    "hash": "identity",
    "minishard_bits": 2,
    "shard_bits": 4,
    "minishard_index_encoding": "gzip",
    "data_encoding": "gzip",
}


def formula(z: Any, y: Any, x: Any) -> Any:
    """The voxel at absolute z, y, x: never 0, and other one step away along any axis."""
    return ((7 * np.asarray(x) + 13 * np.asarray(y) + 29 * np.asarray(z)) % 251 + 1).astype("u1")


def formula_box(start: Any, shape: Any) -> np.ndarray:
    """The voxels (z, y, x) of a box."""
    axes = [np.arange(s, s + n) for s, n in zip(start, shape, strict=True)]
    return formula(*np.ix_(*axes))


def write_formula_volume(folder: Path, *, sharded: bool) -> str:
    """Write the formula as a precomputed volume and return its path."""
    info = CloudVolume.create_new_info(
        num_channels=1,
        layer_type="image",
        data_type="uint8",
        encoding="raw",
        resolution=list(RESOLUTION_XYZ),
        voxel_offset=list(OFFSET_XYZ),
        volume_size=list(SIZE_XYZ),
        chunk_size=list(CHUNK_XYZ),
    )
    if sharded:
        info["scales"][0]["sharding"] = SHARDING
    volume = CloudVolume(f"file://{folder}", info=info, progress=False)
    volume.commit_info()
    voxels = formula_box(OFFSET_XYZ[::-1], SIZE_XYZ[::-1]).transpose(2, 1, 0)[..., None]
    if not sharded:
        volume[:] = voxels
        return str(folder)
    step = np.array([int(n) for n in volume.image.shard_shape(0)])
    for corner in np.ndindex(*(-(-np.array(SIZE_XYZ) // step))):
        start = np.array(corner) * step
        part = voxels[tuple(slice(s, s + n) for s, n in zip(start, step, strict=True))]
        low = start + OFFSET_XYZ
        name, data = volume.image.make_shard(part, Bbox(low, low + part.shape[:3]), mip=0)
        CloudFiles(f"file://{folder}/{volume.scale['key']}").put(name, data)
    return str(folder)


@dataclass
class Job:
    """A job's folder: change `config`, then `write`."""

    folder: Path
    config: dict[str, Any]
    synapses: pd.DataFrame
    centers_vx: dict[int, tuple[int, int, int]] = field(default_factory=dict)

    def write(self) -> Path:
        self.synapses.to_parquet(self.folder / "synapses.parquet")
        path = self.folder / "ingest.yaml"
        path.write_text(yaml.safe_dump(self.config))
        return path


def synapse_rows(centers_xyz: np.ndarray, resolution_xyz: Any = (4, 4, 40)) -> pd.DataFrame:
    """A synapse table in CAVE's columns for centres in the volume's voxels; 4 rows per neuron."""
    scale = np.array(RESOLUTION_XYZ) // np.array(resolution_xyz)
    position = np.asarray(centers_xyz) * scale
    number = np.arange(len(position))
    table = pd.DataFrame(
        {
            "id": 1000 + number,
            "size": 10 * number,
            "pre_pt_root_id": 864691135000000000 + number // 4,
            "post_pt_root_id": 864691136000000000 + number,
            "ei": np.where(number // 4 % 2 == 0, "excitatory", "inhibitory"),
        }
    )
    for axis, name in enumerate("xyz"):
        table[f"ctr_pt_position_{name}"] = position[:, axis]
        table[f"pre_pt_position_{name}"] = position[:, axis] + 2 * scale[axis]
        table[f"post_pt_position_{name}"] = position[:, axis] - 2 * scale[axis]
    return table


@pytest.fixture(scope="session")
def formula_volumes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The formula as a sharded and a plain precomputed volume, a TIFF file and a folder."""
    root = tmp_path_factory.mktemp("formula")
    for name, sharded in (("sharded", True), ("plain", False)):
        write_formula_volume(root / name, sharded=sharded)
    stack = formula_box((0, 0, 0), SIZE_XYZ[::-1])
    tifffile.imwrite(root / "stack.tif", stack, photometric="minisblack", metadata=None)
    (root / "sections").mkdir()
    for z, section in enumerate(stack):  # names that sort wrongly as text: s10 before s9
        tifffile.imwrite(root / "sections" / f"s{z}.tif", section, photometric="minisblack")
    names = {"sharded": "sharded", "plain": "plain", "file": "stack.tif", "folder": "sections"}
    return {kind: root / name for kind, name in names.items()}


def build_job(folder: Path, volume: Path, kind: str, count: int, **samples: Any) -> Job:
    """A job over a formula volume: `count` synapses, 4 of each neuron, blocks of 16."""
    rng = np.random.default_rng(5)
    low = np.array((24, 24, 12)) + OFFSET_XYZ
    high = np.array(SIZE_XYZ) - (24, 24, 12) + OFFSET_XYZ
    centers = rng.integers(low, high, (count, 3))
    is_tiff = kind in ("file", "folder")
    synapses = synapse_rows(centers - OFFSET_XYZ if is_tiff else centers)
    where: dict[str, Any] = {"path": str(volume)}
    if is_tiff:
        where |= {"format": "tiff", "voxel_size_nm": [8, 8, 40]}
    views = {"patch": {"size": [24, 24]}, "cube": {"size": [16, 16, 8]}}
    config = {
        "axes": "xyz",
        "volume": where,
        "synapses": {"path": "synapses.parquet"},
        "labels": {"column": "ei"},
        "splits": {
            "fractions": {"train": 0.5, "val": 0.25, "test": 0.25},
            "overlap": "keep",  # the volume is small
        },
        "samples": {"center": "ctr", "views": views, **samples},
        "samples_per_block": 16,
    }
    return Job(folder, config, synapses)


@pytest.fixture
def make_job(tmp_path: Path, formula_volumes: dict[str, Path]) -> Callable[..., Job]:
    """Return a function that makes a job over the formula volume, with 64 synapses by default."""

    def make(kind: str = "sharded", *, count: int = 64, **samples: Any) -> Job:
        return build_job(tmp_path, formula_volumes[kind], kind, count, **samples)

    return make


@pytest.fixture(scope="module")
def module_job(tmp_path_factory: pytest.TempPathFactory, formula_volumes: dict[str, Path]) -> Job:
    """A job that the tests of a module share and none may change."""
    folder = tmp_path_factory.mktemp("job")
    return build_job(folder, formula_volumes["sharded"], "sharded", 64)


@pytest.fixture(scope="session")
def box_voxels() -> Callable[[Any, Any], np.ndarray]:
    """The formula's voxels (z, y, x) in a box: `box_voxels(start_zyx, shape_zyx)`."""
    return formula_box
