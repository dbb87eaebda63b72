"""The layer is read back by a reader of its own, over CloudVolume's reading of sharded files."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from cloudvolume.datasource.precomputed.sharding import ShardingSpecification

from eval.__main__ import main
from eval.inputs.predictions import PredictionsInfo, write_predictions
from eval.report import neuroglancer_layer as export
from shards.cli.command import run_command

Make = Callable[..., pd.DataFrame]
CENTERS = ["center_x_nm", "center_y_nm", "center_z_nm"]
POINT = np.dtype(
    [("place", "<f4", 3), ("probability", "<f4"), ("predicted", "u1"), ("rgb", "u1", 3)]
)


class Reader:
    """Reads by the published format, byte by byte."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.info = json.loads((folder / "info").read_text())

    def value(self, index: dict[str, Any], key: int) -> bytes | None:
        """Find a key's value in a sharded index."""
        scheme = ShardingSpecification.from_dict(index["sharding"])
        location = scheme.compute_shard_location(key)
        path = self.folder / index["key"] / f"{location.shard_number}.shard"
        if not path.exists():
            return None
        content = path.read_bytes()
        header = 16 << scheme.minishard_bits
        where = np.frombuffer(content[:header], "<u8").reshape(-1, 2)
        start, end = (header + int(x) for x in where[int(location.minishard_number)])
        rows = np.frombuffer(content[start:end], "<u8").reshape(3, -1)
        found = np.flatnonzero(rows[0].cumsum() == np.uint64(key))
        if not len(found):
            return None
        sizes = rows[2]
        offset = header + int(rows[1][: found[0] + 1].sum() + sizes[: found[0]].sum())
        return content[offset : offset + int(sizes[found[0]])]

    def listed(self, value: bytes) -> tuple[np.ndarray, np.ndarray]:
        """Return the ids and annotations of a cell or neuron."""
        count = int(np.frombuffer(value[:8], "<u8")[0])
        stop = 8 + count * POINT.itemsize
        ids = np.frombuffer(value[stop:], "<u8")
        assert len(ids) == count
        return ids, np.frombuffer(value[8:stop], POINT)


def morton(cell: tuple[int, ...], grid: list[int]) -> int:
    """Return a compressed Morton code by its definition, a bit at a time."""
    code = place = 0
    for bit in range(32):
        for axis in range(3):
            if 2**bit < grid[axis]:
                code |= (cell[axis] >> bit & 1) << place
                place += 1
    return code


@pytest.fixture
def layer(
    make_predictions: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[pd.DataFrame, Reader]:
    """Return predictions, a third unlabelled, some without a neuron, and their layer's reader."""
    monkeypatch.setattr(export, "LIMIT", 40)
    monkeypatch.setattr(export, "IDS_PER_MINISHARD", 8)
    frame = make_predictions(1, neurons=60, synapses=30).sample(frac=1.0, random_state=0)
    frame.loc[frame.index[::3], "label"] = -1
    frame.loc[frame.index[::7], "neuron_id"] = 0
    write_predictions(tmp_path / "p.parquet", frame, PredictionsInfo())
    assert (
        run_command(main, ["export", str(tmp_path / "p.parquet"), "--out", str(tmp_path / "l")])
        == 0
    )
    return frame.set_index("synapse_id"), Reader(tmp_path / "l")


def test_every_synapse_is_found_by_its_id(layer: tuple[pd.DataFrame, Reader]) -> None:
    frame, reader = layer
    assert reader.info["by_id"]["sharding"]["shard_bits"] > 1
    for synapse, row in frame.iterrows():
        value = reader.value(reader.info["by_id"], int(str(synapse)))
        assert value is not None
        point = np.frombuffer(value[:20], POINT)[0]
        np.testing.assert_allclose(point["place"], row[CENTERS].to_numpy(float), rtol=1e-6)
        assert point["probability"] == pytest.approx(row["probability"], abs=1e-6)
        assert point["predicted"] == (row["probability"] >= 0.5)
        neurons = [row["neuron_id"]] if row["neuron_id"] else []
        assert np.frombuffer(value[20:24], "<u4").tolist() == [len(neurons)]
        assert np.frombuffer(value[24:], "<u8").tolist() == neurons


def test_neurons_list_their_synapses(layer: tuple[pd.DataFrame, Reader]) -> None:
    frame, reader = layer
    [relation] = reader.info["relationships"]
    assert reader.value(relation, 0) is None
    for neuron, own in frame[frame["neuron_id"] != 0].groupby("neuron_id"):
        value = reader.value(relation, int(str(neuron)))
        assert value is not None
        ids, _ = reader.listed(value)
        assert set(ids.tolist()) == set(own.index)


def test_every_synapse_is_in_one_cell_of_one_level(layer: tuple[pd.DataFrame, Reader]) -> None:
    frame, reader = layer
    low = np.array(reader.info["lower_bound"])
    assert (np.array(reader.info["upper_bound"]) > frame[CENTERS].max().to_numpy()).all()
    seen: list[int] = []
    for level in reader.info["spatial"]:
        grid, size = level["grid_shape"], np.array(level["chunk_size"])
        for cell in np.ndindex(*grid):
            value = reader.value(level, morton(cell, grid))
            if value is None:
                continue
            ids, points = reader.listed(value)
            assert len(ids) <= level["limit"] < 100
            np.testing.assert_array_equal(
                np.floor((points["place"] - low) / size), [cell] * len(ids)
            )
            seen += ids.tolist()
    assert len(reader.info["spatial"]) > 2
    assert sorted(seen) == sorted(frame.index)


def test_levels_fill_the_bounds_and_nest(layer: tuple[pd.DataFrame, Reader]) -> None:
    info = layer[1].info
    extent = np.array(info["upper_bound"]) - info["lower_bound"]
    grids = np.array([level["grid_shape"] for level in info["spatial"]])
    sizes = np.array([level["chunk_size"] for level in info["spatial"]])
    np.testing.assert_allclose(grids * sizes, np.tile(extent, (len(grids), 1)))
    assert grids[0].tolist() == [1, 1, 1]
    assert set(np.unique(grids[1:] / grids[:-1])) == {1.0, 2.0}
    assert (sizes.max(axis=1) < 2.0001 * sizes.min(axis=1))[3:].all()


def test_info_describes_the_bytes(layer: tuple[pd.DataFrame, Reader]) -> None:
    info = layer[1].info
    assert info["@type"] == "neuroglancer_annotations_v1"
    assert info["annotation_type"] == "point"
    assert [p["type"] for p in info["properties"]] == ["float32", "uint8", "rgb"]
    assert info["properties"][1]["enum_labels"] == ["inhibitory", "excitatory"]
    assert POINT.itemsize % 4 == 0


def test_sure_points_are_coloured_and_unsure_ones_grey(layer: tuple[pd.DataFrame, Reader]) -> None:
    frame, reader = layer
    for target, most in ((1.0, 2), (0.0, 0)):  # class 1 is reddish, class 0 bluish
        synapse = int((frame["probability"] - target).abs().idxmin())
        value = reader.value(reader.info["by_id"], synapse)
        assert value is not None
        red, _, blue = np.frombuffer(value[:20], POINT)[0]["rgb"].tolist()
        assert (red > blue) == (most == 2)


def test_synapses_of_unknown_neurons_are_found_by_id_and_place(
    make_predictions: Make, tmp_path: Path
) -> None:
    frame = make_predictions(1).assign(neuron_id=0)
    folder = tmp_path / "layer"
    for content in (make_predictions(2), frame):  # the second replaces the first
        write_predictions(tmp_path / "p.parquet", content, PredictionsInfo())
        assert run_command(main, ["export", str(tmp_path / "p.parquet"), "--out", str(folder)]) == 0
    reader = Reader(folder)
    value = reader.value(reader.info["by_id"], int(frame["synapse_id"][3]))
    assert value is not None
    assert len(value) == POINT.itemsize + 4  # and a list of no neurons
    assert not list(folder.glob("neuron/*"))


@pytest.mark.parametrize(
    ("drop", "change", "message"),
    [
        (["center_x_nm"], {}, "no column center_x_nm; an annotation needs an id and a place"),
        ([], {"synapse_id": lambda t: -t["synapse_id"]}, "no synapse_id of their own"),
        ([], {"center_y_nm": np.nan}, "rows have no place, first synapse_id 1152921504606856976"),
    ],
)
def test_what_cannot_be_placed_is_refused(
    make_predictions: Make, tmp_path: Path, *, capsys: pytest.CaptureFixture[str],
    drop: list[str], change: dict[str, Any], message: str,
) -> None:  # fmt: skip
    frame = make_predictions(1).drop(columns=drop).assign(**change)
    write_predictions(tmp_path / "p.parquet", frame, PredictionsInfo())
    assert run_command(main, ["export", str(tmp_path / "p.parquet"), "--out", str(tmp_path)]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "info").exists()
