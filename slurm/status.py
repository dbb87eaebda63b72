"""State of a chain: from the tasks' own records and the queue, without accounting."""

import shlex
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from slurm.records import Chain, ChainStep, TaskRecord, log_tail, read_tasks
from slurm.slurm_commands import Queued, Task

State = Literal["done", "running", "pending", "failed", "blocked", "cancelled"]
STATES: tuple[State, ...] = ("failed", "running", "pending", "blocked", "cancelled", "done")
LOG_LINES, FAILURES_SHOWN = 8, 3
_WITH_NOTE = {"pending", "blocked", "cancelled"}


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskStatus:
    """A task's state, and what there is to say of it: a cause, or what it waits for."""

    state: State
    note: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepStatus:
    """A step and its tasks in order."""

    step: ChainStep
    tasks: tuple[TaskStatus, ...]

    @property
    def counts(self) -> Counter[State]:
        """Number of tasks in each state."""
        return Counter(task.state for task in self.tasks)

    @property
    def state(self) -> State:
        """Return the state that matters most among the tasks."""
        return next(state for state in STATES if self.counts[state])


def chain_status(folder: Path, chain: Chain, queue: Mapping[Task, Queued]) -> list[StepStatus]:
    """Return the status of each step; `queue` must be read before, so that no end is missed."""
    statuses: list[StepStatus] = []
    for step in chain.steps:
        stuck = statuses[-1].step.name if statuses and _is_stuck(statuses[-1]) else None
        tasks = _task_statuses(step, read_tasks(folder, step.name), queue, stuck)
        statuses.append(StepStatus(step=step, tasks=tasks))
    return statuses


def overall(statuses: list[StepStatus]) -> State:
    """Return the chain's state: failed as soon as a task has, done when all are."""
    return next(state for state in STATES if any(status.state == state for status in statuses))


def describe(folder: Path, chain: Chain, statuses: list[StepStatus]) -> str:
    """Return the chain as text: one line per step, then the failures, their logs, and the cure."""
    state = overall(statuses)
    lines = [f"{folder.parent}: {state}"]
    lines += [f"  {_step_line(status)}" for status in statuses]
    for status in statuses:
        lines += _failures(folder, status)
    if state in {"failed", "blocked", "cancelled"}:
        lines.append(f"continue with: cd {shlex.quote(chain.workdir)} && {chain.retry}")
    return "\n".join(lines)


def _task_statuses(
    step: ChainStep,
    records: Mapping[int, TaskRecord],
    queue: Mapping[Task, Queued],
    stuck: str | None,
) -> tuple[TaskStatus, ...]:
    latest = step.latest()

    def status(task: int) -> TaskStatus:
        if (job := latest.get(task)) is None:
            return TaskStatus(state="cancelled", note="never submitted")
        queued = queue.get((job.id, task - job.start))
        return _task_status(records.get(task), queued, stuck)

    return tuple(status(task) for task in range(step.num_tasks))


def _task_status(record: TaskRecord | None, queued: Queued | None, stuck: str | None) -> TaskStatus:
    if record is not None and record.state == "done":
        return TaskStatus(state="done")
    if stuck and (queued is None or queued.reason == "DependencyNeverSatisfied"):
        return TaskStatus(state="blocked", note=f"by {stuck}")
    if queued is not None:
        return TaskStatus(state="running" if queued.is_running else "pending", note=queued.reason)
    if record is None:
        return TaskStatus(state="cancelled", note="left the queue before its first line")
    where = f"on {record.node} (job {record.job_id})"
    if record.state == "failed":
        return TaskStatus(state="failed", note=f"exit code {record.exit_code} {where}")
    cause = (
        "time limit, preemption or scancel"
        if record.state == "stopped"
        else ("killed without a word: memory, a lost node or SIGKILL")
    )
    return TaskStatus(state="failed", note=f"ended by Slurm {where}: {cause}")


def _is_stuck(status: StepStatus) -> bool:
    return bool(status.counts.keys() & {"failed", "blocked", "cancelled"})


def _step_line(status: StepStatus) -> str:
    counts = (_count(status, state) for state in reversed(STATES) if status.counts[state])
    return f"{status.step.name:<8}{', '.join(counts)}"


def _count(status: StepStatus, state: State) -> str:
    notes = {task.note for task in status.tasks if task.state == state} - {"", "None"}
    shown = f" ({', '.join(sorted(notes))})" if notes and state in _WITH_NOTE else ""
    return f"{status.counts[state]} {state}{shown}"


def _failures(folder: Path, status: StepStatus) -> list[str]:
    failed = [i for i, task in enumerate(status.tasks) if task.state == "failed"]
    lines = []
    for task in failed[:FAILURES_SHOWN]:
        job = status.step.latest()[task]
        path, tail = log_tail(folder, status.step.name, task, job, num_lines=LOG_LINES)
        lines.append(
            f"{status.step.name} task {task} failed: {status.tasks[task].note}; {path} ends:"
        )
        lines += [f"    {line}" for line in tail.splitlines()] or ["    (nothing was written)"]
    if len(failed) > FAILURES_SHOWN:
        rest = ", ".join(map(str, failed[FAILURES_SHOWN:]))
        lines.append(f"{status.step.name}: also failed are tasks {rest}")
    return lines
