"""No bit that flips in a shard set changes what a reader hands out in silence."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest

from benchmarks.shards import bit_rot
from shards.pack.assign import PackOptions
from shards.pack.import_webdataset import ForeignSpec, index_tars
from shards.pack.write_shards import pack

pytestmark = pytest.mark.timeout(120)
FLIPS = 100


@pytest.fixture(scope="module", params=["packed", "indexed"])
def shard_set(
    request: pytest.FixtureRequest, store: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Return a small shard set of our own, or one that was indexed."""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "packed":
        pack(store, "patch", str(folder), PackOptions(samples_per_shard=64))
        return folder
    with tarfile.open(folder / "train-0.tar", "w") as tar:
        for number in range(6):
            file = io.BytesIO()
            np.save(file, np.full((1, 8, 8), number, np.uint8))
            members = {"npy": file.getvalue(), "cls": b"1", "json": b'{"neuron_id": 2}'}
            for suffix, content in members.items():
                info = tarfile.TarInfo(f"{number}.{suffix}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    index_tars(str(folder), ForeignSpec(class_names=("a", "b")))
    return folder


@pytest.mark.parametrize("kind", ["manifest.json", ".index.parquet", ".tar"])
def test_no_flip_is_silent(shard_set: Path, kind: str) -> None:
    found = bit_rot.flips(shard_set, kind, FLIPS, np.random.default_rng(0))
    assert found.total() == FLIPS
    assert found["silent"] == 0
    assert found["noticed"] + found["noticed by verify"] > FLIPS * 0.9
