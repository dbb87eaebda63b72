"""The committed notebooks; tests/test_main_job.py runs them."""

from pathlib import Path

import nbformat
import pytest

DOCS = Path(__file__).parents[2] / "docs"
MOST_BYTES = 400_000


@pytest.mark.parametrize("name", ["demo2d", "demo3d"])
def test_notebooks_are_committed_executed_small_and_name_no_machine(name: str) -> None:
    path = DOCS / f"{name}.ipynb"
    cells = nbformat.read(path, as_version=4).cells
    assert all(cell.execution_count for cell in cells if cell.cell_type == "code")
    assert path.stat().st_size < MOST_BYTES
    assert not any(place in path.read_text() for place in ("/root/", "/home/", "/tmp/", "/work/"))
