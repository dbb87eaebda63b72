"""First jobs proposed by looking at volumes and tables, and checked: by commands alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile
import yaml
from PIL import Image

from ingest.__main__ import main
from ingest.job.job_file import load_job
from ingest.start.column_roles import classes_of, roles_of
from ingest.start.table_facts import look_at_table
from shards.cli.command import run_command

OWN = {
    "id": "syn_id",
    "pre_pt_root_id": "neuron",
    "post_pt_root_id": "target",
    "ctr_pt_position_x": "X",
    "ctr_pt_position_y": "Y",
    "ctr_pt_position_z": "Z",
    "ei": "cell type",
}


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Return a function that runs a command of ingest: its exit code, and what it said."""

    def run(*words: Any) -> tuple[int, str]:
        code = run_command(main, [*map(str, words)])
        said = capsys.readouterr()
        return code, said.out + said.err

    return run


def own_table(job: Any, path: Path) -> pd.DataFrame:
    """Write a table in columns of a lab's own, positions in voxels of the volume."""
    table = job.synapses[list(OWN)].rename(columns=OWN)
    table[["X", "Y"]] //= 2
    table["cell type"] = table["cell type"].map({"excitatory": "Glut.", "inhibitory": "GABA"})
    table.to_csv(path, index=False)
    return table


def test_a_volume_with_own_columns(make_job: Any, command: Any, tmp_path: Path) -> None:
    job = make_job("sharded")
    own_table(job, tmp_path / "table.csv")
    out = tmp_path / "job.yaml"
    given = ("--volume", job.config["volume"]["path"], "--synapses", tmp_path / "table.csv")
    code, said = command("init", *given, "--out", out)
    assert code == 0, said
    value = yaml.safe_load(out.read_text())
    assert value["synapses"] == {
        "path": str(tmp_path / "table.csv"),
        "columns": {
            "synapse_id": "syn_id",
            "pre_root_id": "neuron",
            "post_root_id": "target",
            "ctr": "X, Y, Z",
        },
        "position_resolution_nm": [8, 8, 40],
    }
    classes = {"GABA": "inhibitory", "Glut.": "excitatory"}
    assert value["labels"] == {"column": "cell type", "classes": classes}
    assert value["splits"] == {"by": "neuron"}
    assert "mip 0: 200×176×72 voxels of 8×8×40 nm from [160, 96, 48], uint8" in out.read_text()
    code, said = command("check", out, "--sheet", tmp_path / "sheet.png")
    assert code == 1
    assert "training images were left out that share voxels with a val or test image" in said
    assert "12 samples drawn" in said
    with Image.open(tmp_path / "sheet.png") as picture:
        assert min(picture.size) > 100
    assert {path.name for path in tmp_path.iterdir()} == {"table.csv", "job.yaml", "sheet.png"}

    before = out.read_bytes()
    code, said = command("init", *given, "--out", out)
    assert code == 1
    assert "is there already; choose another --out, or give --overwrite" in said
    assert out.read_bytes() == before
    assert command("init", *given, "--out", out, "--overwrite")[0] == 0


@pytest.mark.parametrize(
    ("factor", "names", "resolution"),
    [
        ((2, 2, 1), "xyz", [4, 4, 40]),
        ((8, 8, 40), "x_nm y_nm z_nm", [1, 1, 1]),
        ((0.008, 0.008, 0.04), "x_um y_um z_um", [1000, 1000, 1000]),
        ((1, 1, 1), "x_vx y_vx z_vx", [8, 8, 40]),
    ],
)
def test_resolutions_are_found(
    *,
    make_job: Any,
    command: Any,
    tmp_path: Path,
    factor: tuple[float, ...],
    names: str,
    resolution: list[int],
) -> None:
    job = make_job("plain")
    ctr = [f"ctr_pt_position_{axis}" for axis in "xyz"]
    points = job.synapses[ctr].to_numpy() // (2, 2, 1) * factor
    columns = names.split() if " " in names else list(names)
    table = pd.DataFrame(points, columns=columns).assign(id=job.synapses.id, ei=job.synapses.ei)
    table.to_parquet(tmp_path / "t.parquet")
    volume = job.config["volume"]["path"]
    out = tmp_path / "job.yaml"
    command("init", "--volume", volume, "--synapses", tmp_path / "t.parquet", "--out", out)
    assert yaml.safe_load(out.read_text())["synapses"]["position_resolution_nm"] == resolution


def test_a_table_of_neurons(make_job: Any, command: Any, tmp_path: Path) -> None:
    job = make_job("plain")
    cells = job.synapses.drop_duplicates("pre_pt_root_id")
    cells = pd.DataFrame(
        {
            "id": np.arange(len(cells)),
            "segment": cells.pre_pt_root_id,
            "cell_type": cells.ei + "_neuron",
        }
    )
    cells.loc[len(cells)] = [99, 5, "glia"]
    cells.to_csv(tmp_path / "cells.csv", index=False)
    job.synapses.drop(columns="ei").to_parquet(tmp_path / "synapses.parquet")
    volume, out = job.config["volume"]["path"], tmp_path / "job.yaml"
    code, said = command(
        *("init", "--volume", volume, "--synapses", tmp_path / "synapses.parquet"),
        *("--labels", tmp_path / "cells.csv", "--out", out),
    )
    assert code == 0, said
    (table,) = load_job(out).labels.tables
    assert (table.root_column, table.column) == ("segment", "cell_type")
    names = {f"{name}_neuron": name for name in ("excitatory", "inhibitory")}
    assert table.classes == names
    assert "# no label: glia" in out.read_text()
    _, said = command("check", out)
    assert "training images were left out that share voxels with a val or test" in said


def test_what_is_unknown_is_asked_for_or_left_open(
    make_job: Any, command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job("file")
    table = own_table(job, tmp_path / "table.csv").drop(columns="cell type")
    table.to_csv(tmp_path / "table.csv", index=False)
    volume, out = job.config["volume"]["path"], tmp_path / "job.yaml"
    given = ("--volume", volume, "--synapses", tmp_path / "table.csv", "--out", out)
    code, said = command("init", *given)
    assert code == 1
    assert f"{out} is written, but not whole: fill in volume.voxel_size_nm (x, y, z of a" in said
    assert "labels.column (the column that says a synapse's class, or give --labels)" in said
    assert "  voxel_size_nm:  # ? x, y, z of a voxel in nm" in out.read_text()
    assert command("check", out)[0] == 1
    monkeypatch.setattr("ingest.start.first_job.ask_on_terminal", lambda _: "8 8 40")
    code, said = command("init", *given, "--overwrite")
    assert "fill in labels.column" in said
    value = yaml.safe_load(out.read_text())
    assert value["volume"]["voxel_size_nm"] == [8, 8, 40]
    assert value["synapses"]["position_resolution_nm"] == [8, 8, 40]


def test_the_voxel_size_that_imagej_wrote(make_job: Any, command: Any, tmp_path: Path) -> None:
    job = make_job("file")
    own_table(job, tmp_path / "table.csv")
    tifffile.imwrite(
        tmp_path / "stack.tif",
        tifffile.imread(job.config["volume"]["path"]),
        imagej=True,
        resolution=(1 / 0.008, 1 / 0.008),
        metadata={"axes": "ZYX", "spacing": 0.04, "unit": "um"},
    )
    words = ("--volume", tmp_path / "stack.tif", "--synapses", tmp_path / "table.csv")
    code, said = command("init", *words, "--out", tmp_path / "job.yaml")
    assert code == 0, said
    assert load_job(tmp_path / "job.yaml").volume.voxel_size_nm == (40, 8, 8)


@pytest.mark.parametrize("has_table", [True, False])
def test_folders_of_images(command: Any, tmp_path: Path, *, has_table: bool) -> None:
    rng, rows = np.random.default_rng(0), []
    for number in range(24):
        split, name = ("train", "val", "test")[number % 3], ("E", "I")[number // 3 % 2]
        folder = tmp_path / "images" / ("" if has_table else f"{split}/{name}")
        folder.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(rng.integers(0, 256, (20, 24), dtype=np.uint8))
        picture.save(folder / f"cell {number}.png")
        rows.append((f"cell {number}.png", name))
    table = pd.DataFrame(rows, columns=["filename", "label"])
    table.to_csv(tmp_path / "labels.csv", index=False)
    out = tmp_path / "job.yaml"
    words = ["--volume", tmp_path / "images", "--voxel-size-nm", 8, 8, 40, "--out", out]
    words += ["--synapses", tmp_path / "labels.csv"] if has_table else []
    code, said = command("init", *words)
    assert code == 0, said
    job = load_job(out)
    assert job.samples.views["patch"].size == (20, 24)
    assert job.ids == ("names" if has_table else "numbers")
    code, said = command("check", out, "--sheet", tmp_path / "sheet.png")
    assert code == 0, said
    assert "classes: 0 inhibitory, 1 excitatory" in said


def test_all_problems_are_told_at_once(make_job: Any, command: Any, tmp_path: Path) -> None:
    job = make_job(views={"cube": {"size": [16, 16, 8], "voxel_size_nm": [4, 4, 40]}})
    job.config["synapses"]["columns"] = {"size": "area"}
    table = {"path": "cells.csv", "column": "is", "root_column": "cell"}
    classes = {"E": "excitatory", "I": "inhibitory"}
    job.config["labels"] = {"tables": [{**table, "classes": classes}]}
    (tmp_path / "cells.csv").write_text("cell,kind\n1,E\n2,I\n")
    code, said = command("check", job.write(), "--sheet", tmp_path / "sheet.png")
    assert code == 1
    problems = [line for line in said.splitlines() if line.startswith("problem: ")]
    assert len(problems) == 3, said
    assert "voxels of [4.0, 4.0, 40.0] nm" in problems[0]
    assert "no column area, which synapses.columns.size names" in problems[1]
    assert "cells.csv: no column is; it has cell, kind" in problems[2]
    assert said.splitlines()[-1].endswith("plan refuses the job (problems above: 3)")
    assert not (tmp_path / "sheet.png").exists()


def test_positions_off_the_tissue_are_noticed(make_job: Any, command: Any, tmp_path: Path) -> None:
    job = make_job("file")
    tifffile.imwrite(
        tmp_path / "black.tif", np.zeros((72, 176, 200), np.uint8), photometric="minisblack"
    )
    job.config["volume"]["path"] = str(tmp_path / "black.tif")
    code, said = command("check", job.write(), "--sheet", tmp_path / "sheet.png")
    assert code == 0
    assert "12 of them of one gray value: their positions are on no tissue" in said


def test_roles_of_columns(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(
        "row,pre_neuron,post_neuron,pre_x,pre_y,pre_z,xc,yc,zc,confidence,nt_type\n"
        "7,a1,b1,1,2,3,1,1,1,0.5,exc\n8,a1,b2,2,2,3,1,1,1,0.5,inh\n"
    )
    roles = roles_of(look_at_table(str(tmp_path / "t.csv")))
    assert (roles.synapse_id, roles.pre_root_id, roles.post_root_id) == (
        "row",
        "pre_neuron",
        "post_neuron",
    )
    assert roles.positions == {"pre": "pre_x, pre_y, pre_z"}
    assert (roles.label, roles.split) == ("nt_type", None)


@pytest.mark.parametrize(
    ("values", "classes"),
    [
        ("E I E", {"E": "excitatory", "I": "inhibitory"}),
        (
            "aibs_coarse_excitatory aibs_coarse_inhibitory nonneuron",
            {
                "aibs_coarse_excitatory": "excitatory",
                "aibs_coarse_inhibitory": "inhibitory",
            },
        ),
        ("synapse background", {"synapse": "synapse", "background": "background"}),
        ("BC MC 23P 4P", {name: name for name in ("BC", "MC", "23P", "4P")}),
    ],
)
def test_classes_of_values(tmp_path: Path, values: str, classes: dict[str, str]) -> None:
    (tmp_path / "t.csv").write_text("type\n" + "\n".join(values.split()))
    assert classes_of(look_at_table(str(tmp_path / "t.csv")).columns["type"]) == classes
