"""From a chain of steps to jobs in the queue, now or where an earlier submission stopped."""

import hashlib
import json
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from shards.storage.locks import sole_writer
from slurm import slurm_commands as scheduler
from slurm.job import ArrayJob, Step, split_tasks
from slurm.records import Chain, ChainStep, Job, read_chain, read_tasks, slurm_folder, write_chain
from slurm.script import log_path, render, render_array
from slurm.sites.site import Site
from slurm.slurm_commands import Queued, Task

Sbatch = Callable[[ArrayJob, list[str]], str]  # the array and its sbatch command → the job id


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """A chain to submit: its steps, where it lies, and how it is to run.

    `workdir` and `run` are absolute; `retry` is the shell command that continues the chain.
    """

    steps: tuple[Step, ...]
    site: Site
    options: Mapping[str, Mapping[str, str]]
    workdir: Path
    run: Path
    retry: str


def submit(request: Request, max_array_size: int, *, resume: bool) -> Iterator[str]:
    """Submit what is not done yet; yield one line per step.

    Without `resume` the run folder must hold no chain. With it, tasks that are done stay done and
    tasks in the queue stay there, unless a step before them is submitted again.
    """
    folder = slurm_folder(request.run)
    with sole_writer(folder):
        chain = _first_or_continued(request, read_chain(folder), resume=resume)
        queue = scheduler.read_queue(chain.job_ids)
        state = _Submission(folder=folder, chain=chain, queue=queue, sbatch=_write_and_submit)
        for step, arrays in _arrays(request, max_array_size):
            try:
                line = state.submit_step(step, arrays)
            finally:
                if any(known.jobs for known in state.chain.steps):  # what is submitted is on record
                    write_chain(folder, state.chain)
            yield line


def dry_run(request: Request, max_array_size: int) -> Iterator[str]:
    """Yield each script of a first submission behind its sbatch command; touch nothing."""
    texts: list[str] = []

    def show(array: ArrayJob, command: list[str]) -> str:
        variable = array.name.replace("-", "_")
        texts.append(f"# {variable}=$({shlex.join(command)})\n{render(array)}")
        return f"${variable}"

    chain = _first_or_continued(request, None, resume=False)
    state = _Submission(folder=slurm_folder(request.run), chain=chain, queue={}, sbatch=show)
    for step, arrays in _arrays(request, max_array_size):
        state.submit(step, arrays, range(step.num_tasks))
    yield from texts


@dataclass(kw_only=True)
class _Submission:
    """A chain on its way into the queue; `waits` are the jobs that must end well before a step."""

    folder: Path
    chain: Chain
    queue: dict[Task, Queued]
    sbatch: Sbatch
    waits: tuple[str, ...] = ()
    renewed: bool = False  # true once any task was submitted

    def submit_step(self, step: Step, arrays: Sequence[ArrayJob]) -> str:
        """Submit the tasks of a step that are neither done nor queued; say how many."""
        records = read_tasks(self.folder, step.name)
        done = {task for task, record in records.items() if record.state == "done"}
        queued = {
            task: job
            for task, job in self._step(step.name).latest().items()
            if (job.id, task - job.start) in self.queue and task not in done
        }
        if self.renewed:
            scheduler.scancel(job.id for job in queued.values())
            queued = {}
        left = [t for t in range(step.num_tasks) if t not in done and t not in queued]
        self.submit(step, arrays, left, _task_ids(queued))
        return f"{step.name}: {len(done)} done, {len(queued)} queued, {len(left)} submitted"

    def submit(
        self,
        step: Step,
        arrays: Sequence[ArrayJob],
        tasks: Sequence[int],
        queued: Sequence[str] = (),
    ) -> None:
        """Submit these tasks of a step; the next waits for them and for its `queued` ones."""
        new: list[str] = []
        for array in arrays:
            indices = [task - array.tasks.start for task in tasks if task in array.tasks]
            if indices:
                # One part after another where a limit holds, since Slurm's own is by array.
                first = new[-1] if new and step.limit is not None else ""
                new.append(self._submit_array(array, indices, first))
        self.renewed |= bool(new)
        self.waits = (*queued, *new) or self.waits

    def _submit_array(self, array: ArrayJob, indices: list[int], first: str) -> str:
        step = array.step
        command = scheduler.sbatch_command(
            _script_path(array),
            dependency=_dependency(self.waits, first),
            array=None if len(indices) == len(array.tasks) else render_array(indices, step.limit),
        )
        job_id = self.sbatch(array, command)
        old = self._step(step.name)
        job = Job(id=job_id, start=array.tasks.start, indices=tuple(indices))
        new = replace(old, jobs=(*old.jobs, job))
        steps = tuple(new if step is old else step for step in self.chain.steps)
        self.chain = replace(self.chain, steps=steps)
        return job_id

    def _step(self, name: str) -> ChainStep:
        return next(step for step in self.chain.steps if step.name == name)


def _arrays(request: Request, max_array_size: int) -> list[tuple[Step, list[ArrayJob]]]:
    return [(step, _split(request, step, max_array_size)) for step in request.steps]


def _split(request: Request, step: Step, max_array_size: int) -> list[ArrayJob]:
    resources = request.site.for_step(step.name, request.options)
    return [
        ArrayJob(
            step=step,
            tasks=tasks,
            resources=resources,
            environment=request.site.environment,
            workdir=request.workdir,
            folder=slurm_folder(request.run),
        )
        for tasks in split_tasks(step.num_tasks, max_array_size)
    ]


def _write_and_submit(array: ArrayJob, command: list[str]) -> str:
    path = _script_path(array)
    tasks = array.folder / "tasks" / array.step.name
    for folder in (path.parent, Path(log_path(array, "0")).parent, tasks):
        folder.mkdir(parents=True, exist_ok=True)
    path.write_text(render(array))
    return scheduler.sbatch(command)


def _script_path(array: ArrayJob) -> Path:
    return array.folder / "scripts" / f"{array.name}.sh"


def _first_or_continued(request: Request, before: Chain | None, *, resume: bool) -> Chain:
    if before is None and resume:
        raise ValueError(f"{request.run} holds no chain to resume: leave --resume out")
    if before is not None and not resume:
        raise ValueError(f"{request.run} holds a chain: add --resume, or choose another --run")
    steps = tuple(_fresh(step) for step in request.steps)
    if before is not None:
        if [replace(step, jobs=()) for step in before.steps] != list(steps):
            raise ValueError(
                f"{request.run} was submitted with other commands, and --resume can change only "
                f"resources and set-up: {before.retry}"
            )
        steps = before.steps
    return Chain(workdir=str(request.workdir), retry=request.retry, steps=steps)


def _fresh(step: Step) -> ChainStep:
    text = json.dumps(step.commands)
    return ChainStep(
        name=step.name,
        num_tasks=step.num_tasks,
        commands_sha256=hashlib.sha256(text.encode()).hexdigest(),
    )


def _task_ids(queued: Mapping[int, Job]) -> list[str]:
    """Name the queued tasks, by the whole array where none of it has ended.

    An array with a failed task never ends well, though the task was submitted again.
    """
    by_job: dict[Job, list[int]] = {}
    for task, job in queued.items():
        by_job.setdefault(job, []).append(task - job.start)
    return [
        name
        for job, left in by_job.items()
        for name in ([job.id] if len(left) == len(job.indices) else [f"{job.id}_{i}" for i in left])
    ]


def _dependency(upstream: Sequence[str], first: str) -> str:
    ok = [f"afterok:{':'.join(upstream)}"] if upstream else []
    return ",".join(ok + ([f"afterany:{first}"] if first else []))
