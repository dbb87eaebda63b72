"""What a plan says that reading will cost, against what a server of minnie65's geometry counted."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import ingest.plan.read_cost
from ingest.dataset import Layout
from ingest.job.job_file import load_job
from ingest.plan.make import plan_dataset
from ingest.plan.plan_record import read_plan
from ingest.run.block import Opened, execute
from ingest.run.blocks import Task, run_dataset
from ingest.run.finish import finish_dataset
from ingest.volume.geometry import box_starts
from ingest.volume.sample_boxes import centers_vx
from shards.contract.sample_store import open_store
from shards.pack.write_shards import PackOptions, pack
from shards.stream.shardset import open_shards
from tests.ingest.conftest import synapse_rows
from tests.servers.em import EmServer


@pytest.fixture(scope="module")
def server() -> Iterator[EmServer]:
    with EmServer() as running:
        yield running


def views_of(mip: int) -> dict[str, Any]:
    return {"patch": {"size": [64, 64], "mip": mip}, "cube": {"size": [64, 64, 8], "mip": mip}}


def make_config(folder: Path, server: EmServer, views: dict[str, Any], **options: Any) -> Path:
    """A job of 96 synapses in a few minishards."""
    rng = np.random.default_rng(4)
    center = np.array([90000, 80000, 20000])
    synapse_rows(center + rng.integers(0, [4000, 3000, 300], (96, 3))).to_parquet(
        folder / "synapses.parquet"
    )
    config = {
        "axes": "xyz",
        "volume": {"path": server.url},
        "synapses": {"path": "synapses.parquet"},
        "labels": {"column": "ei"},
        "samples": {"center": "ctr", "views": views},
        "samples_per_block": 48,
        **options,
    }
    path = folder / "ingest.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.mark.parametrize("mip", [0, 1])
@pytest.mark.parametrize("cost", [{}, {"latency_ms": 400.0, "concurrency": 4}])
def test_requests_and_bytes_are_as_planned(
    server: EmServer, tmp_path: Path, mip: int, cost: dict[str, Any]
):
    job = load_job(make_config(tmp_path, server, views_of(mip), cost=cost))
    document, _ = plan_dataset(job, tmp_path / "out")
    predicted = document.prediction
    reading = predicted.by_mip[str(mip)]
    assert reading.measured
    assert (reading.gap > 0) == bool(cost)  # waiting is dear: bytes are paid to save requests
    task = Task(index=0, count=1)
    done = run_dataset(tmp_path / "out", scheduler="threads", num_workers=1, task=task)
    assert done.total("kept") == 96
    assert done.total("requests") == pytest.approx(predicted.requests, rel=0.05)
    assert done.total("bytes_read") == pytest.approx(predicted.bytes, rel=0.05)


@pytest.mark.parametrize("mip", [0, 1])
def test_the_slices_it_is_counted_in_do_not_matter(
    server: EmServer, tmp_path: Path, mip: int, monkeypatch: pytest.MonkeyPatch
):
    job = load_job(make_config(tmp_path, server, views_of(mip)))
    whole, _ = plan_dataset(job, tmp_path / "whole")
    monkeypatch.setattr(ingest.plan.read_cost, "SLICE_ROWS", 1)  # a block at a time
    monkeypatch.setattr(ingest.plan.read_cost, "PAGE_BITS", 4)
    sliced, _ = plan_dataset(job, tmp_path / "sliced")
    assert sliced.prediction == whole.prediction


def test_several_scales_and_sizes_in_one_pass(server: EmServer, tmp_path: Path):
    """Four views of two scales in one block: each byte of the volume is fetched once."""
    views = views_of(0) | {f"{name}_16nm": view for name, view in views_of(1).items()}
    path = make_config(tmp_path, server, views, samples_per_block=96, splits={"overlap": "keep"})
    document, _ = plan_dataset(load_job(path), tmp_path / "out")
    run_dataset(tmp_path / "out", scheduler="threads", num_workers=1, task=Task(index=0, count=1))
    server.configure(record=True)
    (tmp_path / "out" / "blocks" / "000000.parquet").unlink()
    opened = Opened(read_plan(Layout(tmp_path / "out")))
    done = execute(Layout(tmp_path / "out"), opened, 0)
    assert done.requests == document.prediction.requests
    ends: dict[str, int] = {}
    for name, start, stop in sorted(tuple(entry) for entry in server.log()):
        assert start >= ends.get(name, 0), "the same bytes again"
        ends[name] = stop
    finish_dataset(tmp_path / "out")
    store = open_store(tmp_path / "out")
    assert list(store.dataset.views) == ["cube", "cube_16nm", "patch", "patch_16nm"]
    for name, view in views.items():
        x, y, z = view["size"] if len(view["size"]) == 3 else [*view["size"], 1]
        samples = store.samples.to_pandas().iloc[::19]
        centers = centers_vx(samples, store.dataset.views[name].voxel_size_nm)
        for row, start in zip(samples.row, box_starts(centers, (z, y, x)).tolist(), strict=True):
            found = store.files(name).read([row]).reshape(z, y, x)
            np.testing.assert_array_equal(found, server.voxels(view["mip"], start, (z, y, x)))
    pack(tmp_path / "out", "cube_16nm", str(tmp_path / "shards"), PackOptions())
    with open_shards(str(tmp_path / "shards")) as shards:
        assert shards.manifest.image == store.dataset.views["cube_16nm"]
