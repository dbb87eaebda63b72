"""The command line of slurm: argument parsing only."""

import signal
import sys

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
    # Ctrl-C while modules are imported ends the process without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional

from shards.cli.arguments import Command, Group, run_named
from shards.cli.command import UsageError, run_command, split_words
from slurm import chains as stages
from slurm import slurm_commands as scheduler
from slurm.check import check_commands
from slurm.job import Step
from slurm.records import Chain, read_chain, slurm_folder
from slurm.sites.site import load_site, parse_options
from slurm.status import chain_status, describe
from slurm.submit import Request, dry_run, submit

Words = tuple[str, ...]
ABOUT_SUBMIT = """\
Submit a chain of jobs: ingest, pack, train, predict, eval, or all of it as a pipeline.

What follows `--` goes to the command as it is.
Example: python -m slurm submit pipeline ingest.yaml --patch resnet50_2d --run runs/v1 --dry-run
"""


@dataclass(frozen=True, kw_only=True)
class Submission:
    """How a chain is submitted."""

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


How = Annotated[Submission, tyro.conf.arg(name="")]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Words of a `submit`: its own, by which it can be repeated, and those behind `--`."""

    own: Words = ()
    extra: Words = ()


def ingest(asked: Asked, dataset: Positional[str], *, tasks: int = 16, how: How) -> None:
    """Run a plan's blocks as an array, then finish the data set.

    Example: python -m slurm submit ingest data/v1 --tasks 64 --limit 16 --run runs/ingest

    Args:
        asked: the words
        dataset: folder that `python -m ingest plan` made
        tasks: number of array tasks; more than blocks is fine
        how: of the submission
    """
    _submit(stages.ingest(dataset, num_tasks=tasks, extra=asked.extra), how, asked)


def pack(
    asked: Asked,
    dataset: Positional[str],
    *,
    view: tuple[Literal["patch", "cube"], ...] = ("patch",),
    out: str,
    folds: int | None = None,
    how: How,
) -> None:
    """Pack a data set into WebDataset shards, one task per view.

    Example: python -m slurm submit pack data/v1 --view patch cube --out shards/v1 --run runs/pack

    Args:
        asked: the words
        dataset: finished data set
        view: what to pack; several views go to OUT/VIEW
        out: URL of the shard set
        folds: number of folds of a cross-validation by neuron, over the same tars
        how: of the submission
    """
    sets = stages.shard_sets(out, view, folds)
    _submit((stages.pack(dataset, sets, extra=asked.extra),), how, asked)


def train(
    asked: Asked,
    recipes: Positional[Words],
    *,
    data: Words,
    seeds: tuple[int, ...] = (),
    folds: tuple[int, ...] = (),
    how: How,
) -> None:
    """Train each recipe on each shard set with each seed, every run in a folder of its own.

    Before its time limit, or when Slurm wants the node, a run saves its state and is queued again.
    Several nodes: --option nodes=2.

    Example: python -m slurm submit train resnet50_2d --data shards/v1 --seeds 1 2 --run runs/sweep

    Args:
        asked: the words
        recipes: recipes, as `python -m trainer recipes` lists them
        data: URLs of shard sets
        seeds: seeds; none leaves the recipe's own
        folds: folds of a cross-validation that `pack --folds` wrote, such as 0 1 2
        how: of the submission
    """
    runs = stages.sweep(recipes, data, seeds, PurePosixPath(how.run), folds)
    _submit((stages.train(runs, extra=asked.extra),), how, asked)


def predict(
    asked: Asked,
    runs: Positional[Words],
    *,
    splits: Words = ("val", "test"),
    data: str | None = None,
    tasks: int = 16,
    how: How,
) -> None:
    """Predict splits with trained runs, one task per run; or a planned data set, as an array.

    Example: python -m slurm submit predict runs/sweep/resnet50_2d-seed1 --run runs/predict -- --tta

    Example: python -m slurm submit predict models/unet3d --data data/all --tasks 64 --run runs/all

    Args:
        asked: the words
        runs: folders of trained runs; for a planned data set one model, or several as an ensemble
        splits: splits to predict; a planned data set is predicted whole
        data: folder that `python -m ingest plan` made: parts of predictions go to RUN/predictions
        tasks: number of array tasks that share the parts of a planned data set
        how: of the submission
    """
    if data is not None:
        out = str(PurePosixPath(how.run) / "predictions")
        step = stages.predict_plan(runs, data, out, num_tasks=tasks, extra=asked.extra)
        _submit((step,), how, asked)
        return
    _submit((stages.predict(runs, splits, extra=asked.extra),), how, asked)


def evaluate(asked: Asked, runs: Positional[Words], *, out: str | None = None, how: How) -> None:
    """Report on predicted runs, several side by side.

    Example: python -m slurm submit eval runs/sweep/resnet50_2d-seed1 --run runs/eval

    Args:
        asked: the words
        runs: folders of predicted runs
        out: folder of the report
        how: of the submission
    """
    _submit((stages.evaluate([(runs, out)], extra=asked.extra),), how, asked)


def pipeline(
    asked: Asked,
    config: Positional[str],
    *,
    patch: Words = (),
    cube: Words = (),
    infer: Words = (),
    tasks: int = 16,
    folds: int | None = None,
    seeds: tuple[int, ...] = (),
    how: How,
) -> None:
    """From tables to report: plan, ingest, pack, train, predict and eval, all under --run.

    With --infer from tables to a class for each synapse: plan, predict, annotation layer. Words
    after `--` go to the trainer.

    Example: python -m slurm submit pipeline ingest.yaml --cube unet3d_small --run runs/v1 --tasks 9

    Example: python -m slurm submit pipeline all.yaml --infer models/unet3d --run runs/all --tasks 9

    Args:
        asked: the words
        config: config of `python -m ingest plan`
        patch: recipes to train on patches
        cube: recipes to train on cubes
        infer: models that `trainer export` wrote, or runs: predict with them, train nothing
        tasks: number of ingest tasks; with --infer, of prediction tasks
        folds: number of folds of a cross-validation by neuron, to train and test each recipe on
        seeds: seeds; none leaves the recipe's own
        how: of the submission
    """
    run = PurePosixPath(how.run)
    if infer:
        if patch or cube or folds or seeds:
            raise UsageError("--infer trains nothing: leave out recipes, --folds and --seeds")
        _submit(stages.infer(config, run, infer, num_tasks=tasks, extra=asked.extra), how, asked)
        return
    recipes = {name: names for name, names in (("patch", patch), ("cube", cube)) if names}
    if not recipes:
        raise UsageError("nothing to train: name recipes with --patch, --cube, or both")
    steps = stages.pipeline(
        config,
        run,
        recipes,
        num_tasks=tasks,
        num_folds=folds,
        seeds=seeds,
        extra=asked.extra,
    )
    _submit(steps, how, asked)


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


def group(asked: Asked = Asked()) -> Group:
    """Return the commands, for these words."""
    kinds: dict[str, Command] = {
        "ingest": ingest,
        "pack": pack,
        "train": train,
        "predict": predict,
        "eval": evaluate,
        "pipeline": pipeline,
    }
    bound: dict[str, Command] = {name: partial(kind, asked) for name, kind in kinds.items()}
    submit_group = Group(about=ABOUT_SUBMIT, kind="JOB", commands=bound)
    return Group(
        about=sys.modules["slurm"].__doc__ or "",
        commands={"submit": submit_group, "status": status, "cancel": cancel},
    )


def main(args: list[str], prog: str = "python -m slurm") -> None:
    """Run one of the commands; words behind `--` are for those that `submit` runs."""
    own, rest = split_words(args)
    if rest and own[:1] != ["submit"]:
        raise UsageError(f"only submit runs commands that could take {shlex.join(rest[1:])}")
    asked = Asked(own=tuple(own), extra=tuple(rest[1:]))
    run_named(group(asked), own, prog=prog)


def _submit(steps: Sequence[Step], how: Submission, asked: Asked) -> None:
    if how.dry_run and how.resume:
        raise UsageError("--dry-run shows the whole chain as if new: leave --resume out")
    request = Request(
        steps=tuple(replace(step, limit=how.limit) for step in steps),
        site=load_site(how.site, python=sys.executable),
        options=parse_options(how.option),
        workdir=Path.cwd(),
        run=how.run.absolute(),
        retry=_retry(asked.own, asked.extra),
    )
    check_commands(request.steps, asked.extra)
    if how.dry_run:
        sys.stdout.writelines(dry_run(request, request.site.max_array_size))
        return
    for line in submit(request, scheduler.max_array_size(), resume=how.resume):
        sys.stdout.write(line + "\n")
    sys.stdout.write(f"see: python -m slurm status {shlex.quote(str(how.run))}\n")


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
