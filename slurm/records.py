"""Records of a chain in RUN/slurm, all that resume, status and cancel go by.

chain.json                 a `Chain`: the steps, and the jobs submitted for each
scripts/STEP-START.sh      one script per array; START is its first task
logs/STEP-START/INDEX.log  output of a task, over all its starts
tasks/STEP/TASK            the task's own record, written by the script
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from shards.contract.documents import document, read_document, write_document


@document
@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One sbatch: array indices `indices` of the part whose first task is `start`."""

    id: str
    start: int
    indices: tuple[int, ...]


@document
@dataclass(frozen=True, kw_only=True, slots=True)
class ChainStep:
    """A step as submitted; of the jobs that hold a task, the last counts."""

    name: str
    num_tasks: int
    commands_sha256: str
    jobs: tuple[Job, ...] = ()

    def latest(self) -> dict[int, Job]:
        """Return, for each task that was ever submitted, the job that holds it now."""
        return {job.start + index: job for job in self.jobs for index in job.indices}


@document
@dataclass(frozen=True, kw_only=True, slots=True)
class Chain:
    """`retry` is the shell command that continues the chain from `workdir`."""

    workdir: str
    retry: str
    steps: tuple[ChainStep, ...]

    @property
    def job_ids(self) -> list[str]:
        """All jobs that were ever submitted."""
        return [job.id for step in self.steps for job in step.jobs]


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskRecord:
    """Last state that the task itself recorded: running, done, failed, or stopped by a signal."""

    state: str
    exit_code: int
    job_id: str
    node: str


def slurm_folder(run: Path) -> Path:
    """Return the folder of the chain that belongs to `run`."""
    return run / "slurm"


def read_chain(folder: Path) -> Chain | None:
    """Return the chain, or None where none was ever submitted."""
    path = folder / "chain.json"
    if not path.exists():
        return None
    return read_document(Chain, path, what="chain of jobs", cure="use a new --run")


def write_chain(folder: Path, chain: Chain) -> None:
    """Write the chain so that it is whole at any moment."""
    write_document(folder / "chain.json", chain)


def read_tasks(folder: Path, step: str) -> dict[int, TaskRecord]:
    """Return the records of the tasks of a step that have started."""
    return dict(_task_records(folder / "tasks" / step))


def log_tail(folder: Path, step: str, task: int, job: Job, *, num_lines: int) -> tuple[Path, str]:
    """Return a task's log and its last lines, "" where it never wrote one."""
    path = folder / "logs" / f"{step}-{job.start}" / f"{task - job.start}.log"
    if not path.exists():
        return path, ""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 500 * num_lines))
        return path, "\n".join(file.read().decode(errors="replace").splitlines()[-num_lines:])


def _task_records(folder: Path) -> Iterator[tuple[int, TaskRecord]]:
    for path in folder.glob("*"):
        if path.name.isdecimal():
            yield int(path.name), _task_record(path)


def _task_record(path: Path) -> TaskRecord:
    match path.read_text(errors="replace").split():
        case [state, code, job_id, node] if code.removeprefix("-").isdecimal():
            return TaskRecord(state=state, exit_code=int(code), job_id=job_id, node=node)
    raise ValueError(
        f"{path}: not a task's record, which is a line STATE EXIT_CODE JOB_ID NODE; remove it, and "
        "the task counts as never started"
    )
