"""A real CAVEclient against the stand-in server: nothing lost, nothing doubled."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.__main__ import main
from ingest.job.cave_config import CaveConfig
from ingest.job.job_config import SynapseConfig
from ingest.job.job_file import load_job
from ingest.plan.cave_job import local_job
from ingest.tables.cave import Library, fetch
from ingest.tables.cave_client import Answer, CaveRetries, Question
from ingest.tables.complete_job import complete_job
from shards.cli.command import run_command
from tests.ingest.cave.case import (
    ALL_ROOTS,
    HASTE,
    LABELLED,
    ROOT,
    SYNAPSES,
    TYPES,
    ask_for,
    assert_exact,
    cell_types,
)
from tests.servers.cave import CaveServer, Faults
from tests.servers.cave_tables import CaveTable, query


@pytest.mark.parametrize("say_truncated", [True, False])
def test_answers_at_the_cap_are_split_until_whole(
    server: CaveServer, config: CaveConfig, *, say_truncated: bool
) -> None:
    server.row_cap = 40  # one neuron alone has over 150
    server.say_truncated = say_truncated
    config = replace(config, row_cap=500_000 if say_truncated else 40)
    assert_exact(ask_for(config, ALL_ROOTS), SYNAPSES)
    assert server.num_truncated > 5
    assert server.num_queries("synapses_pni_2") > 20


def test_whole_tables_at_the_cap_are_split_by_nucleus_or_by_id(
    server: CaveServer, config: CaveConfig
) -> None:
    server.row_cap = 5
    library = Library(config, HASTE)
    types = pd.read_parquet(library.table("types"))
    assert sorted(types.target_id) == list(range(100_000, 100_028))
    joined = types.set_index("target_id").pt_root_id
    assert joined.equals(cell_types().set_index("target_id").pt_root_id)
    assert len(pd.read_parquet(library.table("proofreading"))) == 9
    assert server.num_truncated > 4


def test_ids_with_gaps_keep_every_digit(server: CaveServer, config: CaveConfig) -> None:
    synapses = SYNAPSES.astype({"post_pt_root_id": "Int64"})
    synapses.loc[3, "post_pt_root_id"] = None
    types = cell_types().astype({"pt_root_id": "Int64"})
    types.loc[4, "pt_root_id"] = None
    server.tables |= {
        "synapses_pni_2": replace(server.tables["synapses_pni_2"], rows=synapses),
        "types": replace(server.tables["types"], rows=types),
    }
    columns = SynapseConfig(source="cave", path="synapses_pni_2")
    found = pq.read_table(Library(config, HASTE).synapses(columns, ALL_ROOTS))
    by_id = synapses.sort_values("id")["post_pt_root_id"].astype(object).where(pd.notna, None)
    assert found.sort_by("id")["post_pt_root_id"].to_pylist() == by_id.tolist()
    roots = pq.read_table(Library(config, HASTE).table("types"))["pt_root_id"]
    assert (str(roots.type), roots.null_count) == ("int64", 1)
    assert set(roots.drop_null().to_pylist()) <= set(cell_types().pt_root_id)


@settings(max_examples=15)
@given(
    counts=st.lists(st.integers(0, 20), min_size=1, max_size=8),
    cap=st.integers(2, 30),
    seed=st.integers(0, 99),
)
def test_splitting_loses_and_doubles_nothing(counts: list[int], cap: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    roots = np.repeat(np.arange(len(counts)), counts) + ROOT
    rows = pd.DataFrame({"id": rng.permutation(len(roots)), "pre_pt_root_id": roots})
    table = {"t": CaveTable(rows=rows)}

    def ask(question: Question) -> Answer:
        assert question.root_column is not None
        body = {"filter_in_dict": {"t": {question.root_column: question.roots}}}
        for key, value in (("greater", question.low), ("less_equal", question.high)):
            if value is not None:
                body[f"filter_{key}_dict"] = {"t": {question.key: value}}
        found = query(table, ["t"], body)
        cut = found.iloc[rng.permutation(len(found))[:cap]]
        return Answer(cut, len(cut) == cap)

    asked = tuple(int(root) for root in np.unique(roots))
    question = Question(table="t", root_column="pre_pt_root_id", roots=asked)
    assert sorted(fetch(ask, question)["id"]) == sorted(rows["id"])


def test_rows_that_were_not_asked_for_are_dropped() -> None:
    rows = pd.DataFrame({"id": [1, 2, 3, 4], "pre_pt_root_id": [5, 6, 5, 5]})
    question = Question(table="t", root_column="pre_pt_root_id", roots=(5,), low=1, high=3)
    assert fetch(lambda _: Answer(rows, False), question)["id"].tolist() == [3]


@pytest.mark.parametrize("seed", range(3))
def test_exact_over_a_bad_line(server: CaveServer, config: CaveConfig, seed: int) -> None:
    kinds = ("429", "500", "502", "503", "reset", "truncate", "truncate_unsaid")
    server.faults = Faults(rate=0.1 if seed else 0.25, kinds=kinds)
    server._random.seed(seed)
    server.row_cap = 20
    assert_exact(ask_for(replace(config, neurons_per_query=1), ALL_ROOTS), SYNAPSES)
    assert server.num_faults > 1


def test_a_rerun_asks_nothing_and_is_the_same(server: CaveServer, config: CaveConfig) -> None:
    first = Library(config, HASTE)
    columns = SynapseConfig(source="cave", path="synapses_pni_2")
    path = first.synapses(columns, ALL_ROOTS)
    before = path.read_bytes()
    server.requests.clear()
    again = Library(config, HASTE)
    assert again.synapses(columns, ALL_ROOTS) == path
    assert again.sources == first.sources
    assert server.requests == []
    path.unlink()
    assert again.synapses(columns, ALL_ROOTS).read_bytes() == before  # whatever the server's order


def test_an_altered_answer_is_asked_for_again(server: CaveServer, config: CaveConfig) -> None:
    path = Library(config, HASTE).table("types")
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    assert Library(config, HASTE).table("types").read_bytes() == whole


def test_what_was_fetched_before_a_failure_is_kept(server: CaveServer, config: CaveConfig) -> None:
    config = replace(config, neurons_per_query=1, concurrency=1)
    server.faults = Faults(rate=0.3, kinds=("500",), path="synapses_pni_2")
    with pytest.raises(ValueError, match="no answer on table synapses_pni_2 after 2 attempts"):
        Library(config, CaveRetries(attempts=2, first_wait_s=0)).synapses(
            SynapseConfig(source="cave", path="synapses_pni_2"), ALL_ROOTS
        )
    answered = server.num_queries() - server.num_faults
    assert answered > 0
    server.faults = Faults()
    server.requests.clear()
    assert_exact(ask_for(config, ALL_ROOTS), SYNAPSES)
    assert server.num_queries() == 30 - answered


def test_the_wait_doubles_is_jittered_and_heeds_the_server() -> None:
    patience = CaveRetries(first_wait_s=1.0, longest_wait_s=8.0)
    fixed = type("Fixed", (), {"uniform": lambda _self, low, high: (low + high) / 2})()
    waits = [patience.wait_s(attempt, 0.0, fixed) for attempt in range(5)]
    assert waits == [0.75, 1.5, 3.0, 6.0, 6.0]
    assert patience.wait_s(0, 30.0, fixed) == 30.0


def test_a_plan_through_cave(
    server: CaveServer, write_job: Callable[..., Path], tmp_path: Path
) -> None:
    server.row_cap = 100
    job = write_job()
    assert run_command(main, ["plan", str(job), "--out", str(tmp_path / "data")]) == 0
    plan = json.loads((tmp_path / "data" / "plan.json").read_text())
    samples = pd.read_parquet(tmp_path / "data" / "plan.parquet")
    expected = LABELLED[LABELLED.pre_pt_root_id != LABELLED.post_pt_root_id]
    kept = {row["step"]: row["kept"] for row in plan["funnel"]}
    assert kept["no label"] == len(expected)
    assert set(samples.synapse_id) <= set(expected["id"])
    classes = np.where((samples.pre_root_id - ROOT) % 2 == 0, 1, 0)
    assert (samples.label == classes).all()
    assert set(samples.label_source) == {"types"}
    assert plan["config"]["synapses"]["path"] == "synapses_pni_2"
    by_name = {Path(source["path"]).name: source for source in plan["sources"]}
    assert by_name["synapses_pni_2"]["rows"] == len(LABELLED)
    assert by_name["synapses_pni_2"]["neurons_asked_for"] == 25
    assert by_name["synapses_pni_2"]["neurons_not_asked_for"]["more than one nucleus"] == 1
    assert by_name["types"]["materialization_version"] == 1300
    assert by_name["types"]["materialization_time"] == "2025-01-13T10:10:01.286229+00:00"
    server.requests.clear()
    assert run_command(main, ["plan", str(job), "--out", str(tmp_path / "data")]) == 0
    assert server.requests == []


def test_proofread_axons_and_chosen_neurons(
    server: CaveServer, write_job: Callable[..., Path]
) -> None:
    table = {"source": "cave", "path": "types", "column": "classification_system", "classes": TYPES}
    proofread = {"source": "cave", "path": "proofreading", "required": True}
    labels = {"tables": [table], "proofread": proofread, "neurons_per_class": 1}
    local, _ = local_job(complete_job(load_job(write_job(labels=labels))), HASTE)
    roots = set(pd.read_parquet(local.synapses.path).pre_pt_root_id - ROOT)
    assert len(roots) == 2
    assert roots < {0, 3, 6}
    labels["neurons_per_class"] = 2
    with pytest.raises(ValueError, match="the tables give 1 inhibitory, 2 excitatory neurons"):
        local_job(complete_job(load_job(write_job(labels=labels))), HASTE)
