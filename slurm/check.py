"""A check of the commands of a chain: each is tried with --check before any is submitted."""

import subprocess
import sys
from collections.abc import Iterator, Sequence

from shards.cli.command import UsageError
from slurm.job import Command, Step

TIMEOUT_S = 300  # imports from a cold network file system


def check_commands(steps: Sequence[Step], extra: Command) -> None:
    """Raise `UsageError` with a command's own words if its options would be refused.

    Each that holds words of the user's, a recipe or `extra`, runs as `python COMMAND --check` with
    this interpreter, which reads the options and does nothing. One of each kind is enough, since
    tasks differ in paths and seeds alone.
    """
    for command in _kinds(steps, extra):
        try:
            result = subprocess.run(
                [sys.executable, *command, "--check"],
                capture_output=True,
                text=True,
                timeout=TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise ValueError(
                f"python {' '.join(command)} --check gave no answer in {TIMEOUT_S} s: is the file "
                "system of this installation slow? try again"
            ) from None
        if result.returncode:
            message = " ".join(result.stderr.translate(_BOX).split()).removeprefix("error: ")
            raise UsageError(f"{' '.join(command[1:3])} would refuse its options: {message}")


def _kinds(steps: Sequence[Step], extra: Command) -> Iterator[Command]:
    """Yield one command of each recipe, and of each step that `extra` is for."""
    for step in steps:
        for_extra = extra and set(extra) <= set(step.commands[0])
        if step.name != "train" and not for_extra:
            continue
        kinds = {command[: 3 if step.name == "train" else 2]: command for command in step.commands}
        for command in kinds.values():
            index = () if step.parts is None else ("--task-index", "0")
            yield (*command, *index)


_BOX = str.maketrans(dict.fromkeys("╭╮╰╯│─", " "))
