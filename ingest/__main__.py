"""The command line of ingest: argument parsing only.

A command imports what it needs when it is called, so that --help answers at once.
"""

import signal
import sys

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
    # Ctrl-C while modules are imported ends the process without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from ingest.phantom.phantom_config import PhantomConfig
from shards.cli.arguments import Group, run_named
from shards.cli.command import UsageError, run_command

Dataset = Annotated[Path, tyro.conf.arg(metavar="DATASET")]
DEFAULT_PHANTOM = PhantomConfig()


def phantom_command(
    out: Positional[Path],
    *,
    config: tyro.conf.OmitArgPrefixes[PhantomConfig] = DEFAULT_PHANTOM,
    segmentation: bool = False,
) -> None:
    """Write the phantom: a made-up EM volume, its tables, and a job that ingests them.

    What is not given is as in the default phantom, on which the demo runs.

    Example: python -m ingest phantom runs/small --size 640 640 96 --neurons 16 --synapses 80

    Args:
        out: the folder to write
        config: what to make up
        segmentation: add seg, the partners of all synapses, and a job that cuts masks of them
    """
    from ingest.phantom.make_phantom import write_masks, write_phantom

    write_phantom(out, config)
    if segmentation:
        write_masks(out, config)
    job = out / ("ingest_masks.yaml" if segmentation else "ingest.yaml")
    print(f"phantom in {out}; next: python -m ingest plan {job} --out DATASET")


def init_command(
    *,
    volume: str,
    synapses: str | None = None,
    labels: str | None = None,
    out: Path,
    voxel_size_nm: tuple[float, float, float] | None = None,
    resolution_nm: tuple[float, float, float] | None = None,
    overwrite: bool = False,
) -> None:
    """Write a first job: look at a volume and its tables, and propose what each of them is.

    What looking does not tell is asked for on a terminal. Elsewhere it is left as `# ?`, listed,
    and the exit code is 1.

    Example: python -m ingest init --volume em --synapses synapses.csv --out job.yaml

    Args:
        volume: path or URL of the volume; a folder of images, or of SPLIT/CLASS/ folders of them
        synapses: the synapse table; not needed of SPLIT/CLASS/ folders
        labels: a table of neurons and their classes, where the synapse table has no classes
        out: the YAML file to write
        voxel_size_nm: x y z, of what does not state it, as TIFF and PNG
        resolution_nm: x y z of the unit of positions; found by trying when not given
        overwrite: replace a file that is there
    """
    from ingest.start.first_job import write_first_job
    from ingest.start.propose_job import Given

    given = Given(
        volume=volume,
        synapses=synapses or volume,
        labels=labels,
        voxel_size_nm=voxel_size_nm,
        resolution_nm=resolution_nm,
        folder=out.parent,
    )
    if missing := write_first_job(given, out, overwrite=overwrite):
        raise ValueError(f"{out} is written, but not whole: fill in {'; '.join(missing)}")
    print(f"{out}; next: python -m ingest check {out} --sheet {out.with_suffix('.png')}")


def check_command(config: Positional[Path], *, sheet: Path | None = None) -> None:
    """Say all that is wrong with a job, at once, and draw twelve of its samples.

    Everything that `plan` would refuse is looked for; nothing but the sheet is written. A cross
    marks the position that an image is centered on: where it is on no synapse, an axis, a
    resolution or a column is wrong.

    Example: python -m ingest check job.yaml --sheet samples.png

    Args:
        config: the job's YAML file
        sheet: the picture to write
    """
    from ingest.start.check_job import check_job

    lines, problems = check_job(config, sheet)
    print("\n".join([*lines, *(f"problem: {problem}" for problem in problems)]))
    if problems:
        raise ValueError(f"{config}: plan refuses the job (problems above: {len(problems)})")
    print(f"nothing wrong; next: python -m ingest plan {config} --out DATASET")


def plan_command(config: Positional[Path], *, out: Dataset) -> None:
    """Decide everything a job will do: labels, splits, order, blocks; say what reading will cost.

    The same plan again does nothing; another plan in its place is refused.

    Example: python -m ingest plan runs/phantom/ingest.yaml --out runs/dataset

    Args:
        config: the job's YAML file
        out: the data set's folder
    """
    from ingest.job.job_file import load_job
    from ingest.plan.make import plan_dataset
    from ingest.qc.describe_dataset import plan_lines

    plan, was_there = plan_dataset(load_job(config), out)
    print("\n".join(plan_lines(plan)))
    print(f"{'planned already' if was_there else 'planned'}: python -m ingest run {out}")


def run_blocks_command(
    dataset: Positional[Dataset],
    *,
    scheduler: str = "threads",
    workers: int | None = None,
    task_index: int | None = None,
    num_tasks: int | None = None,
) -> None:
    """Read the volume and write the samples, block by block; finished blocks are skipped.

    Example: python -m ingest run runs/dataset --scheduler processes

    Args:
        dataset: the folder that `plan` wrote
        scheduler: threads, processes, slurm, or the address of a Dask scheduler
        workers: blocks at a time; one per core when not given
        task_index: run one task's share of the blocks without a scheduler, counted from 0
        num_tasks: of how many tasks
    """
    from ingest.run.blocks import Task, run_dataset

    task = None
    if task_index is not None or num_tasks is not None:
        if task_index is None or num_tasks is None:
            raise UsageError("--task-index and --num-tasks go together; give both or neither")
        task = Task(index=task_index, count=num_tasks)
    print(run_dataset(dataset, scheduler=scheduler, num_workers=workers, task=task))


def finish_command(dataset: Positional[Dataset]) -> None:
    """Merge the blocks of a job that has run, check that all are there, and draw its pictures.

    Example: python -m ingest finish runs/dataset

    Args:
        dataset: the folder that `run` filled
    """
    from ingest.qc.describe_dataset import count_lines, rules_of
    from ingest.run.finish import finish_dataset

    finished = finish_dataset(dataset)
    print("\n".join(count_lines(finished.counts, rules_of(finished, dataset).neurons)))
    print(f"{finished.num_samples} samples, {finished.num_rejects} rejected: {dataset}")


def inspect_command(dataset: Positional[Dataset]) -> None:
    """Say what a data set holds: counts, splits, quality, and where its pictures are.

    Example: python -m ingest inspect runs/dataset

    Args:
        dataset: a data set's folder, finished or only planned
    """
    from ingest.qc.describe_dataset import inspect_lines

    print("\n".join(inspect_lines(dataset)))


def export_command(dataset: Positional[Dataset], *, tiff: Path, view: str | None = None) -> None:
    """Write a finished data set's images as TIFF files, to scale in ImageJ and napari.

    Example: python -m ingest export runs/dataset --tiff runs/cubes

    Args:
        dataset: a finished data set's folder
        tiff: the folder for KEY.tif files, labels.csv and job.yaml, which reads them back
        view: one of the job's; the cube where there is one when not given
    """
    from ingest.run.export_tiff import export_tiff

    print(f"{export_tiff(dataset, tiff, view)} TIFF files and labels.csv: {tiff}")


def schema_command(*, page: bool = False) -> None:
    """Print the JSON schema of a job's YAML, by which editors complete and check it.

    Example: python -m ingest schema > docs/reference/job.schema.json

    Args:
        page: the reference of all keys, as Markdown, in its place
    """
    from ingest.job.job_reference import job_reference
    from ingest.job.job_schema import job_schema

    print(job_reference() if page else job_schema(), end="")


COMMANDS: dict[str, Callable[..., None]] = {
    "phantom": phantom_command,
    "init": init_command,
    "check": check_command,
    "plan": plan_command,
    "run": run_blocks_command,
    "finish": finish_command,
    "inspect": inspect_command,
    "export": export_command,
    "schema": schema_command,
}


def group() -> Group:
    """Return the commands."""
    return Group(about=sys.modules["ingest"].__doc__ or "", commands=COMMANDS)


def main(args: list[str], prog: str = "python -m ingest") -> None:
    """Run one of the commands."""
    run_named(group(), args, prog=prog)


if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:]))
