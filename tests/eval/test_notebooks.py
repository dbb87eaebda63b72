"""The notebooks run as they are on a run of the right view, and stay small."""

import json
from pathlib import Path

import nbformat
import pytest
from nbconvert.preprocessors import ExecutePreprocessor

from tests.conftest import REPOSITORY

DOCS = REPOSITORY / "docs" / "notebooks"
MOST_BYTES = 400_000


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of jupyter's own packages
@pytest.mark.parametrize(("name", "run"), [("demo2d", "2d"), ("demo3d", "3d")])
def test_notebook_runs(
    name: str, run: str, runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SYNSHARDS_RUN", str(runs[run]))
    notebook = nbformat.read(DOCS / f"{name}.ipynb", as_version=4)
    ExecutePreprocessor(timeout=240, kernel_name="python3").preprocess(notebook)
    text = json.dumps(notebook)
    assert "Test accuracy" in text
    assert "image/jpeg" in text
    assert "data:image/svg+xml" in text


@pytest.mark.parametrize("name", ["demo2d", "demo3d"])
def test_notebooks_are_committed_executed_small_and_name_no_machine(name: str) -> None:
    path = DOCS / f"{name}.ipynb"
    cells = nbformat.read(path, as_version=4).cells
    assert all(cell.execution_count for cell in cells if cell.cell_type == "code")
    assert path.stat().st_size < MOST_BYTES
    assert not any(place in path.read_text() for place in ("/root/", "/home/", "/tmp/"))
