"""Fixtures that several packages' tests use."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# Two processes of tests share the machine: threads that spin for each other would starve them.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# The same examples on every run, so that only a change can break it. To look for new ones:
# HYPOTHESIS_PROFILE=search pytest ...
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.register_profile("search", max_examples=2000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))

# A shell starts what runs in its background deaf to Ctrl-C, and the commands of the tests with it.
signal.signal(signal.SIGINT, signal.default_int_handler)

REPOSITORY = Path(__file__).parent.parent


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep each file's tests, and those of the Slurm cluster, in one process; long files first."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
    for item in items:
        slurm = item.path.parent.name == "slurm"
        item.add_marker(pytest.mark.xdist_group("slurm" if slurm else item.nodeid.split("::")[0]))


@pytest.fixture(autouse=True)
def _ctrl_c_stays() -> Iterator[None]:
    """Fail a test after which Ctrl-C does something else; some libraries replace its handler."""
    before = signal.getsignal(signal.SIGINT)
    yield
    after = signal.signal(signal.SIGINT, before)
    assert after is before, f"the test left {after!r} as the handler of SIGINT"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of real data beside the checkout; skip where there is none."""
    default = REPOSITORY.parent / "shared" / "data"
    folder = Path(os.environ.get("SYNSHARDS_SHARED_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}: set SYNSHARDS_SHARED_DATA to its folder")
    return folder
