"""A reduced form of `benchmarks/kills.py`, which has every command and more kills."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ("--command", "plan", "ingest", "--kills", "2"),
        ("--command", "plan", "ingest", "--twice"),
    ],
    ids=["killed", "two at once"],
)
def test_commands_end_with_the_same_files(words: tuple[str, ...], tmp_path: Path) -> None:
    told = tmp_path / "told.json"
    command = [sys.executable, "benchmarks/kills.py", *words, "--json", str(told)]
    ended = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert all(result["faults"] == 0 for result in json.loads(told.read_text()).values())
