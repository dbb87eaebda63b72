"""Tables on another machine, in every format, with and without a header, over a bad line."""

import gzip
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from ingest.job.image_config import VolumeConfig
from ingest.tables import remote_tables as remote
from ingest.tables.remote_tables import RemoteFile, remote_identity
from ingest.tables.synapse_tables import open_table
from ingest.volume.geometry import box_at
from ingest.volume.open import open_volume
from shards.storage.object_store import CREDENTIALS
from shards.tabular.table_files import Column
from tests.servers.files import FileServer

ROWS = pd.DataFrame(
    {
        "id": np.arange(30_000) + 864691135000000000,
        "size": np.arange(30_000) * 0.5,
        "status_axon": np.where(np.arange(30_000) % 3 == 0, "t", "f"),
    }
)
HEADER = "id,bigint\nsize,double precision\nstatus_axon,boolean\n"


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tables")
    ROWS.to_parquet(folder / "t.parquet", row_group_size=5000)
    ROWS.to_feather(folder / "t.feather")
    ROWS.to_csv(folder / "t.csv", index=False)
    text = ROWS.to_csv(index=False, header=False).encode()
    half = len(text) // 2
    parts = gzip.compress(text[:half]) + gzip.compress(text[half:])  # two members, as dumps have
    (folder / "bare.csv.gz").write_bytes(parts)
    (folder / "typed_header.csv").write_text(HEADER)
    (folder / "line_header.csv").write_text("id,size,status_axon\n")
    return folder


@pytest.fixture(params=[0.0, 0.1], ids=["well", "faulty"])
def server(
    request: pytest.FixtureRequest, tables: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FileServer]:
    monkeypatch.setattr(remote, "BLOCK_BYTES", 1 << 14)
    monkeypatch.setattr("shards.storage.patience.random.uniform", lambda *_: 0.0)
    with FileServer(folder=tables, fault_rate=request.param) as running:
        yield running
        assert (running.num_faults > 0) == (request.param > 0)


def test_every_format_is_read_the_same(server: FileServer) -> None:
    for name, header in [
        ("t.parquet", None),
        ("t.feather", None),
        ("t.csv", None),
        ("bare.csv.gz", "typed_header.csv"),
        ("bare.csv.gz", "line_header.csv"),
    ]:
        table = open_table(f"{server.url}/{name}", header and f"{server.url}/{header}")
        rows = table.read(
            {
                "id": Column("id", "id"),
                "size": Column("size", "number"),
                "status_axon": Column("status_axon", "text"),
            }
        )
        pd.testing.assert_frame_equal(rows.to_pandas(), ROWS)


def test_seeking_and_reading_like_a_local_file(tables: Path) -> None:
    local = (tables / "t.csv").read_bytes()
    rng = np.random.default_rng(1)
    with (
        FileServer(folder=tables) as server,
        RemoteFile(f"{server.url}/t.csv", block_bytes=5000) as file,
    ):
        for start, length in rng.integers(0, len(local) + 100, (60, 2)):
            file.seek(start)
            assert file.read(length % 20_000) == local[start : start + length % 20_000]
        file.seek(-7, 2)
        assert file.read() == local[-7:]


def test_identity_tells_a_changed_table(tables: Path) -> None:
    with FileServer(folder=tables) as server:
        url = f"{server.url}/changing.csv"
        (tables / "changing.csv").write_text("a,b\n1,2\n")
        before = remote_identity(url)
        assert before["bytes"] == 8
        (tables / "changing.csv").write_text("a,b\n1,3\n")
        assert remote_identity(url) != before


def test_a_missing_table_is_named(tables: Path) -> None:
    with FileServer(folder=tables) as server, pytest.raises(ValueError, match=r"none.csv: no such"):
        open_table(f"{server.url}/none.csv")


@pytest.mark.parametrize(
    ("scheme", "endpoint"), [("gs", "GOOGLE_BASE_URL"), ("s3", "AWS_ENDPOINT_URL")]
)
def test_buckets_are_read_by_their_own_urls(
    *,
    scheme: str,
    endpoint: str,
    tables: Path,
    formula_volumes: dict[str, Path],
    box_voxels: Callable[[Any, Any], np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A bucket's endpoint answers at /BUCKET/KEY, without a signature."""
    volume = formula_volumes["sharded"]
    for name in CREDENTIALS[scheme]:
        monkeypatch.delenv(name, raising=False)
    with FileServer(folder=tables.parent) as server:
        monkeypatch.setenv(endpoint, server.url)
        table = open_table(f"{scheme}://{tables.name}/t.parquet")
        rows = table.read({"id": Column("id", "id")})
        assert rows["id"].to_pylist() == ROWS.id.tolist()
        with pytest.raises(ValueError, match=rf"{scheme}://{tables.name}/none.csv: no such table"):
            open_table(f"{scheme}://{tables.name}/none.csv")
    with FileServer(folder=volume.parents[1]) as server:
        monkeypatch.setenv(endpoint, server.url)
        path = f"precomputed://{scheme}://{volume.parent.name}/{volume.name}"
        opened = open_volume(VolumeConfig(path=path), 0, concurrency=4)
        start, shape = opened.scale.grid.bounds.start, (9, 20, 30)
        image = opened.read(box_at(start, shape))
        np.testing.assert_array_equal(image[0], box_voxels(start, shape))
        opened.close()
