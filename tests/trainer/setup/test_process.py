"""Settings of the process: how threads wait for each other, and how memory is kept."""

import os
import platform
import subprocess
import sys

import pytest

from trainer.setup.process import ALSO_WAITING, WAITING, how_to_wait

WHAT_IS_SET = (
    "import ctypes, os\n"
    "{before}\n"
    "from trainer.setup.process import how_to_wait, prepare_process\n"
    "prepare_process()\n"
    "print(how_to_wait(os.environ))"
)


def said(before: str = "", **also: str) -> str:
    names = (*WAITING, *ALSO_WAITING)
    environment = {name: value for name, value in os.environ.items() if name not in names}
    code = WHAT_IS_SET.format(before=before)
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**environment, **also},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def test_threads_wait_asleep_unless_the_environment_says_otherwise() -> None:
    assert said() == how_to_wait(WAITING)
    assert said(GOMP_SPINCOUNT="5000") == "GOMP_SPINCOUNT=5000"
    assert said(OMP_WAIT_POLICY="active") == "OMP_WAIT_POLICY=active"


def test_nothing_is_said_to_be_set_where_torch_is_loaded_already() -> None:
    assert said("import sys; sys.modules['torch'] = sys") == ""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
@pytest.mark.parametrize(("also", "kept"), [({}, True), ({"MALLOC_ARENA_MAX": "2"}, False)])
def test_freed_memory_is_kept_unless_the_environment_sets_malloc(
    also: dict[str, str], kept: bool
) -> None:
    """Memory of 64 MB that is freed and allocated again: how many pages are cleared again."""
    code = (
        "import ctypes, resource\n"
        "from trainer.setup.process import prepare_process\n"
        "prepare_process()\n"
        "libc = ctypes.CDLL(None)\n"
        "libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]\n"
        "libc.malloc.argtypes = [ctypes.c_size_t]\n"
        "def fill():\n"
        "    place = libc.malloc(1 << 26)\n"
        "    ctypes.memset(place, 1, 1 << 26)\n"
        "    libc.free(place)\n"
        "fill()\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "fill()\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)"
    )
    names = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")
    environment = {n: value for n, value in os.environ.items() if not n.startswith(names)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**environment, **also},
        capture_output=True,
        text=True,
        check=True,
    )
    assert (int(done.stdout) < 10) == kept
