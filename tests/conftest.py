"""Fixtures that several packages' tests use."""

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of real data beside the checkout; skip where there is none."""
    default = REPOSITORY.parent / "shared" / "data"
    folder = Path(os.environ.get("SYNSHARDS_SHARED_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}: set SYNSHARDS_SHARED_DATA to its folder")
    return folder
