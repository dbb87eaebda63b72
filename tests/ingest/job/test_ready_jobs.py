"""The jobs for minnie65 as they ship, against stand-ins: nothing but addresses is replaced."""

import gzip
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import zarr

from ingest.__main__ import main
from ingest.tables.cave_token import SERVER_VARIABLE, TOKEN_VARIABLE
from shards.cli.command import run_command
from tests.conftest import REPOSITORY
from tests.servers.cave import CaveServer
from tests.servers.cave_tables import CaveTable, public_tables
from tests.servers.em import EmServer
from tests.servers.files import FileServer

IMAGE = "precomputed://https://bossdb-open-data.s3.amazonaws.com/iarpa_microns/minnie/minnie65/em"
CAVE = "https://global.daf-apis.com"
BUCKET = "gs://mat_dbs/public/minnie65_phase3_v1"
ROOT = 864691135000000000
NEURONS = 80  # the first 60 known to the people's table, the last 10 to one classifier only
PER_NEURON = 170
SQL = {"int64": "bigint", "float64": "double precision", "object": "character varying"}


def synapses() -> pd.DataFrame:
    """170 synapses per neuron, in a corner of minnie65: positions in voxels of 4×4×40 nm."""
    rng = np.random.default_rng(8)
    count = NEURONS * PER_NEURON
    table = pd.DataFrame(
        {
            "id": rng.permutation(10**6)[:count] + 10**8,
            "size": rng.integers(100, 9000, count),
            "pre_pt_root_id": ROOT + np.arange(count) % NEURONS,
            "post_pt_root_id": ROOT + 10**6 + np.arange(count),
        }
    )
    centre_xyz = rng.integers((40_960, 40_960, 15_360), (57_344, 57_344, 15_872), (count, 3))
    for axis, letter in enumerate("xyz"):
        for name, ahead in (("pre", -24), ("ctr", 0), ("post", 24)):
            shift = ahead if letter == "x" else 0
            table[f"{name}_pt_position_{letter}"] = centre_xyz[:, axis] + shift
    return table


def label_table(numbers: range, column: str, names: tuple[str, str]) -> pd.DataFrame:
    """Neurons in turn of the two classes `names`, joined to their nuclei."""
    number = np.array(numbers)
    return pd.DataFrame(
        {
            "id": 10**5 + number,
            "valid": "t",
            "target_id": 2 * 10**5 + number,
            column: [names[value] for value in number % 2],
            "pt_root_id": ROOT + number,
        }
    )


SYNAPSES = synapses()
LABELS = {
    "allen_v1_column_types_slanted_ref": label_table(
        range(60), "classification_system", ("aibs_coarse_excitatory", "aibs_coarse_inhibitory")
    ),
    "aibs_metamodel_celltypes_v661": label_table(
        range(30, NEURONS), "classification_system", ("excitatory_neuron", "inhibitory_neuron")
    ),
    "baylor_log_reg_cell_type_coarse_v1": label_table(
        range(20, NEURONS - 10), "cell_type", ("excitatory", "inhibitory")
    ),
}
PROOFREAD = pd.DataFrame(
    {
        "id": np.arange(NEURONS),
        "pt_root_id": ROOT + np.arange(NEURONS),
        "status_axon": np.where(np.arange(NEURONS) % 5 == 4, "f", "t"),
    }
)


@pytest.fixture(scope="module")
def em() -> Iterator[EmServer]:
    with EmServer() as server:
        yield server


@pytest.fixture(scope="module")
def cave() -> Iterator[CaveServer]:
    tables = public_tables(SYNAPSES, LABELS)
    tables["proofreading_status_and_strategy"] = CaveTable(rows=PROOFREAD)
    with CaveServer(tables=tables, row_cap=5000) as server:
        yield server


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FileServer]:
    folder = tmp_path_factory.mktemp("bucket")
    (folder / "v1507").mkdir()
    columns = [name for name in SYNAPSES if not name.startswith(("pre_pt_pos", "post_pt_pos"))]
    tables = {f"{name}_merged": frame for name, frame in LABELS.items()}
    proofread = SYNAPSES.pre_pt_root_id.isin(PROOFREAD.pt_root_id[PROOFREAD.status_axon == "t"])
    tables["synapses_with_axon_proofreading"] = SYNAPSES.loc[proofread, columns]
    for name, frame in tables.items():
        text = frame.to_csv(header=False, index=False).encode()
        (folder / "v1507" / f"{name}.csv.gz").write_bytes(gzip.compress(text))
        header = "".join(f"{c},{SQL.get(str(kind), 'text')}\n" for c, kind in frame.dtypes.items())
        (folder / "v1507" / f"{name}_header.csv").write_text(header)
    with FileServer(folder=folder) as server:
        yield server


def plan_and_run_a_block(
    name: str, addresses: Mapping[str, str], folder: Path
) -> tuple[dict[str, Any], pd.DataFrame, pd.DataFrame]:
    """Return the plan and its samples, and those samples that one of the blocks' tasks wrote."""
    text = (REPOSITORY / "ingest" / "configs" / name).read_text()
    for public, local in addresses.items():
        assert public in text
        text = text.replace(public, local)
    (folder / name).write_text(text)
    out = folder / "data"
    assert run_command(main, ["plan", str(folder / name), "--out", str(out)]) == 0
    plan = json.loads((out / "plan.json").read_text())
    tasks = ["--task-index", "0", "--num-tasks", str(plan["num_blocks"])]
    assert run_command(main, ["run", str(out), *tasks]) == 0
    samples = pd.read_parquet(out / "plan.parquet")
    return plan, samples, samples[samples.block == 0]


def labelled(plan: dict[str, Any]) -> int:
    """Return how many synapses got a label, before any were left out for their place."""
    return int({row["step"]: row["kept"] for row in plan["funnel"]}["no label"])


def assert_voxels(em: EmServer, out: Path, samples: pd.DataFrame, views: Mapping[str, Any]) -> None:
    """Compare stored images with the volume, around the synapse's own position."""
    store = zarr.open_group(out / "samples.zarr", mode="r")
    for sample in samples.iloc[:: len(samples) // 5].itertuples():
        center_nm = np.array([sample.center_z_nm, sample.center_y_nm, sample.center_x_nm])
        center = (center_nm // (40, 8, 8)).astype(int)
        for view, size in views.items():
            start = center - np.array(size) // 2
            expected = em.voxels(0, tuple(int(part) for part in start), size)
            found = np.asarray(store[view][sample.row]).reshape(size)
            np.testing.assert_array_equal(found, expected)


def test_minnie65_cave(
    em: EmServer, cave: CaveServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, cave.token)
    monkeypatch.setenv(SERVER_VARIABLE, cave.address)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    addresses = {IMAGE: em.url, CAVE: cave.address}
    plan, samples, read = plan_and_run_a_block("minnie65_cave.yaml", addresses, tmp_path)
    used = set(samples.pre_root_id - ROOT)
    assert used == {number for number in range(70) if number % 5 != 4}
    by_root = samples.set_index("pre_root_id").label_tier
    assert by_root[ROOT + 10].unique() == ["manual_proofread"]
    assert by_root[ROOT + 65].unique() == ["agreeing_proofread"]
    assert labelled(plan) == len(used) * PER_NEURON
    assert (samples.label == 1 - (samples.pre_root_id - ROOT) % 2).all()
    versions = {source.get("materialization_version") for source in plan["sources"]}
    assert versions == {1300, None}
    views = {"patch": (1, 256, 256), "cube": (32, 128, 128)}
    assert_voxels(em, tmp_path / "data", read, views)


def test_minnie65_static(em: EmServer, bucket: FileServer, tmp_path: Path) -> None:
    addresses = {IMAGE: em.url, BUCKET: bucket.url}
    plan, samples, read = plan_and_run_a_block("minnie65_static.yaml", addresses, tmp_path)
    used = set(samples.pre_root_id - ROOT)
    assert used == {number for number in range(70) if number % 5 != 4}
    assert set(samples.label_tier) == {"manual", "agreeing"}
    assert all("etag" in source for source in plan["sources"] if source["kind"] == "table")
    views = {"patch": (1, 256, 256), "cube": (32, 128, 128)}
    assert_voxels(em, tmp_path / "data", read, views)


def test_minnie65_earlier(
    em: EmServer, cave: CaveServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, cave.token)
    monkeypatch.setenv(SERVER_VARIABLE, cave.address)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    addresses = {IMAGE: em.url, CAVE: cave.address}
    plan, samples, read = plan_and_run_a_block("minnie65_earlier.yaml", addresses, tmp_path)
    assert plan["neurons"] == {"train": 28, "val": 6, "test": 6}
    assert plan["counts"] == {
        split: {"inhibitory": count, "excitatory": count}
        for split, count in (("train", 1500), ("val", 225), ("test", 225))
    }
    assert samples.groupby("split").neuron_id.nunique().to_dict() == plan["neurons"]
    table = SYNAPSES.set_index("id").loc[samples.synapse_id]
    assert (samples.center_x_nm.to_numpy() == 4 * table.pre_pt_position_x.to_numpy()).all()
    assert_voxels(em, tmp_path / "data", read, {"patch": (1, 256, 256)})
