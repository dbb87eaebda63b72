"""Fixtures that several packages' tests use."""

import os
import signal
from pathlib import Path

import pytest
from hypothesis import settings

# The same examples on every run, so that only a change can break it. To look for new ones:
# HYPOTHESIS_PROFILE=search pytest ...
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.register_profile("search", max_examples=2000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))

# A shell starts what runs in its background deaf to Ctrl-C, and the commands of the tests with it.
signal.signal(signal.SIGINT, signal.default_int_handler)

REPOSITORY = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of real data beside the checkout; skip where there is none."""
    default = REPOSITORY.parent / "shared" / "data"
    folder = Path(os.environ.get("SYNSHARDS_SHARED_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}: set SYNSHARDS_SHARED_DATA to its folder")
    return folder
