"""The whole job as a lab would run it, on stand-in servers: killed, and right all the same."""

from argparse import Namespace
from pathlib import Path

import pandas as pd
import pytest

from benchmarks.ingest.full_job import full_job
from ingest.tables.cave_token import SERVER_VARIABLE, TOKEN_VARIABLE

pytestmark = pytest.mark.real_data


@pytest.mark.timeout(180)
def test_killed_on_two_workers_it_is_complete_and_right(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (TOKEN_VARIABLE, SERVER_VARIABLE):
        monkeypatch.setenv(name, "so that it is put back")
    rows = pd.read_parquet(shared_data / "minnie65_ei_synapses.parquet").iloc[::100]
    options = Namespace(
        folder=tmp_path / "job",
        patch=[32, 32],
        cube=[4, 32, 32],
        workers=2,
        kills=1,
        latency_ms=0.0,
        check_every=7,
    )
    lines = list(full_job(rows, options))
    assert "killed {'all': 1}" in lines[1]
    assert lines[-1].startswith(f"complete and right: {len(rows)} samples")
