"""A stand-in CAVE server, and jobs that read from it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from ingest.job.cave_config import CaveConfig
from ingest.tables.cave_token import SERVER_VARIABLE, TOKEN_VARIABLE
from tests.ingest.cave.case import ROOT, SYNAPSES, TOKEN, TYPES, cell_types
from tests.servers.cave import CaveServer, Version
from tests.servers.cave_tables import CaveTable, public_tables


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[CaveServer]:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)
    tables = public_tables(SYNAPSES, {"types": cell_types()})
    proofread = pd.DataFrame({"id": range(9), "pt_root_id": ROOT + np.arange(9)})
    proofread["status_axon"] = proofread.id % 3 == 0
    tables["proofreading"] = CaveTable(rows=proofread)
    versions = {943: Version(), 1300: Version(), 661: Version(expired=True)}
    with CaveServer(tables=tables, token=TOKEN, versions=versions) as running:
        monkeypatch.setenv(SERVER_VARIABLE, running.address)
        yield running


@pytest.fixture
def config(server: CaveServer, tmp_path: Path) -> CaveConfig:
    return CaveConfig(
        datastack="minnie65_public",
        version=1300,
        server=server.address,
        cache=str(tmp_path / "answers"),
        neurons_per_query=7,
    )


@pytest.fixture
def write_job(
    server: CaveServer, tmp_path: Path, formula_volumes: dict[str, Path]
) -> Callable[..., Path]:
    """Return a function that writes a job whose tables all come from the server."""

    def write(**changes: object) -> Path:
        table = {"source": "cave", "path": "types", "column": "classification_system"}
        job = {
            "axes": "xyz",
            "volume": {"path": str(formula_volumes["plain"])},
            "cave": {
                "datastack": "minnie65_public",
                "version": 1300,
                "server": server.address,
                "neurons_per_query": 7,
            },
            "synapses": {"source": "cave", "path": "synapses_pni_2"},
            "labels": {"tables": [{**table, "classes": TYPES}]},
            "splits": {"fractions": {"train": 0.5, "val": 0.25, "test": 0.25}},
            "samples": {"center": "ctr", "views": {"patch": {"size": [16, 16]}}},
        }
        path = tmp_path / "job.yaml"
        path.write_text(yaml.safe_dump({**job, **changes}))
        return path

    return write
