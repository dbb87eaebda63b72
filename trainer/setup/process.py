"""Settings of the process that have to be made before torch is imported."""

import ctypes
import os
import sys
from collections.abc import Mapping
from contextlib import suppress

# How threads of OpenMP wait for each other. By default those of GNU's runtime, which torch brings,
# spin for some time before they sleep. On a processor that others use as well, a spinning thread
# takes the time that the thread it waits for needs.
WAITING = {"OMP_WAIT_POLICY": "passive"}
ALSO_WAITING = ("GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")  # GNU's; Intel's and LLVM's
# glibc gives the memory of a large tensor back to the system when it is freed, which then clears
# every page of the next one. Numbers are those of malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST = 2**31 - 1
ALLOCATORS = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")


def prepare_process() -> None:
    """Let threads wait asleep, and keep freed memory, where the environment leaves it open.

    Where torch is loaded already, this does nothing.
    """
    if "torch" in sys.modules:
        return
    if how_to_wait(os.environ) == "":
        os.environ.update(WAITING)
    if not any(name.startswith(ALLOCATORS) for name in os.environ):
        with suppress(AttributeError):  # no mallopt: not glibc
            mallopt = ctypes.CDLL(None).mallopt
            mallopt(M_MMAP_THRESHOLD, LARGEST)
            mallopt(M_TRIM_THRESHOLD, LARGEST)


def how_to_wait(environment: Mapping[str, str]) -> str:
    """Return the variables that say how threads wait, such as `OMP_WAIT_POLICY=passive`."""
    names = (*WAITING, *ALSO_WAITING)
    return " ".join(f"{name}={environment[name]}" for name in names if name in environment)
