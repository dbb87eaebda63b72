"""The command line of slurm: argument parsing only."""

import signal
import sys

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
    # Ctrl-C while modules are imported ends the process without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import shlex
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Literal

from tyro.conf import Positional

from shards.cli.command import HELP, UsageError, parse, run_command, run_named, show_usage
from slurm import chains as stages
from slurm import slurm_commands as scheduler
from slurm.check import check_commands
from slurm.job import Step
from slurm.records import Chain, read_chain, slurm_folder
from slurm.sites.site import load_site, parse_options
from slurm.status import chain_status, describe
from slurm.submit import Request, dry_run, submit

Words = tuple[str, ...]


@dataclass(kw_only=True)
class Common:
    """Options of every submission; words after `--` go to the command as they are."""

    run: Path
    """folder that gets slurm/ with scripts, logs and records, for status, cancel and --resume"""
    site: str = "generic"
    """generic, hyak, or the path of a site's TOML file"""
    option: Words = ()
    """sbatch options: NAME=VALUE for every step, STEP.NAME=VALUE for one, NAME for a flag; NAME=
    takes one of the site's away"""
    limit: int | None = None
    """most tasks of an array that may run at once"""
    dry_run: bool = False
    """print the scripts and submit nothing"""
    resume: bool = False
    """continue the chain in --run: submit the tasks that are neither done nor queued"""

    def steps(self, extra: Words) -> tuple[Step, ...]:
        """Return the chain; `extra` are the words behind `--`."""
        raise NotImplementedError


@dataclass(kw_only=True)
class Ingest(Common):
    """Run a plan's blocks as an array, then finish the data set.

    Example: python -m slurm submit ingest data/v1 --tasks 64 --limit 16 --run runs/ingest
    """

    dataset: Positional[str]
    """folder that `python -m ingest plan` made"""
    tasks: int = 16
    """number of array tasks; more than blocks is fine"""

    def steps(self, extra: Words) -> tuple[Step, ...]:
        return stages.ingest(self.dataset, num_tasks=self.tasks, extra=extra)


@dataclass(kw_only=True)
class Pack(Common):
    """Pack a data set into WebDataset shards, one task per view.

    Example: python -m slurm submit pack data/v1 --view patch cube --out shards/v1 --run runs/pack
    """

    dataset: Positional[str]
    """finished data set"""
    view: tuple[Literal["patch", "cube"], ...] = ("patch",)
    """what to pack; several views go to OUT/VIEW"""
    out: str
    """URL of the shard set"""
    folds: int | None = None
    """number of folds of a cross-validation by neuron, over the same tars"""

    def steps(self, extra: Words) -> tuple[Step, ...]:
        sets = stages.shard_sets(self.out, self.view, self.folds)
        return (stages.pack(self.dataset, sets, extra=extra),)


@dataclass(kw_only=True)
class Train(Common):
    """Train each recipe on each shard set with each seed, every run in a folder of its own.

    Before its time limit, or when Slurm wants the node, a run saves its state and is queued again.
    Several nodes: --option nodes=2.
    Example: python -m slurm submit train resnet50_2d --data shards/v1 --seeds 1 2 --run runs/sweep
    """

    recipes: Positional[tuple[str, ...]]
    """recipes, as `python -m trainer recipes` lists them"""
    data: Words
    """URLs of shard sets"""
    seeds: tuple[int, ...] = ()
    """seeds; none leaves the recipe's own"""
    folds: tuple[int, ...] = ()
    """folds of a cross-validation that `pack --folds` wrote, such as 0 1 2"""

    def steps(self, extra: Words) -> tuple[Step, ...]:
        run = PurePosixPath(self.run)
        runs = stages.sweep(self.recipes, self.data, self.seeds, run, self.folds)
        return (stages.train(runs, extra=extra),)


@dataclass(kw_only=True)
class Predict(Common):
    """Predict splits with trained runs, one task per run.

    Example: python -m slurm submit predict runs/sweep/resnet50_2d-seed1 --run runs/predict -- --tta
    """

    runs: Positional[tuple[str, ...]]
    """folders of trained runs"""
    splits: Words = ("val", "test")
    """splits to predict"""

    def steps(self, extra: Words) -> tuple[Step, ...]:
        return (stages.predict(self.runs, self.splits, extra=extra),)


@dataclass(kw_only=True)
class Eval(Common):
    """Report on predicted runs, several side by side.

    Example: python -m slurm submit eval runs/sweep/resnet50_2d-seed1 --run runs/eval
    """

    runs: Positional[tuple[str, ...]]
    """folders of predicted runs"""
    out: str | None = None
    """folder of the report"""

    def steps(self, extra: Words) -> tuple[Step, ...]:
        return (stages.evaluate([(self.runs, self.out)], extra=extra),)


@dataclass(kw_only=True)
class Pipeline(Common):
    """From tables to report: plan, ingest, pack, train, predict and eval, all under --run.

    Words after `--` go to the trainer.
    Example: python -m slurm submit pipeline ingest.yaml --cube unet3d_small --run runs/v1 --tasks 9
    """

    config: Positional[str]
    """config of `python -m ingest plan`"""
    patch: Words = ()
    """recipes to train on patches"""
    cube: Words = ()
    """recipes to train on cubes"""
    tasks: int = 16
    """number of ingest tasks"""
    folds: int | None = None
    """number of folds of a cross-validation by neuron, to train and test each recipe on"""
    seeds: tuple[int, ...] = ()
    """seeds; none leaves the recipe's own"""

    def steps(self, extra: Words) -> tuple[Step, ...]:
        recipes = {name: r for name, r in (("patch", self.patch), ("cube", self.cube)) if r}
        if not recipes:
            raise UsageError("nothing to train: name recipes with --patch, --cube, or both")
        return stages.pipeline(
            self.config,
            PurePosixPath(self.run),
            recipes,
            num_tasks=self.tasks,
            num_folds=self.folds,
            seeds=self.seeds,
            extra=extra,
        )


JOBS: dict[str, type[Common]] = {
    "ingest": Ingest,
    "pack": Pack,
    "train": Train,
    "predict": Predict,
    "eval": Eval,
    "pipeline": Pipeline,
}


def submit_command() -> None:
    """Submit a chain of jobs: ingest, pack, train, predict, eval, or all of it as a pipeline.

    What follows `--` goes to the command as it is.
    Example: python -m slurm submit pipeline ingest.yaml --patch resnet50_2d --run runs/v1 --dry-run
    """


def status(run: Positional[Path]) -> None:
    """Show every step of a chain, what failed with the end of its log, and how to continue.

    Example: python -m slurm status runs/v1

    Args:
        run: the --run folder of a submission
    """
    folder, chain = _chain(run)
    queue = scheduler.read_queue(chain.job_ids)
    sys.stdout.write(describe(folder, chain, chain_status(folder, chain, queue)) + "\n")


def cancel(run: Positional[Path]) -> None:
    """Take what is queued or running of a chain out of Slurm; --resume continues it later.

    Example: python -m slurm cancel runs/v1

    Args:
        run: the --run folder of a submission
    """
    queue = scheduler.read_queue(_chain(run)[1].job_ids)
    scheduler.scancel(job_id for job_id, _ in queue)
    sys.stdout.write(f"cancelled {len(queue)} tasks\n")


COMMANDS: dict[str, Callable[..., None]] = {
    "submit": submit_command,
    "status": status,
    "cancel": cancel,
}


def main(args: list[str]) -> None:
    """Dispatch `submit KIND`, `status` and `cancel`."""
    split = args.index("--") if "--" in args else len(args)
    own, extra = args[:split], tuple(args[split + 1 :])
    if own[:1] == ["submit"]:
        _parse_and_submit(own, extra)
    elif extra:
        raise UsageError(f"only submit runs commands that could take {shlex.join(extra)}")
    else:
        about = sys.modules["slurm"].__doc__ or ""
        run_named(COMMANDS, own, prog="python -m slurm", about=about)


def _parse_and_submit(own: list[str], extra: Words) -> None:
    prog = "python -m slurm submit"
    kind, *options = own[1:] or [""]
    if not kind or kind in HELP:
        about = (submit_command.__doc__ or "").replace("\n    ", "\n")
        jobs = [f"  {name:8}  {(job.__doc__ or '').splitlines()[0]}" for name, job in JOBS.items()]
        lines = [f"usage: {prog} KIND [--option value …] [-- …]", "", about.strip(), "", *jobs]
        show_usage("\n".join(lines), own[1:])
    elif kind not in JOBS:
        raise UsageError(f"no job {kind!r} to submit; there are {', '.join(JOBS)}")
    else:
        _submit(parse(JOBS[kind], options, prog=f"{prog} {kind}"), own, extra)


def _submit(job: Common, own: Sequence[str], extra: Words) -> None:
    request = Request(
        steps=tuple(replace(step, limit=job.limit) for step in job.steps(extra)),
        site=load_site(job.site, python=sys.executable),
        options=parse_options(job.option),
        workdir=Path.cwd(),
        run=job.run.absolute(),
        retry=_retry(own, extra),
    )
    if job.dry_run and job.resume:
        raise UsageError("--dry-run shows the whole chain as if new: leave --resume out")
    check_commands(request.steps, extra)
    if job.dry_run:
        sys.stdout.writelines(dry_run(request, request.site.max_array_size))
        return
    for line in submit(request, scheduler.max_array_size(), resume=job.resume):
        sys.stdout.write(line + "\n")
    sys.stdout.write(f"see: python -m slurm status {shlex.quote(str(job.run))}\n")


def _retry(own: Sequence[str], extra: Words) -> str:
    python = "python" if shutil.which("python") == sys.executable else sys.executable
    words = [word for word in own if word != "--resume"]
    return shlex.join(
        [python, "-m", "slurm", *words, "--resume", *(("--", *extra) if extra else ())]
    )


def _chain(run: Path) -> tuple[Path, Chain]:
    folder = slurm_folder(run.absolute())
    chain = read_chain(folder)
    if chain is None:
        raise ValueError(f"{run} holds no chain: name the --run folder of a submission")
    return folder, chain


if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:]))
