"""Train a classifier, or predict with one.

    accelerate launch -m trainer RECIPE --data URL … [--out runs/NAME] [--epochs 12 …]
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

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import tyro
from tyro.conf import Positional

from shards.cli.command import HELP, UsageError, parse, run_command, run_named, show_usage
from trainer.config import Config, System
from trainer.recipes import RECIPES
from trainer.setup.launcher import end_with_launcher

Flat = tyro.conf.arg(name="")


@dataclass(frozen=True, kw_only=True)
class OfRecipe:
    """Options of all commands that take a recipe."""

    fold: int | None = None
    """Fold of a cross-validation that `shards pack --folds` wrote."""
    config: Annotated[Config, Flat]


Asked = TypeVar("Asked", bound=OfRecipe)


@dataclass(frozen=True, kw_only=True)
class Train(OfRecipe):
    """Train a recipe; the same command again continues an unfinished run.

    Example: accelerate launch -m trainer unet3d_small --data runs/demo/shards/cube
    """

    data: tuple[str, ...] = tyro.MISSING
    """Shard sets, paths or URLs. Of several all are trained on (see --data-weights), and the first
    one validates and gives the mean and spread of gray values."""
    out: Path | None = None
    """Run folder; runs/RECIPE unless given."""
    system: Annotated[System, Flat] = field(default_factory=System)


@dataclass(frozen=True, kw_only=True)
class Sheet(OfRecipe):
    """Draw what a recipe's augmentation does: each operation by itself, then all together.

    Example: python -m trainer augment unet3d_strong --data runs/demo/shards/cube --out sheet.png
    """

    data: str = tyro.MISSING
    """Shard set: a path or URL."""
    out: Path = tyro.MISSING
    """PNG to write."""
    images: int = 6
    """Training images to show."""


@dataclass(frozen=True, kw_only=True)
class BatchSize(OfRecipe):
    """Time a recipe's training step at 1, 2, 4, … images on this device; say which size suits it.

    Example: accelerate launch -m trainer batch-size r3d_18 --data runs/demo/shards/cube
    """

    data: str = tyro.MISSING
    """Shard set: a path or URL."""
    most: int = 4096
    """Try no larger batch."""
    system: Annotated[System, Flat] = field(default_factory=System)


def main(args: list[str]) -> None:
    """Do what the arguments say."""
    end_with_launcher()
    if not args or args[0] in HELP:
        show_usage(f"{__doc__}\nRecipes: {', '.join(RECIPES)}", args)
    elif args[0] in WITHOUT_RECIPE:
        run_named(WITHOUT_RECIPE, args, prog="python -m trainer", about="")
    elif args[0] in OF_RECIPE:
        OF_RECIPE[args[0]](args[1:])
    else:
        _train(args)


def _of_recipe(kind: type[Asked], args: list[str], prog: str) -> Asked:
    """Return a command's options, whose defaults are of the recipe that the first argument names.

    For --help alone it may be any.
    """
    if args and args[0] in HELP:
        return parse(kind, args, prog=f"{prog} RECIPE", default=kind(config=RECIPES["unet3d"]()))
    if not args or args[0].startswith("-"):
        command = prog.rpartition("-m ")[2]
        raise UsageError(f"say which recipe: python -m {command} RECIPE --data URL")
    if args[0] not in RECIPES:
        raise UsageError(
            f"unknown recipe or command {args[0]!r}; recipes are {', '.join(RECIPES)}, "
            f"commands {', '.join(COMMANDS)}"
        )
    default = kind(config=RECIPES[args[0]]())
    return parse(kind, args[1:], prog=f"{prog} {args[0]}", default=default)


def _train(args: list[str]) -> None:
    asked = _of_recipe(Train, args, "accelerate launch -m trainer")
    if not asked.data:
        raise UsageError("say which shard set to train on: --data URL")
    from trainer.train.loop import train
    from trainer.train.run_state import Job
    from trainer.train.signals import REQUEUE

    job = Job(
        recipe=args[0],
        config=asked.config,
        system=asked.system,
        data=asked.data,
        fold=asked.fold,
        out=asked.out or Path("runs") / args[0],
        command=("-m", "trainer", *args),
    )
    if not train(job):
        sys.exit(REQUEUE)


def _augment(args: list[str]) -> None:
    asked = _of_recipe(Sheet, args, "python -m trainer augment")
    from trainer.augment.sheet import augmentation_sheet

    seed = asked.config.seed
    rows = augmentation_sheet(
        asked.config, asked.data, asked.fold, asked.out, num_images=asked.images, seed=seed
    )
    sys.stdout.write(f"{asked.out}: {rows} rows\n")


def _batch_size(args: list[str]) -> None:
    asked = _of_recipe(BatchSize, args, "accelerate launch -m trainer batch-size")
    from trainer.train.trial import report_batches

    report_batches(asked.config, asked.system, asked.data, asked.fold, most=asked.most)


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
    split: tuple[str, ...] = ("test",),
    checkpoint: str = "best",
    tta: bool = False,
    tta_in_plane: bool = False,
    raw: bool = False,
    stress: tuple[Literal["missing", "shift", "contrast", "blur", "jpeg"], ...] = (),
    batch_size: int = 0,
    system: Annotated[System, Flat] = System(),  # noqa: B008 - frozen
) -> None:
    """Write RUN/predictions/SPLIT.parquet; several runs are an ensemble.

    Example: python -m trainer predict runs/unet3d_small --split val test --tta

    Args:
        run: run folders, or folders or URLs that `export` wrote
        data: shard set; the first run's own unless given
        fold: of the shard set that --data names, a cross-validation
        out: folder for predictions/; the run itself unless given
        split: splits to predict
        checkpoint: `best` or `last`
        tta: average over 8 symmetries: of a patch the square's, of a cube its mirror images
        tta_in_plane: average over the square's 8 symmetries for cubes, too
        raw: raw weights, also where the run has a moving average of them
        stress: write SPLIT.NAME.parquet instead, on images with lost sections, a step between
            sections, another contrast, out of focus, or stored at half resolution as JPEG
        batch_size: images per step on each rank; 0 for the run's own
        system: how the model is run
    """
    if not run:
        raise UsageError("say which run: python -m trainer predict runs/NAME")
    if out is None and (len(run) > 1 or "://" in run[0]):
        raise UsageError("several runs or a URL have no folder of their own: say --out FOLDER")
    if fold is not None and data is None:
        raise UsageError("--fold goes with --data; without both a run's own fold is predicted")
    from trainer.predict.predict import predict_runs

    for path in predict_runs(
        run,
        data=data,
        fold=fold,
        out=out or Path(run[0]),
        splits=split,
        checkpoint=checkpoint,
        tta=tta,
        in_plane=tta_in_plane,
        raw=raw,
        stress=stress,
        batch_size=batch_size,
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


OF_RECIPE = {"augment": _augment, "batch-size": _batch_size}
WITHOUT_RECIPE: dict[str, Callable[..., None]] = {
    "recipes": recipes,
    "predict": predict,
    "export": export,
}
COMMANDS = (*WITHOUT_RECIPE, *OF_RECIPE)

if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:]))
