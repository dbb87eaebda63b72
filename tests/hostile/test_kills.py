"""A reduced form of `benchmarks/hostile/kills.py`, which has every command and more kills."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY


@pytest.mark.slow
def test_commands_end_with_the_same_files(tmp_path: Path) -> None:
    told = tmp_path / "told.json"
    words = ("--command", "plan", "ingest", "--kills", "2", "--twice", "--json", str(told))
    ended = subprocess.run(
        [sys.executable, "benchmarks/hostile/kills.py", *words],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    found = json.loads(told.read_text())
    assert all(row["kills"] >= 2 and row["twice"] and not row["faults"] for row in found.values())
    assert {row: found[row]["not compared"] for row in found} == {"plan": [], "ingest": []}
