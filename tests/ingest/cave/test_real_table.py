"""The 30,173 real synapses through CAVE: exact over a bad line, and after being killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml

from ingest.job.cave_config import CaveConfig
from ingest.job.job_config import SynapseConfig
from ingest.tables.cave import Library
from ingest.tables.cave_token import SERVER_VARIABLE, TOKEN_VARIABLE
from tests.ingest.cave.case import HASTE, assert_exact
from tests.servers.cave import CaveServer, Faults
from tests.servers.cave_tables import neuron_types, public_tables

pytestmark = pytest.mark.real_data
SCRIPT = """
import sys
from pathlib import Path
from ingest.plan.cave_job import local_job
from ingest.job.job_file import load_job
local_job(load_job(Path(sys.argv[1])))
"""
COLUMNS = SynapseConfig(source="cave", path="synapses_pni_2")


@pytest.fixture(scope="module")
def real(shared_data: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The synapses, and a table of their presynaptic neurons' classes."""
    rows = pd.read_parquet(shared_data / "minnie65_ei_synapses.parquet")
    names = [n for n in rows if n.endswith(("root_id", "_x", "_y", "_z")) or n in ("id", "size")]
    return rows[names], neuron_types(rows)


def config_for(server: CaveServer, folder: Path) -> CaveConfig:
    return CaveConfig(
        datastack=server.datastack, version=1300, server=server.address, cache=str(folder)
    )


def test_exact_at_a_tenth_of_faults_and_a_low_cap(
    real: tuple[pd.DataFrame, pd.DataFrame], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, types = real
    kinds = ("429", "500", "502", "503", "reset", "truncate", "truncate_unsaid")
    with CaveServer(
        tables=public_tables(rows, {"types": types}),
        row_cap=1200,
        faults=Faults(rate=0.1, kinds=kinds),
    ) as server:
        monkeypatch.setenv(TOKEN_VARIABLE, server.token)
        monkeypatch.setenv(SERVER_VARIABLE, server.address)
        library = Library(config_for(server, tmp_path), HASTE)
        found = pd.read_parquet(library.synapses(COLUMNS, sorted(types.pt_root_id)))
        assert_exact(found, rows)
        assert server.num_faults > 5
        assert server.num_truncated > 5


def test_killed_and_started_again_it_asks_for_the_rest(
    real: tuple[pd.DataFrame, pd.DataFrame], tmp_path: Path
) -> None:
    rows, types = real
    table = {"source": "cave", "path": "types", "column": "cell_type"}
    classes = {"excitatory": "excitatory", "inhibitory": "inhibitory"}
    with CaveServer(
        tables=public_tables(rows, {"types": types}), faults=Faults(latency_s=0.15)
    ) as server:
        job = {
            "axes": "xyz",
            "volume": {"path": "not opened"},
            "cave": {
                "datastack": server.datastack,
                "version": 1300,
                "server": server.address,
                "cache": str(tmp_path / "cache"),
                "neurons_per_query": 150,
            },
            "synapses": {"source": "cave", "path": "synapses_pni_2"},
            "labels": {"tables": [{**table, "classes": classes}], "class_names": [*classes]},
        }
        (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
        command = [sys.executable, "-c", SCRIPT, str(tmp_path / "job.yaml")]
        token = {TOKEN_VARIABLE: server.token, SERVER_VARIABLE: server.address}
        environment = {**os.environ, **token}
        parts = tmp_path / "cache" / server.datastack / "v1300" / "parts"
        process = subprocess.Popen(command, env=environment)
        while len(list(parts.glob("*.parquet"))) < 3:
            assert process.poll() is None, "the plan ended before it could be killed"
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        before = len([part for part in parts.glob("*.parquet") if not part.name.startswith(".")])
        time.sleep(0.3)  # questions under way reach the server and are counted
        server.requests.clear()
        subprocess.run(command, env=environment, check=True)
        num_parts = -(-len(types) // 150)
        assert server.num_queries("synapses_pni_2") == num_parts - before
    found = pd.read_parquet(next(parts.parent.glob("synapses_pni_2.*.parquet")))
    assert_exact(found, rows)
