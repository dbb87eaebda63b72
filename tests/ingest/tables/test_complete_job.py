"""What a job does not say is taken from its tables: columns, classes; ids that are names."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from ingest.dataset import Layout, read_table
from ingest.job.job_file import load_job
from ingest.plan.make import plan_dataset
from ingest.plan.plan_record import read_plan
from ingest.qc.describe_dataset import plan_lines
from ingest.run.blocks import Task, run_dataset
from ingest.run.finish import finish_dataset
from ingest.tables.complete_job import complete_job
from ingest.tables.name_ids import FIRST, NameIds, id_of_name, key_of
from shards import open_shards
from shards.contract.sample_store import open_store
from shards.pack.assign import KEY_PATTERN, PackOptions
from shards.pack.verify import verify
from shards.pack.write_shards import pack

CTR = ["ctr_pt_position_x", "ctr_pt_position_y", "ctr_pt_position_z"]


def test_columns_that_the_table_lacks_are_not_used(make_job: Any, tmp_path: Path) -> None:
    job = make_job()
    job.synapses = job.synapses[["id", "ei", *CTR]]
    plan, _ = plan_dataset(load_job(job.write()), tmp_path / "out")
    columns = plan.job.synapses.columns
    assert (columns.synapse_id, columns.ctr) == ("id", "ctr_pt_position")
    assert columns.pre_root_id is columns.post_root_id is columns.size is columns.pre is None
    assert sum(plan.neurons.values()) == 0
    _, was_there = plan_dataset(load_job(job.folder / "ingest.yaml"), tmp_path / "out")
    assert was_there


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({"size": "area"}, "no column area, which synapses.columns.size names; it has id, size"),
        ({"post": "post_at"}, "no column post_at_x, which synapses.columns.post names; it has id"),
        ({"ctr": "x, y, z"}, "no column x, which synapses.columns.ctr names; it has id"),
    ],
)
def test_a_named_column_must_be_there(make_job: Any, named: dict[str, str], message: str) -> None:
    job = make_job()
    job.config["synapses"]["columns"] = named
    with pytest.raises(ValueError, match=message):
        complete_job(load_job(job.write()))


@pytest.mark.parametrize(
    ("renamed", "message"),
    [
        ({"id": "synapse"}, "no column id; it has synapse, .* as synapses.columns.synapse_id"),
        (
            {name: name[4:] for name in CTR},
            "no column ctr_pt_position; it has .*columns.ctr, or choose another samples.center",
        ),
    ],
)
def test_what_a_job_needs_must_be_named(
    make_job: Any, renamed: dict[str, str], message: str
) -> None:
    job = make_job()
    job.synapses = job.synapses.rename(columns=renamed)
    with pytest.raises(ValueError, match=message):
        complete_job(load_job(job.write()))


def test_classes_come_from_the_table(make_job: Any, tmp_path: Path) -> None:
    job = make_job()
    usual = complete_job(load_job(job.write())).labels.class_names
    assert usual == ("inhibitory", "excitatory")
    job.synapses["ei"] = np.resize(["glu", "gaba", "ach", "ach"], 64)
    job.config["labels"] = {"column": "ei"}
    plan, _ = plan_dataset(load_job(job.write()), tmp_path / "out")
    assert plan.job.labels.class_names == ("ach", "gaba", "glu")
    assert next(iter(plan_lines(plan))) == "classes: 0 ach, 1 gaba, 2 glu"
    job.config["labels"] = {"column": "id"}
    job.synapses = pd.concat([job.synapses, job.synapses.assign(id=job.synapses.id + 64)])
    with pytest.raises(ValueError, match="column id has more than 100 values; name another"):
        complete_job(load_job(job.write()))


def test_ids_that_are_names_are_found_again(make_job: Any, tmp_path: Path) -> None:
    job = make_job()
    table, out = job.synapses, tmp_path / "out"
    names = "syn/" + table.id.astype(str) + ".png"
    neurons = "axon " + (table.pre_pt_root_id % 1000).astype(str)
    job.synapses = table.assign(id=names, pre_pt_root_id=neurons, post_pt_root_id=np.arange(1, 65))
    with pytest.raises(ValueError, match=r"found 'syn/1000.png'.*state `ids: names` in the job"):
        plan_dataset(load_job(job.write()), out)
    job.config["ids"] = "names"
    plan_dataset(load_job(job.write()), out)
    run_dataset(out, scheduler="threads", num_workers=1, task=Task(index=0, count=1))
    finish_dataset(out)
    samples = open_store(out).samples.to_pandas().set_index("synapse_name")
    assert set(samples.index) == set(names)
    expected = dict(zip(names, neurons, strict=True))
    assert samples.neuron_name.to_dict() == expected
    assert samples.neuron_id.nunique() == neurons.nunique()
    assert (samples.neuron_id >= FIRST).all()
    assert samples.loc["syn/1003.png", "key"] == "syn-1003"
    posts = dict(zip(names, range(1, 65), strict=True))
    assert samples.post_root_id.to_dict() == posts
    assert (samples.groupby("neuron_name").split.nunique() == 1).all()
    pack(out, "patch", str(tmp_path / "shards"), PackOptions())
    assert not verify(str(tmp_path / "shards"))
    with open_shards(str(tmp_path / "shards")) as shards:
        tables = [shards.index(split).table for split in ("train", "val", "test")]
    index = pa.concat_tables(tables).to_pandas()
    assert index.set_index("synapse_name").neuron_name.to_dict() == expected


def test_names_of_neurons_are_looked_up_in_label_tables(make_job: Any, tmp_path: Path) -> None:
    job = make_job()
    neurons = "axon " + (job.synapses.pre_pt_root_id % 1000).astype(str)
    types = pd.DataFrame({"cell": neurons.unique(), "is": np.resize(["E", "I"], neurons.nunique())})
    types.to_csv(tmp_path / "types.csv", index=False)
    job.synapses["pre_pt_root_id"] = neurons
    classes = {"E": "excitatory", "I": "inhibitory"}
    table = {"path": "types.csv", "column": "is", "root_column": "cell", "classes": classes}
    job.config |= {"ids": "names", "labels": {"tables": [table]}}
    plan_dataset(load_job(job.write()), tmp_path / "out")
    samples = read_table(tmp_path / "out" / "plan.parquet")
    found = samples.drop_duplicates("neuron_name").set_index("neuron_name").label
    assert found.to_dict() == {name: 1 - n % 2 for n, name in enumerate(neurons.unique())}
    assert read_plan(Layout(tmp_path / "out")).num_samples == 64


def test_two_names_of_one_key_are_told(make_job: Any, tmp_path: Path) -> None:
    job = make_job()
    job.synapses["id"] = job.synapses.id.astype(str)
    job.synapses.loc[3:4, "id"] = ["a b.png", "a-b.tif"]
    job.config["ids"] = "names"
    with pytest.raises(ValueError, match=r"'a.b.\w+' and 'a.b.\w+' make the same key, a-b; rename"):
        plan_dataset(load_job(job.write()), tmp_path / "out")
    job.synapses.loc[3:4, "id"] = ["same", "same"]
    with pytest.raises(ValueError, match="1 synapse ids come twice, first same; remove"):
        plan_dataset(load_job(job.write()), tmp_path / "out")


def test_numbers_of_names() -> None:
    assert id_of_name("864691135000000007") == 864691135000000007
    assert id_of_name("axon 7") == id_of_name("axon 7") != id_of_name("axon 8")
    assert FIRST <= id_of_name("axon 7") < 2 * FIRST
    assert NameIds().numbers(pa.array(["7", None, " 7 ", ""]), where="t").tolist() == [7, 0, 7, 0]
    with pytest.raises(ValueError, match=r"t: '7' and '07' make one id, 7; rename one of them"):
        NameIds().numbers(pa.array(["7", "07"]), where="t")
    assert key_of("a/b c.tif") == "a-b-c"


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("axon.1", "axon-1"),
        ("axon.2", "axon-2"),
        ("a/0001.PNG", "a-0001"),
        ("1.5.tiff", "1-5"),
        ("Zürich 3", "Z-rich-3"),
        (".png", "-png"),
        (" 7 ", "7"),
    ],
)
def test_keys_of_names_are_what_shards_can_hold(name: str, key: str) -> None:
    assert key_of(name) == key
    assert KEY_PATTERN.fullmatch(key)
