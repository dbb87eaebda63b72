"""What a plan says that reading will cost, against what a server of minnie65's geometry counted."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import ingest.predict
from ingest.config import load_job
from ingest.plan import plan_dataset
from ingest.run import Task, run_dataset
from tests.ingest.conftest import synapse_rows
from tests.servers.em import EmServer


@pytest.fixture(scope="module")
def server() -> Iterator[EmServer]:
    with EmServer() as running:
        yield running


def make_config(folder: Path, server: EmServer, mip: int, **cost: Any) -> Path:
    """A job of 96 synapses in a few minishards."""
    rng = np.random.default_rng(4)
    center = np.array([90000, 80000, 20000])
    synapse_rows(center + rng.integers(0, [4000, 3000, 300], (96, 3))).to_parquet(
        folder / "synapses.parquet"
    )
    views = {"patch": {"size": [64, 64], "mip": mip}, "cube": {"size": [8, 64, 64], "mip": mip}}
    config = {
        "volume": {"path": server.url},
        "synapses": {"path": "synapses.parquet"},
        "labels": {"column": "ei"},
        "samples": {"center": "ctr", "views": views},
        "samples_per_block": 48,
        "cost": cost,
    }
    path = folder / "ingest.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.mark.parametrize("mip", [0, 1])
@pytest.mark.parametrize("cost", [{}, {"latency_ms": 400.0, "concurrency": 4}])
def test_requests_and_bytes_are_as_planned(
    server: EmServer, tmp_path: Path, mip: int, cost: dict[str, Any]
):
    job = load_job(make_config(tmp_path, server, mip, **cost))
    document, _ = plan_dataset(job, tmp_path / "out")
    predicted = document["prediction"]
    reading = predicted["by_mip"][str(mip)]
    assert reading["measured"]
    assert (reading["gap"] > 0) == bool(cost)  # waiting is dear: bytes are paid to save requests
    task = Task(index=0, count=1)
    found = run_dataset(tmp_path / "out", scheduler="threads", num_workers=1, task=task)
    assert found["kept"] == 96
    assert found["requests"] == pytest.approx(predicted["requests"], rel=0.05)
    assert found["bytes_read"] == pytest.approx(predicted["bytes"], rel=0.05)


@pytest.mark.parametrize("mip", [0, 1])
def test_the_slices_it_is_counted_in_do_not_matter(
    server: EmServer, tmp_path: Path, mip: int, monkeypatch: pytest.MonkeyPatch
):
    job = load_job(make_config(tmp_path, server, mip))
    whole, _ = plan_dataset(job, tmp_path / "whole")
    monkeypatch.setattr(ingest.predict, "SLICE_ROWS", 1)  # a block at a time
    monkeypatch.setattr(ingest.predict, "PAGE_BITS", 4)
    sliced, _ = plan_dataset(job, tmp_path / "sliced")
    assert sliced["prediction"] == whole["prediction"]
