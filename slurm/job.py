"""Records of a job: frozen, and checked when they are made."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from slurm.sites.options import OWN_OPTIONS, SBATCH_OPTIONS, num_gpus

STEPS = ("plan", "ingest", "finish", "pack", "train", "predict", "eval", "layer")
Command = tuple[str, ...]
Launch = Literal["batch", "accelerate"]
# Options that choose nodes, which may bring GPUs that no option names.
PLACEMENT = ("partition", "qos", "constraint", "nodelist", "reservation", "exclusive")


@dataclass(frozen=True, kw_only=True, slots=True)
class Resources:
    """Request to sbatch: its long options by name, a flag such as `exclusive` with "".

    `given_gpus` are the GPUs that a node has without being asked, where the site states them.
    """

    options: Mapping[str, str] = field(default_factory=dict)
    given_gpus: int | None = None

    def __post_init__(self) -> None:
        for name, value in self.options.items():
            if name in OWN_OPTIONS:
                raise ValueError(
                    f"sbatch option {name!r} is set by slurm submit itself; leave it out"
                )
            if name not in SBATCH_OPTIONS:
                known = ", ".join(sorted(SBATCH_OPTIONS))
                raise ValueError(
                    f"unknown sbatch option {name!r}; known are the long names {known}"
                )
            _check_directive(f"sbatch option {name}", value)
        object.__setattr__(self, "options", MappingProxyType(dict(self.options)))

    @property
    def num_nodes(self) -> int:
        """Number of nodes asked for, at least; 1 where nothing is said."""
        nodes = self.options.get("nodes", "1")
        if not re.fullmatch(r"[1-9]\d*(-\d+)?", nodes):
            raise ValueError(f"sbatch option nodes must be a number from 1, got {nodes!r}")
        return int(nodes.split("-")[0])

    @property
    def gpus_per_node(self) -> int | None:
        """GPUs on each node, from `gpus-per-node`, `gres` or the site; None where none says it."""
        counts = {name: num_gpus(name, value) for name, value in self.options.items()}
        stated = {name: count for name, count in counts.items() if count is not None}
        if vague := sorted(stated.keys() - {"gpus-per-node", "gres"}):
            raise ValueError(
                f"sbatch option {vague[0]!r} leaves open how many GPUs a node has, which training "
                "must know: give gpus-per-node=N or gres=gpu:N instead"
            )
        if stated:
            return sum(stated.values())
        if self.given_gpus is not None:
            return self.given_gpus
        if chosen := [name for name in PLACEMENT if name in self.options]:
            option = "=".join(filter(None, (chosen[0], self.options[chosen[0]])))
            raise ValueError(
                f"training goes to nodes chosen by {option}, and nothing says how many GPUs they "
                "have: add --option train.gpus-per-node=N (0 trains on CPUs), or state "
                "gpus_per_node = N in the site's file if they come by themselves"
            )
        return None


@dataclass(frozen=True, kw_only=True, slots=True)
class Environment:
    """The way a job gets an interpreter that has synshards installed.

    `setup` are lines of bash run before the command, `container` is an argument list put before
    it, such as ("apptainer", "exec", "--nv", "synshards.sif"), and `python` the interpreter.
    """

    python: str = "python"
    setup: tuple[str, ...] = ()
    container: Command = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One link of a chain: tasks that start when all of the step before it have ended well.

    `commands` are the arguments behind the interpreter: of each task, or of one command that is
    run in so many `parts`, each told its `--task-index`. `limit` is how many may run at once.
    """

    name: str
    commands: tuple[Command, ...]
    parts: int | None = None
    launch: Launch = "batch"
    limit: int | None = None

    def __post_init__(self) -> None:
        if self.name not in STEPS:
            raise ValueError(f"unknown step {self.name!r}; known are {', '.join(STEPS)}")
        if self.num_tasks < 1:
            raise ValueError(f"{self.name} needs at least one task, got {self.num_tasks}")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"at least one task of {self.name} must run, got limit {self.limit}")
        assert self.parts is None or len(self.commands) == 1

    @property
    def num_tasks(self) -> int:
        """Number of tasks, over all arrays."""
        return len(self.commands) if self.parts is None else self.parts


@dataclass(frozen=True, kw_only=True, slots=True)
class ArrayJob:
    """Tasks `tasks` of a step as one sbatch script; array index 0 is task `tasks.start`.

    `workdir` is where the commands run, `folder` where scripts, logs and task records lie; both
    are absolute.
    """

    step: Step
    tasks: range
    resources: Resources
    environment: Environment
    workdir: Path
    folder: Path

    def __post_init__(self) -> None:
        for path in (self.workdir, self.folder):
            assert path.is_absolute()
            _check_directive("a folder's name", str(path))
        if bad := re.search(r"[%\\]", str(self.folder)):
            raise ValueError(
                f"{self.folder}: Slurm reads {bad[0]!r} in the name of a log file as a pattern; "
                "choose a --run folder without it"
            )
        if self.step.launch == "accelerate":
            assert self.num_ranks > 0  # or options that give no number of ranks raise here

    @property
    def num_ranks(self) -> int:
        """Number of processes that train together: one per GPU, or one per node without any."""
        return self.resources.num_nodes * max(1, self.resources.gpus_per_node or 0)

    @property
    def name(self) -> str:
        """Name of the script, unique in the chain."""
        return f"{self.step.name}-{self.tasks.start}"


def split_tasks(num_tasks: int, max_array_size: int) -> list[range]:
    """Return the tasks in parts of at most `max_array_size`, which bounds an array's indices."""
    if max_array_size < 1:
        raise ValueError(f"MaxArraySize must be at least 1 for job arrays, got {max_array_size}")
    starts = range(0, num_tasks, max_array_size)
    return [range(start, min(start + max_array_size, num_tasks)) for start in starts]


def _check_directive(what: str, value: str) -> None:
    if not value.isprintable():
        raise ValueError(
            f"{what} is {value!r}: a line of an sbatch script cannot hold a newline or another "
            "control character; choose a value without it"
        )
