"""Fixtures that several packages' tests use."""

import gc
import os
import signal
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from importlib import import_module
from io import StringIO
from pathlib import Path

import pytest
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

from shards.cli.command import run_command

# Two processes of tests share the machine: threads that spin for each other would starve them.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# The same examples on every run, so that only a change can break it. To look for new ones:
# HYPOTHESIS_PROFILE=search pytest ...
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.register_profile("search", max_examples=2000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))

# A shell starts what runs in its background deaf to Ctrl-C, and the commands of the tests with it.
signal.signal(signal.SIGINT, signal.default_int_handler)

# What tests import lives as long as they do: the collector need not look at it (see below).
gc.disable()

REPOSITORY = Path(__file__).parent.parent
SLURM = "tests/slurm/"


def run_here(package: str, *words: object) -> str:
    """Do in this process what `python -m PACKAGE WORDS` does; return what it prints.

    It saves the start of a process, some seconds, where a test is not about processes.
    """
    with redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as errors:
        code = run_command(import_module(f"{package}.__main__").main, [str(word) for word in words])
    assert code == 0, errors.getvalue()
    return out.getvalue()


class ByFile(LoadScopeScheduling):
    """Give a file's tests, which share fixtures, to one process, as all tests of Slurm's cluster.

    `--dist loadgroup` of pytest-xdist 3.8 divides none: it hides groups in what pytest 9.2 ignores.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return SLURM if file.startswith(SLURM) else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config) -> ByFile:
    """Deal files out in the order of `pytest_collection_modifyitems`."""
    config.option.loadscopereorder = False
    return ByFile(config)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take long, so that no process ends long after the others."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish() -> None:
    """Collect from here on what tests leave, and never look at what they imported."""
    gc.freeze()
    gc.enable()


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
