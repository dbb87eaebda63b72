"""Locks that a forked process must not take over from a thread of its parent."""

import os
from typing import Protocol
from weakref import WeakSet


class Renewable(Protocol):
    """Holds locks, threads or open files."""

    def renew(self) -> None:
        """Make them anew."""


_LIVE: WeakSet[Renewable] = WeakSet()


def renew_in_children(renewable: Renewable) -> None:
    """Have `renew` called now, and in each process that is forked from this one."""
    renewable.renew()
    _LIVE.add(renewable)


def _renew_all() -> None:
    for renewable in list(_LIVE):
        renewable.renew()


os.register_at_fork(after_in_child=_renew_all)
