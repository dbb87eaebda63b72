"""Tables as people bring them: the right samples, or one line with file, column, row and cure."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from ingest.job.job_file import load_job
from ingest.plan.make import plan_dataset
from ingest.plan.plan_record import Plan
from ingest.tables.synapse_tables import open_table
from ingest.volume.files.image_folder import TREE_COLUMNS
from shards.tabular.table_files import Column

ROOT = 864691135000000000
NAMES = ["excitatory", "inhibitory"]
CENTER = [f"ctr_pt_position_{axis}" for axis in "xyz"]
Change = Callable[[Any], None]


def planned(job: Any) -> Plan:
    """Plan a job; its synapse table is written first where a test has not done so."""
    path = job.write()
    plan, _ = plan_dataset(load_job(path), job.folder / "out")
    return plan


def dropped(plan: Plan) -> dict[str, int]:
    return {step.step: step.dropped for step in plan.funnel}


@pytest.fixture
def job(make_job: Any) -> Any:
    """64 synapses of 16 neurons, labelled by their own table's column `ei`."""
    return make_job("file")


@pytest.fixture
def cells_job(job: Any) -> Any:
    """The same, labelled by a table of neurons, `job.cells`, that `save_cells` writes."""
    numbers = np.arange(16)
    job.cells = pd.DataFrame(
        {
            "target_id": 500 + numbers,
            "pt_root_id": ROOT + numbers,
            "kind": np.take(NAMES, numbers % 2),
        }
    )
    job.config["labels"] = {
        "tables": [
            {"path": "cells.csv", "column": "kind", "classes": {name: name for name in NAMES}}
        ]
    }
    return job


def save_cells(job: Any, name: str = "cells.csv", **options: Any) -> None:
    path = job.folder / name
    job.config["labels"]["tables"][0]["path"] = name
    if name.endswith(".parquet"):
        job.cells.to_parquet(path)
    else:
        job.cells.to_csv(path, index=False, **options)


def save_synapses(job: Any, name: str, text: str | None = None, **options: Any) -> None:
    job.config["synapses"]["path"] = name
    if text is None:
        job.synapses.to_csv(job.folder / name, index=False, **options)
    else:
        (job.folder / name).write_text(text)


@pytest.mark.parametrize(
    ("name", "dtype"), [("cells.csv", object), ("cells.parquet", "Int64"), ("cells.parquet", str)]
)
def test_a_label_row_without_a_root_is_counted(cells_job: Any, name: str, dtype: Any) -> None:
    roots = cells_job.cells["pt_root_id"].astype(dtype)
    roots[len(roots)] = None
    cells_job.cells = cells_job.cells.reindex(range(17)).assign(pt_root_id=roots)
    cells_job.cells = cells_job.cells.astype({"target_id": "Int64"})
    cells_job.cells.loc[16, ["target_id", "kind"]] = 516, "excitatory"
    save_cells(cells_job, name)
    plan = planned(cells_job)
    assert plan.num_samples == 64
    assert sum(plan.neurons.values()) == 16
    assert plan.notes[f"rows of {name} without a root id, not used"] == 1


@pytest.mark.parametrize("table", ["labels", "proofread", "nuclei"])
def test_floats_are_refused_as_ids_of_every_table(cells_job: Any, table: str) -> None:
    column = "target_id" if table == "nuclei" else "pt_root_id"
    bad = cells_job.cells.assign(**{column: cells_job.cells[column].astype(float)})
    if table == "proofread":
        bad.assign(status_axon="t").to_parquet(cells_job.folder / "axons.parquet")
        cells_job.config["labels"]["proofread"] = {"path": "axons.parquet"}
        save_cells(cells_job)
    else:
        cells_job.cells = bad
        save_cells(cells_job, "cells.parquet")
    with pytest.raises(ValueError, match=rf"parquet: column {column}, data row 1: found .* double"):
        planned(cells_job)


@pytest.mark.parametrize("empty", [None, 0, "", "NULL"])
def test_an_unknown_nucleus_leaves_the_root_to_stand_for_itself(cells_job: Any, empty: Any) -> None:
    cells_job.cells["target_id"] = cells_job.cells["target_id"].astype(object)
    cells_job.cells.loc[:4, "target_id"] = empty
    save_cells(cells_job)
    plan = planned(cells_job)
    assert (plan.num_samples, sum(plan.neurons.values())) == (64, 16)


def test_a_root_of_two_classes_is_a_conflict_though_one_row_lacks_the_nucleus(
    cells_job: Any,
) -> None:
    other = cells_job.cells.iloc[[0]].assign(target_id=0, kind="inhibitory")
    cells_job.cells = pd.concat([cells_job.cells, other])
    save_cells(cells_job)
    plan = planned(cells_job)
    assert dropped(plan)["label tables in conflict"] == 4
    assert plan.num_samples == 60


@pytest.mark.parametrize("column", ["pt_root_id", "target_id"])
def test_ids_below_zero_are_no_ids(cells_job: Any, column: str) -> None:
    cells_job.cells.loc[2, column] = -1
    save_cells(cells_job)
    with pytest.raises(ValueError, match=rf"cells\.csv: column {column}, data row 3: found -1, ex"):
        planned(cells_job)


VALUES: list[tuple[list[Any], Any, dict[Any, str]]] = [
    ([1, 0], "Int64", {1: "excitatory", 0: "inhibitory"}),
    ([1, 0], float, {"1": "excitatory", "0": "inhibitory"}),
    (["1.0", "0.0"], object, {1: "excitatory", 0: "inhibitory"}),
    ([True, False], "boolean", {True: "excitatory", False: "inhibitory"}),
    ([True, False], object, {"True": "excitatory", "f": "inhibitory"}),
    (["t", "f"], object, {True: "excitatory", False: "inhibitory"}),
    (["yes", "no"], object, {True: "excitatory", False: "inhibitory"}),
    (["E ", " I"], object, {"E": "excitatory", "I": "inhibitory"}),
    (["E", "I"], "category", {"E": "excitatory", "I": "inhibitory"}),
    ([864691135463510247, 864691135463510248], "Int64",
     {864691135463510247: "excitatory", 864691135463510248: "inhibitory"}),
]  # fmt: skip


@pytest.mark.parametrize(("values", "dtype", "classes"), VALUES)
@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_labels_match_by_value(
    job: Any, values: list[Any], dtype: Any, classes: dict[Any, str], suffix: str
) -> None:
    is_first = job.synapses["ei"] == "excitatory"
    column = pd.Series(np.where(is_first, *values), dtype=object)
    column[5] = None
    job.synapses["ei"] = column.astype(dtype)
    job.config["labels"] = {"column": "ei", "classes": classes}
    if suffix == "csv":
        save_synapses(job, "synapses.csv")
    plan = planned(job)
    assert plan.num_samples == 63
    totals = {name: sum(of[name] for of in plan.counts.values()) for name in NAMES}
    assert totals == {"excitatory": int(is_first.sum()) - bool(is_first[5]),
                      "inhibitory": int((~is_first).sum()) - bool(~is_first[5])}  # fmt: skip


def test_one_value_of_two_classes_is_refused(job: Any) -> None:
    job.config["labels"] = {"column": "ei", "classes": {1: NAMES[0], "1.0": NAMES[1]}}
    with pytest.raises(ValueError, match=r"`classes` has 1\.0 twice, as inhibitory and as excit"):
        planned(job)


def test_proofread_axons_match_by_value(cells_job: Any) -> None:
    axons = cells_job.cells.assign(status_axon=pd.Series([True] * 8 + [False] * 7 + [None]))
    axons["pt_root_id"] = axons["pt_root_id"].astype("Int64").where(axons.index != 2)
    axons.to_parquet(cells_job.folder / "axons.parquet")
    cells_job.config["labels"]["proofread"] = {"path": "axons.parquet"}
    save_cells(cells_job)
    plan = planned(cells_job)
    assert plan.tiers == {"single": 36, "single_proofread": 28}
    assert plan.notes["rows of axons.parquet without a root id, not used"] == 1


@pytest.mark.parametrize(
    ("values", "cells"),
    [([True], [True, False]), ([True], ["TRUE", "f"]), ([1], [1, 0]), ([2.0, "x"], ["2", "3"])],
)
def test_proofread_values_match_as_yaml_spells_them(
    cells_job: Any, values: list[Any], cells: list[Any]
) -> None:
    axons = cells_job.cells.assign(status_axon=np.take(np.array(cells, object), [0] * 4 + [1] * 12))
    axons.to_csv(cells_job.folder / "axons.csv")
    cells_job.config["labels"]["proofread"] = {"path": "axons.csv", "values": values}
    save_cells(cells_job)
    assert planned(cells_job).tiers == {"single": 48, "single_proofread": 16}


def test_no_proofread_axon_names_what_the_column_holds(cells_job: Any) -> None:
    cells_job.cells.assign(status_axon="extended").to_csv(cells_job.folder / "axons.csv")
    cells_job.config["labels"]["proofread"] = {"path": "axons.csv"}
    save_cells(cells_job)
    with pytest.raises(ValueError, match=r"axons\.csv has 'extended' \(16\) in status_axon: no ax"):
        planned(cells_job)


def test_no_class_names_what_the_column_holds(cells_job: Any) -> None:
    cells_job.config["labels"]["tables"][0]["classes"] = {"exc": "excitatory"}
    cells_job.config["labels"]["class_names"] = ["inhibitory", "excitatory"]
    save_cells(cells_job)
    with pytest.raises(
        ValueError, match=r"cells\.csv has .*'inhibitory' \(8\).* in kind: no neuron"
    ):
        planned(cells_job)


@pytest.mark.parametrize("name", ["size", "split", "label", "neuron_id", "synapse_id", "row"])
def test_a_column_may_be_called_as_ours_are(job: Any, name: str) -> None:
    job.synapses[name] = np.take(["train", "val", "test", "test"], job.synapses.index % 4)
    classes = {"train": NAMES[0], "val": NAMES[1], "test": NAMES[0]}
    job.config["labels"] = {"column": name, "classes": classes}
    if name == "size":
        job.config["synapses"]["columns"] = {"size": None}
    assert planned(job).num_samples == 64
    shutil.rmtree(job.folder / "out")
    job.config["labels"] = {"column": "ei"}
    job.config["splits"] = {"by": "column", "column": name, "overlap": "keep"}
    plan = planned(job)
    assert {split: sum(of.values()) for split, of in plan.counts.items()} == {
        "train": 16,
        "val": 16,
        "test": 32,
    }


@pytest.mark.parametrize("where", ["column", "table"])
def test_values_that_differ_by_case_are_told(cells_job: Any, where: str) -> None:
    note = "rows of value Excitatory, not used: `classes` has excitatory"
    if where == "column":
        cells_job.config["labels"] = {"column": "ei", "class_names": NAMES}
        cells_job.synapses.loc[cells_job.synapses.index[:4], "ei"] = "Excitatory"
    else:
        cells_job.cells.loc[0, "kind"] = "Excitatory"
        save_cells(cells_job)
    plan = planned(cells_job)
    assert plan.num_samples == 60
    assert plan.notes[note] == (4 if where == "column" else 1)


@pytest.mark.parametrize("name", ["synapses.csv", "synapses.parquet"])
@pytest.mark.parametrize(
    ("column", "left", "step"),
    [("post_pt_root_id", 64, None), ("pre_pt_root_id", 63, "no presynaptic root id")],
)
def test_an_empty_root_id_is_unknown(
    job: Any, name: str, column: str, left: int, step: str | None
) -> None:
    job.synapses[column] = job.synapses[column].astype("Int64").where(job.synapses.index != 9)
    if name.endswith("csv"):
        save_synapses(job, name)
    plan = planned(job)
    assert plan.num_samples == left
    if step is None:
        assert plan.notes["synapses whose postsynaptic root id is empty: unknown"] == 1
    else:
        assert dropped(plan)[step] == 1


@pytest.mark.parametrize(
    ("value", "found"), [("", "an empty cell; give every synapse an id"), ("x7", "found 'x7'")]
)
def test_a_synapse_without_an_id_is_named(job: Any, value: str, found: str) -> None:
    job.synapses["id"] = job.synapses["id"].astype(str)
    job.synapses.loc[7, "id"] = value
    save_synapses(job, "synapses.csv")
    with pytest.raises(ValueError, match=rf"synapses\.csv: column id, data row 8: {found}"):
        planned(job)


@pytest.mark.parametrize("form", ["[{} {} {}]", "[{}, {},{}]", "({},{},{})", "list"])
def test_positions_in_one_column(job: Any, form: str) -> None:
    points = job.synapses[CENTER].to_numpy().tolist()
    job.synapses = job.synapses.drop(columns=CENTER)
    job.synapses["ctr_pt_position"] = (
        points if form == "list" else [form.format(*p) for p in points]
    )
    if form != "list":
        save_synapses(job, "synapses.csv")
    assert planned(job).num_samples == 64


@pytest.mark.parametrize("point", [[1, 2], None, [1, None, 2], []])
def test_a_position_that_is_none_is_named(job: Any, point: Any) -> None:
    points = job.synapses[CENTER].to_numpy().tolist()
    points[3] = point
    job.synapses = job.synapses.drop(columns=CENTER).assign(ctr_pt_position=points)
    with pytest.raises(ValueError, match=r"synapses\.parquet: .*data row 4.*remove the row"):
        planned(job)


@pytest.mark.parametrize("value", [np.inf, -np.inf, 1e300, -1e18])
def test_an_infinite_position_lies_outside(job: Any, value: float) -> None:
    job.synapses[CENTER] = job.synapses[CENTER].astype(float)
    job.synapses.loc[11, CENTER[1]] = value
    job.config["qc"] = {"max_reject_fraction": 0.1}
    plan = planned(job)
    assert (plan.num_samples, plan.num_rejects) == (63, 1)


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
@pytest.mark.parametrize("name", ["synapses.csv", "SYNAPSES.TSV", "synapses.csv.gz"])
def test_other_delimiters_are_read(job: Any, delimiter: str, name: str) -> None:
    save_synapses(job, name, sep=delimiter, compression="gzip" if name.endswith("gz") else None)
    assert planned(job).num_samples == 64


def test_sizes_that_are_empty_at_first_and_fractions_later(job: Any) -> None:
    job.synapses["size"] = [None] * 20 + [3] * 20 + [0.5] * 24
    save_synapses(job, "synapses.csv")
    assert planned(job).num_samples == 64


def test_a_header_alone_is_no_table(job: Any) -> None:
    save_synapses(job, "synapses.csv", ",".join(job.synapses.columns) + "\n")
    with pytest.raises(ValueError, match=r"synapses\.csv: a table without rows"):
        planned(job)
    assert not (job.folder / "out").exists()


def test_every_resolution_that_fits_is_listed_nearest_first(job: Any) -> None:
    """Voxels 60 to 140 of 8 nm, said to be of 16: half and a quarter lie inside."""
    job.synapses[CENTER[:2]] = np.random.default_rng(2).integers(60, 140, (64, 2))
    job.config["synapses"]["position_resolution_nm"] = [16, 16, 40]
    with pytest.raises(ValueError, match="boxes around") as error:
        planned(job)
    message = str(error.value)
    assert message.index("times 0.5") < message.index("times 0.25")
    assert "documentation of the table" in message


def tree(folder: Path, *names: str | bytes) -> list[dict[str, Any]]:
    for name in names:
        path = Path(os.fsdecode(os.path.join(os.fsencode(folder), os.fsencode(name))))  # noqa: PTH118
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    columns = {name: Column(name, "id" if name == "id" else "text") for name in TREE_COLUMNS}
    rows: list[dict[str, Any]] = open_table(str(folder)).read(columns).to_pylist()
    return rows


@pytest.mark.parametrize(
    ("names", "ids"),
    [
        (["train/a/7.tif", "test/b/5.png"], [5, 7]),
        (["train/a/7.tif", "test/b/7.png"], [1, 2]),
        (["train/a/7.tif", f"test/b/{2**63}.png"], [1, 2]),
        (["train/a/7.tif", "train/a/._7.tif", ".cache/a/9.png", "overview.png"], [7]),
    ],
)
def test_a_tree_of_images_as_a_table(tmp_path: Path, names: list[str], ids: list[int]) -> None:
    assert [row["id"] for row in tree(tmp_path, *names)] == ids


@pytest.mark.parametrize("name", ["train/8.tif", "train/a/more/8.tif"])
def test_images_outside_the_classes_are_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=rf"1 images do not lie in SPLIT/CLASS/, first {name}"):
        tree(tmp_path, "train/a/7.tif", name)


def test_names_that_are_not_utf8_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a name that is not UTF-8; rename it") as error:
        tree(tmp_path, "train/a/7.tif", b"train/a/\xff.tif")
    str(error.value).encode()
