"""Plans over arrays: requests and bytes as they were counted; masks out of any format."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import crc32c
import h5py
import numpy as np
import pandas as pd
import pytest
import zarr

from ingest.job.job_file import load_job
from ingest.plan.make import plan_dataset
from ingest.run.blocks import Task, run_dataset
from ingest.run.finish import finish_dataset
from shards.contract.sample_store import open_store
from tests.ingest.conftest import OFFSET_XYZ, SIZE_XYZ, Job, formula_box
from tests.ingest.volume.array_files import write_hdf5, write_n5_array
from tests.servers.files import FileServer

SIZE_NM = (40.0, 8.0, 8.0)
SHAPE = SIZE_XYZ[::-1]
OFFSET_NM = (np.array(OFFSET_XYZ[::-1]) * SIZE_NM).tolist()
PLACE = {"resolution": SIZE_NM, "offset": OFFSET_NM}
CHUNK, SHARD = (8, 32, 32), (32, 64, 128)
MakeJob = Callable[..., Job]


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    """The volume of `make_job`."""
    return formula_box(OFFSET_XYZ[::-1], SHAPE)


def write(path: Path, kind: str, values: np.ndarray) -> Path:
    if kind == "n5":
        place = {key: list(value[::-1]) for key, value in PLACE.items()}
        write_n5_array(path, values, "raw", **place)
        return path
    shards = None if kind == "files" else SHARD
    array = zarr.create_array(
        path, shape=values.shape, dtype=values.dtype, chunks=CHUNK, shards=shards, attributes=PLACE,
        compressors=None,
    )  # fmt: skip
    array[:] = values
    if kind == "in order":
        for file in (path / "c").rglob("*"):
            if file.is_file():
                in_order(file)
    return path


def in_order(file: Path) -> None:
    """Write a shard's chunks anew in the order of its index, as tensorstore does."""
    num_chunks = int(np.prod(np.array(SHARD) // CHUNK))
    data = file.read_bytes()
    index = np.frombuffer(data[-16 * num_chunks - 4 : -4], "<u8").reshape(-1, 2).copy()
    parts, at = [], 0
    for row in index:
        if row[0] != 2**64 - 1:
            parts.append(data[row[0] : row[0] + row[1]])
            row[0], at = at, at + int(row[1])
    table = index.tobytes()
    file.write_bytes(b"".join([*parts, table, crc32c.crc32c(table).to_bytes(4, "little")]))


@pytest.mark.parametrize("cost", [{}, {"latency_ms": 4000.0, "concurrency": 1}])
@pytest.mark.parametrize("kind", ["files", "shards", "in order", "n5"])
def test_requests_and_bytes_are_as_planned(
    make_job: MakeJob, tmp_path: Path, image: np.ndarray, kind: str, cost: dict[str, Any]
) -> None:
    """In whichever order a writer left a shard's chunks, also where ranges are joined over some."""
    noise = np.random.default_rng(0).integers(1, 256, image.shape, dtype="u1")
    path = write(tmp_path / "em", kind, noise)
    with FileServer(folder=path.parent) as server:
        job = make_job(count=48)
        job.config |= {"volume": {"path": f"{server.url}/em"}, "cost": cost}
        plan, _ = plan_dataset(load_job(job.write()), tmp_path / "out")
        task = Task(index=0, count=1)
        done = run_dataset(tmp_path / "out", scheduler="threads", num_workers=1, task=task)
    predicted = plan.prediction
    reading = predicted.by_mip["0"]
    assert reading.measured
    assert (reading.gap > 0) == (kind in ("shards", "in order"))
    assert done.total("kept") == 48
    assert done.total("requests") == predicted.requests
    assert done.total("bytes_read") == pytest.approx(predicted.bytes, rel=0.002)


@pytest.mark.parametrize("kind", ["files", "shards", "n5", "hdf5"])
def test_samples_are_the_voxels_around_their_centers(
    make_job: MakeJob, tmp_path: Path, image: np.ndarray, kind: str
) -> None:
    if kind == "hdf5":
        path = Path(write_hdf5(tmp_path / "em.hdf", image)) / "volumes" / "raw"
        place(tmp_path / "em.hdf")
    else:
        path = write(tmp_path / "em", kind, image)
    job = make_job()
    job.config["volume"] = {"path": str(path)}
    plan_dataset(load_job(job.write()), tmp_path / "out")
    run_dataset(tmp_path / "out", scheduler="threads", num_workers=2, task=None)
    finish_dataset(tmp_path / "out")
    store = open_store(tmp_path / "out")
    samples = store.samples.to_pandas()
    assert len(samples) == 64
    centers = centers_of(samples)
    for view, size in (("patch", (1, 24, 24)), ("cube", (8, 16, 16))):
        images = store.files(view).read(samples.row.tolist())
        for center, found in zip(centers, images, strict=True):
            expected = formula_box(center - np.array(size) // 2, size)
            np.testing.assert_array_equal(found[0].reshape(size), expected)


def place(path: Path) -> None:
    with h5py.File(path, "a") as file:
        for name, value in PLACE.items():
            file["volumes/raw"].attrs[name] = value


def centers_of(samples: pd.DataFrame) -> np.ndarray:
    columns = [f"center_{axis}_nm" for axis in "zyx"]
    return np.floor(samples[columns].to_numpy() / SIZE_NM).astype(int)


@pytest.mark.parametrize("kind", ["files", "shards", "n5", "hdf5"])
def test_masks_from_arrays(make_job: MakeJob, tmp_path: Path, kind: str) -> None:
    """Segments are slabs along x, a neuron each, in voxels twice as wide as the image's."""
    job = make_job(channels=["em", "pre"])
    positions = [f"pre_pt_position_{axis}" for axis in "xyz"]
    x_vx = job.synapses[positions[0]] // 2
    job.synapses["pre_pt_root_id"] = 864691135000000000 + x_vx // 20
    ids = np.zeros((72, 88, 100), "u8")
    ids[:] = 864691135000000000 + (OFFSET_XYZ[0] + 2 * np.arange(100, dtype="u8")) // 20
    attributes = {"resolution": [40.0, 16.0, 16.0], "offset": OFFSET_NM}
    path = tmp_path / "seg"
    if kind == "hdf5":
        path = tmp_path / "seg.h5"
        with h5py.File(path, "w") as file:
            file.create_dataset("volumes/labels/neuron_ids", data=ids, chunks=CHUNK)
            file["volumes/labels/neuron_ids"].attrs.update(attributes)
            file["volumes/raw"] = ids.astype("u1")
    elif kind == "n5":
        listed = {key: list(value[::-1]) for key, value in attributes.items()}
        write_n5_array(path, ids, "zstd", **listed)
    else:
        shards = None if kind == "files" else SHARD
        zarr.create_array(path, data=ids, chunks=CHUNK, shards=shards, attributes=attributes)
    job.config["volume"]["segmentation"] = str(path)
    plan, _ = plan_dataset(load_job(job.write()), tmp_path / "out")
    assert plan.prediction.masks["0"].chunk_reads > 0
    run_dataset(tmp_path / "out", scheduler="threads", num_workers=2, task=None)
    finish_dataset(tmp_path / "out")
    store = open_store(tmp_path / "out")
    samples = store.samples.to_pandas()
    images = store.files("cube").read(samples.row.tolist())
    rows = zip(centers_of(samples), samples.pre_root_id, images, strict=True)
    for center, root, (_, mask) in rows:
        x = (center[2] - 8 + np.arange(16)) // 2 * 2
        inside = 864691135000000000 + x // 20 == root
        np.testing.assert_array_equal(mask, np.broadcast_to(np.where(inside, 255, 0), mask.shape))
