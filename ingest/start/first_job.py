"""The file of a first job: written whole, with what was seen at its end."""

import sys
from pathlib import Path

from ingest.start.commented_yaml import unknowns, yaml_lines
from ingest.start.propose_job import Given, propose
from shards.storage.atomic import atomic_write

TOP = """\
# Proposed by `python -m ingest init` after a look at the volume and its tables; see it with
#
#   python -m ingest check {out} --sheet {sheet}    # what is wrong with it, and twelve samples
#   python -m ingest plan {out} --out DATASET
#
# `python -m ingest schema --page` explains all keys; those that are not here have a default.
"""


def write_first_job(given: Given, out: Path, *, overwrite: bool) -> list[str]:
    """Write the proposed job to `out`; return the keys that are still to be filled in."""
    if out.exists() and not overwrite:
        raise ValueError(f"{out}: is there already; choose another --out, or give --overwrite")
    proposal = propose(given, ask_on_terminal)
    lines = [TOP.format(out=out, sheet=out.with_suffix(".png"))]
    for key, value in proposal.values.items():
        lines += [*yaml_lines({key: value}), ""]
    lines += ["# Seen:", *(f"# {line}".rstrip() for line in proposal.seen)]
    with atomic_write(out) as file:
        file.write(("\n".join(lines) + "\n").encode())
    return list(unknowns(proposal.values))


def ask_on_terminal(question: str) -> str:
    """Return what somebody at a terminal answers; "" where nobody is there, or says nothing."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return ""
    sys.stderr.write(f"{question} (return: not known): ")
    sys.stderr.flush()
    return sys.stdin.readline().strip()
