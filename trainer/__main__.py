"""Train a classifier, or predict with one.

    accelerate launch -m trainer RECIPE --data URL [--out runs/NAME] [--epochs 12 …]
    python -m trainer RECIPE --help
    python -m trainer recipes
    python -m trainer predict RUN [--data URL] --split val test [--tta] [--stress blur jpeg]
    python -m trainer export RUN FOLDER
    python -m trainer augment RECIPE --data URL --out sheet.png
    python -m trainer batch-size RECIPE --data URL

Example: accelerate launch -m trainer unet3d_small --data runs/demo/shards/cube --epochs 8
"""

import signal
import sys

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
    # Ctrl-C while modules are imported ends the process without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from shards.cli.command import HELP, UsageError, parse, run_command, show_usage
from trainer.config import Config, System
from trainer.recipes import RECIPES, get_recipe
from trainer.setup.launcher import end_with_launcher

Flat = tyro.conf.arg(name="")


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train a recipe; the same command again continues an unfinished run.

    Example: accelerate launch -m trainer unet3d_small --data runs/demo/shards/cube
    """

    data: str
    """Shard set: a path or URL."""
    out: Path | None = None
    """Run folder; runs/RECIPE unless given."""
    config: Annotated[Config, Flat]
    system: Annotated[System, Flat]


@dataclass(frozen=True, kw_only=True)
class Predict:
    """Write RUN/predictions/SPLIT.parquet; several runs are an ensemble.

    Example: python -m trainer predict runs/unet3d_small --split val test --tta
    """

    run: tyro.conf.Positional[tuple[str, ...]]
    """Run folders, or folders or URLs that `export` wrote."""
    data: str | None = None
    """Shard set; the first run's own unless given."""
    out: Path | None = None
    """Folder for predictions/; the run itself unless given."""
    split: tuple[str, ...] = ("test",)
    """Splits to predict."""
    checkpoint: str = "best"
    """`best` or `last`."""
    tta: bool = False
    """Average over 8 symmetries: of a patch the square's, of a cube its mirror images."""
    tta_in_plane: bool = False
    """Average over the square's 8 symmetries for cubes, too."""
    raw: bool = False
    """Raw weights, also where the run has a moving average of them."""
    stress: tuple[Literal["missing", "shift", "contrast", "blur", "jpeg"], ...] = ()
    """Write SPLIT.NAME.parquet instead, on images with lost sections, a step between sections,
    another contrast, out of focus, or stored at half resolution as JPEG."""
    batch_size: int = 0
    """Images a step on each rank; 0 for the run's own."""
    system: Annotated[System, Flat] = field(default_factory=System)


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write a trained model as one folder to hand on, checked to predict the same.

    Example: python -m trainer export runs/unet3d_small models/unet3d_small
    """

    run: tyro.conf.Positional[str]
    """Run folder."""
    out: tyro.conf.Positional[Path]
    """Folder to write."""
    checkpoint: str = "best"
    """`best` or `last`."""
    raw: bool = False
    """Raw weights, also where the run has a moving average of them."""


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """Draw what a recipe's augmentation does: each operation by itself, then all together.

    Example: python -m trainer augment unet3d_strong --data runs/demo/shards/cube --out sheet.png
    """

    data: str
    """Shard set: a path or URL."""
    out: Path
    """PNG to write."""
    images: int = 6
    """Training images to show."""
    config: Annotated[Config, Flat]


@dataclass(frozen=True, kw_only=True)
class BatchSize:
    """Time a recipe's training step at 1, 2, 4, … images on this device; say which size suits it.

    Example: accelerate launch -m trainer batch-size r3d_18 --data runs/demo/shards/cube
    """

    data: str
    """Shard set: a path or URL."""
    most: int = 4096
    """Try no larger batch."""
    config: Annotated[Config, Flat]
    system: Annotated[System, Flat]


@dataclass(frozen=True, kw_only=True)
class Recipes:
    """List the recipes, with the images that each learns from.

    Example: python -m trainer recipes
    """


def main(args: list[str]) -> None:
    """Do what the arguments say."""
    end_with_launcher()
    if not args or args[0] in HELP:
        show_usage(f"{__doc__}\nRecipes: {', '.join(RECIPES)}", args)
    elif args[0] in COMMANDS:
        COMMANDS[args[0]](args[1:])
    else:
        _train(args)


def _recipe_of(args: list[str], command: str) -> tuple[str, Config]:
    """Return the recipe that the first argument names; for --help alone, any."""
    if args and args[0] in HELP:
        return "RECIPE", RECIPES["unet3d_small"]()
    if not args or args[0].startswith("-"):
        raise UsageError(f"say which recipe: python -m trainer {command}RECIPE --data URL")
    if args[0] not in RECIPES:
        raise UsageError(
            f"unknown recipe or command {args[0]!r}; recipes are {', '.join(RECIPES)}, "
            f"commands {', '.join(COMMANDS)}"
        )
    return args[0], get_recipe(args[0])


def _options(args: list[str]) -> list[str]:
    return args if args[0] in HELP else args[1:]


def _augment(args: list[str]) -> None:
    name, config = _recipe_of(args, "augment ")
    asked = parse(
        Sheet,
        _options(args),
        prog=f"python -m trainer augment {name}",
        default=Sheet(data=tyro.MISSING, out=tyro.MISSING, config=config),
    )
    from trainer.augment.sheet import augmentation_sheet

    seed = asked.config.seed
    rows = augmentation_sheet(
        asked.config, asked.data, asked.out, num_images=asked.images, seed=seed
    )
    sys.stdout.write(f"{asked.out}: {rows} rows\n")


def _batch_size(args: list[str]) -> None:
    name, config = _recipe_of(args, "batch-size ")
    asked = parse(
        BatchSize,
        _options(args),
        prog=f"accelerate launch -m trainer batch-size {name}",
        default=BatchSize(data=tyro.MISSING, config=config, system=System()),
    )
    from trainer.train.trial import report_batches

    report_batches(asked.config, asked.system, asked.data, most=asked.most)


def _train(args: list[str]) -> None:
    name, config = _recipe_of(args, "")
    asked = parse(
        Train,
        args[1:],
        prog=f"accelerate launch -m trainer {name}",
        default=Train(data=tyro.MISSING, config=config, system=System()),
    )
    from trainer.train.loop import train
    from trainer.train.run_state import Job
    from trainer.train.signals import REQUEUE

    job = Job(
        recipe=args[0],
        config=asked.config,
        system=asked.system,
        data=asked.data,
        out=asked.out or Path("runs") / args[0],
        command=("-m", "trainer", *args),
    )
    if not train(job):
        sys.exit(REQUEUE)


def _predict(args: list[str]) -> None:
    job = parse(Predict, args, prog="python -m trainer predict")
    if not job.run:
        raise UsageError("say which run: python -m trainer predict runs/NAME")
    if job.out is None and (len(job.run) > 1 or "://" in job.run[0]):
        raise UsageError("several runs or a URL have no folder of their own: say --out FOLDER")
    from trainer.predict.predict import predict_runs

    for path in predict_runs(
        job.run,
        data=job.data,
        out=job.out or Path(job.run[0]),
        splits=job.split,
        checkpoint=job.checkpoint,
        tta=job.tta,
        in_plane=job.tta_in_plane,
        raw=job.raw,
        stress=job.stress,
        batch_size=job.batch_size,
        system=job.system,
    ):
        sys.stdout.write(f"{path}\n")


def _export(args: list[str]) -> None:
    job = parse(Export, args, prog="python -m trainer export")
    from trainer.checkpoint.publish import export_run

    difference = export_run(job.run, job.out, checkpoint=job.checkpoint, raw=job.raw)
    sys.stdout.write(f"{job.out}: the exported program differs by {difference:.1g} at most\n")


def _print_recipes(args: list[str]) -> None:
    parse(Recipes, args, prog="python -m trainer recipes")
    for name, recipe in RECIPES.items():
        summary = (recipe.__doc__ or "").strip().splitlines()[0]
        sys.stdout.write(f"{name:20} {recipe().view:6} {summary}\n")


COMMANDS = {
    "recipes": _print_recipes,
    "predict": _predict,
    "export": _export,
    "augment": _augment,
    "batch-size": _batch_size,
}

if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:]))
