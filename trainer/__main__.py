"""The command line of trainer: argument parsing only.

A command imports what it needs when it is called, so that --help answers at once.
"""

import signal
import sys

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
    # Ctrl-C while modules are imported ends the process without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import Positional

from shards.cli.arguments import Group, about, run_named
from shards.cli.command import HELP, UsageError, run_command
from trainer.config import Config, System
from trainer.recipes import RECIPES
from trainer.setup.launcher import end_with_launcher
from trainer.setup.process import prepare_process

ABOUT = """\
Train a classifier, or predict with one.

A RECIPE by itself trains it, as in `accelerate launch -m trainer RECIPE --data URL`.
Example: accelerate launch -m trainer unet3d_small --data runs/demo/shards/cube --epochs 8
"""
Flat = tyro.conf.arg(name="")
Words = tuple[str, ...]
SYSTEM = System()


def train(
    words: Words,
    recipe: str,
    *,
    data: tuple[str, ...],
    out: Path | None = None,
    fold: int | None = None,
    config: Annotated[Config, Flat],
    system: Annotated[System, Flat] = SYSTEM,
) -> None:
    """Train a recipe; the same command again continues an unfinished run.

    Example: accelerate launch -m trainer unet3d_small --data runs/demo/shards/cube

    Args:
        words: the arguments as they were given, for the run's record
        recipe: its name
        data: shard sets, paths or URLs. Of several all are trained on (see --data-weights), and the
            first one validates and gives the mean and spread of gray values
        out: run folder; runs/RECIPE unless given
        fold: fold of a cross-validation that `shards pack --folds` wrote
        config: what is trained, and how
        system: how the training is run
    """
    if not data:
        raise UsageError("say which shard set to train on: --data URL")
    from trainer.train.loop import train as run_training
    from trainer.train.run_state import Job
    from trainer.train.signals import REQUEUE

    job = Job(
        recipe=recipe,
        config=config,
        system=system,
        data=data,
        fold=fold,
        out=out or Path("runs") / recipe,
        command=("-m", "trainer", *words),
    )
    if not run_training(job):
        sys.exit(REQUEUE)


def augment(
    *,
    data: str,
    out: Path,
    fold: int | None = None,
    images: int = 6,
    config: Annotated[Config, Flat],
) -> None:
    """Draw what a recipe's augmentation does: each operation by itself, then all together.

    Example: python -m trainer augment unet3d_strong --data runs/demo/shards/cube --out sheet.png

    Args:
        data: shard set: a path or URL
        out: PNG to write
        fold: fold of a cross-validation that `shards pack --folds` wrote
        images: training images to show
        config: what is trained, and how
    """
    from trainer.augment.sheet import augmentation_sheet

    rows = augmentation_sheet(config, data, fold, out, num_images=images, seed=config.seed)
    sys.stdout.write(f"{out}: {rows} rows\n")


def batch_size(
    *,
    data: str,
    fold: int | None = None,
    most: int = 4096,
    config: Annotated[Config, Flat],
    system: Annotated[System, Flat] = SYSTEM,
) -> None:
    """Time a recipe's training step at 1, 2, 4, … images on this device; say which size suits it.

    Example: accelerate launch -m trainer batch-size r3d_18 --data runs/demo/shards/cube

    Args:
        data: shard set: a path or URL
        fold: fold of a cross-validation that `shards pack --folds` wrote
        most: try no larger batch
        config: what is trained, and how
        system: how the training is run
    """
    from trainer.train.trial import report_batches

    report_batches(config, system, data, fold, most=most)


def recipes() -> None:
    """List the recipes, with the images that each learns from.

    Example: python -m trainer recipes
    """
    for name, recipe in RECIPES.items():
        summary = (recipe.__doc__ or "").strip().splitlines()[0]
        sys.stdout.write(f"{name:20} {recipe().view:6} {summary}\n")


def predict(
    run: Positional[tuple[str, ...]],
    *,
    data: str | None = None,
    fold: int | None = None,
    out: Path | None = None,
    split: tuple[str, ...] = (),
    checkpoint: str = "best",
    tta: bool = False,
    tta_in_plane: bool = False,
    raw: bool = False,
    stress: tuple[Literal["missing", "shift", "contrast", "blur", "jpeg"], ...] = (),
    batch_size: int = 0,
    embed: bool = False,
    task_index: int = 0,
    num_tasks: int = 1,
    system: Annotated[System, Flat] = SYSTEM,
) -> None:
    """Write RUN/predictions/SPLIT.parquet; several runs are an ensemble.

    With a data set that `ingest plan` wrote, every sample of the plan is read from its volume and
    predicted, and no image is stored: OUT/part-000000.parquet … The same command again does what
    is missing.

    Example: python -m trainer predict runs/unet3d_small --split val test --tta

    Example: python -m trainer predict runs/unet3d_small --data runs/minnie65 --out runs/classes

    Args:
        run: run folders, or folders or URLs that `export` wrote
        data: shard set, or the folder of a planned data set; the first run's own unless given
        fold: of the shard set that --data names, a cross-validation
        out: folder for predictions/, the run itself unless given; of a planned data set, for parts
        split: splits to predict; test unless given, and all of a planned data set
        checkpoint: `best` or `last`
        tta: average over 8 symmetries: of a patch the square's, of a cube its mirror images
        tta_in_plane: average over the square's 8 symmetries for cubes, too
        raw: raw weights, also where the run has a moving average of them
        stress: write SPLIT.NAME.parquet instead, on images with lost sections, a step between
            sections, another contrast, out of focus, or stored at half resolution as JPEG
        batch_size: images per step on each rank; 0 for the run's own
        embed: add the input of the model's last layer as a vector (planned data sets)
        task_index: predict one task's share of the parts, counted from 0 (planned data sets)
        num_tasks: of how many tasks
        system: how the model is run
    """
    if not run:
        raise UsageError("say which run: python -m trainer predict runs/NAME")
    if out is None and (len(run) > 1 or "://" in run[0]):
        raise UsageError("several runs or a URL have no folder of their own: say --out FOLDER")
    if fold is not None and data is None:
        raise UsageError("--fold goes with --data; without both a run's own fold is predicted")
    from trainer.predict.ensemble import Options

    options = Options(
        checkpoint=checkpoint,
        tta=tta,
        in_plane=tta_in_plane,
        raw=raw,
        stress=stress,
        batch_size=batch_size,
    )
    if data is not None and (Path(data) / "plan.json").is_file():
        if (
            out is None
            or stress
            or fold is not None
            or (embed and (len(run) > 1 or tta or tta_in_plane))
        ):
            raise UsageError(
                f"{data} is a planned data set: say --out FOLDER for the parts, without --stress "
                "and --fold; --embed is of one run without --tta"
            )
        from shards.contract.schema import SPLITS
        from trainer.predict.predict_planned import predict_planned

        summary = predict_planned(
            run,
            data=Path(data),
            out=out,
            splits=split or SPLITS,
            options=options,
            system=system,
            task_index=task_index,
            num_tasks=num_tasks,
            embed=embed,
        )
        sys.stdout.write(f"{out}: {summary}\n")
        return
    if embed or num_tasks != 1 or task_index:
        raise UsageError("--embed, --task-index and --num-tasks go with a planned data set")
    from trainer.predict.predict import predict_runs

    for path in predict_runs(
        run,
        data=data,
        fold=fold,
        out=out or Path(run[0]),
        splits=split or ("test",),
        options=options,
        system=system,
    ):
        sys.stdout.write(f"{path}\n")


def export(
    run: Positional[str], out: Positional[Path], *, checkpoint: str = "best", raw: bool = False
) -> None:
    """Write a trained model as one folder to hand on, checked to predict the same.

    Example: python -m trainer export runs/unet3d_small models/unet3d_small

    Args:
        run: run folder
        out: folder to write
        checkpoint: `best` or `last`
        raw: raw weights, also where the run has a moving average of them
    """
    from trainer.checkpoint.publish import export_run

    difference = export_run(run, out, checkpoint=checkpoint, raw=raw)
    sys.stdout.write(f"{out}: the exported program differs by {difference:.1g} at most\n")


def group(args: Sequence[str] = ()) -> Group:
    """Return the commands; a run that is trained records these arguments."""
    words = tuple(args)
    trainings = {name: partial(train, words, name) for name in RECIPES}
    return Group(
        about=ABOUT,
        commands={
            "train": _of_recipes(train, trainings),
            "recipes": recipes,
            "predict": predict,
            "export": export,
            "augment": _of_recipes(augment, dict.fromkeys(RECIPES, augment)),
            "batch-size": _of_recipes(batch_size, dict.fromkeys(RECIPES, batch_size)),
        },
    )


def _of_recipes(command: Any, by_recipe: Mapping[str, Callable[..., None]]) -> Group:
    """Return a command's forms, one per recipe, whose configuration is the default of each."""
    return Group(
        about=about(command),
        kind="RECIPE",
        commands={name: partial(form, config=RECIPES[name]()) for name, form in by_recipe.items()},
        summaries={name: about(recipe).splitlines()[0] for name, recipe in RECIPES.items()},
    )


def main(args: list[str], prog: str = "python -m trainer") -> None:
    """Run one of the commands."""
    end_with_launcher()
    prepare_process()
    commands = group(args)
    if args and args[0] not in {*HELP, *commands.commands}:
        if args[0] not in RECIPES and not args[0].startswith("-"):
            raise UsageError(
                f"unknown recipe or command {args[0]!r}; recipes are {', '.join(RECIPES)}, "
                f"commands {', '.join(commands.commands)}"
            )
        args = ["train", *args]
    run_named(commands, args, prog=prog)


if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:]))
