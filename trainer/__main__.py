"""Train a classifier, or predict with one.

    accelerate launch -m trainer RECIPE --data URL [--out runs/NAME] [--field value …]
    python -m trainer recipes
    python -m trainer predict RUN [--data URL] --split val test [--tta] [--stress blur jpeg]
    python -m trainer export RUN FOLDER
    python -m trainer augment RECIPE --data URL --out sheet.png
    python -m trainer batch-size RECIPE --data URL

Example: accelerate launch -m trainer unet3d_small --data runs/demo/shards/cube --epochs 8
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from shards.command import run_command
from shards.files import read_json
from trainer.config import Config, System
from trainer.recipes import RECIPES, get_recipe

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


def main(args: list[str]) -> None:
    """Do what the arguments say."""
    if not args or args[0] in ("-h", "--help"):
        sys.stdout.write(f"{__doc__}\nRecipes: {', '.join(RECIPES)}\n")
    elif args[0] == "recipes":
        _print_recipes()
    elif args[0] == "predict":
        _predict(tyro.cli(Predict, args=args[1:], prog="python -m trainer predict"))
    elif args[0] == "export":
        _export(tyro.cli(Export, args=args[1:], prog="python -m trainer export"))
    elif args[0] == "augment":
        _augment(args[1:])
    elif args[0] == "batch-size":
        _batch_size(args[1:])
    else:
        _train(args)


def _recipe_of(args: list[str], command: str) -> Config:
    if not args or args[0].startswith("-"):
        raise ValueError(f"say which recipe: python -m trainer {command} RECIPE --data URL")
    return get_recipe(args[0])


def _augment(args: list[str]) -> None:
    default = Sheet(data=tyro.MISSING, out=tyro.MISSING, config=_recipe_of(args, "augment"))
    asked = tyro.cli(Sheet, args=args[1:], prog="python -m trainer augment", default=default)
    from trainer.sheet import augmentation_sheet

    seed = asked.config.seed
    rows = augmentation_sheet(
        asked.config, asked.data, asked.out, num_images=asked.images, seed=seed
    )
    sys.stdout.write(f"{asked.out}: {rows} rows\n")


def _batch_size(args: list[str]) -> None:
    default = BatchSize(data=tyro.MISSING, config=_recipe_of(args, "batch-size"), system=System())
    asked = tyro.cli(BatchSize, args=args[1:], prog="python -m trainer batch-size", default=default)
    from trainer.trial import report_batches

    report_batches(asked.config, asked.system, asked.data, most=asked.most)


def _train(args: list[str]) -> None:
    config = get_recipe(args[0])
    from trainer.loop import train
    from trainer.session import Job
    from trainer.stopping import REQUEUE

    asked = tyro.cli(
        Train,
        args=args[1:],
        prog=f"accelerate launch -m trainer {args[0]}",
        default=Train(data=tyro.MISSING, config=config, system=System()),
    )
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


def _predict(job: Predict) -> None:
    from trainer.predict import predict_runs

    if job.out is None and (len(job.run) > 1 or "://" in job.run[0]):
        raise ValueError("several runs or a URL have no folder of their own: say --out FOLDER")
    data = job.data
    if data is None:
        cure = "train it first, check the path, or give --data"
        data = read_json(Path(job.run[0]) / "run.json", what="run", cure=cure)["data_url"]
    for path in predict_runs(
        job.run,
        data=data,
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


def _export(job: Export) -> None:
    from trainer.export import export_run

    difference = export_run(job.run, job.out, checkpoint=job.checkpoint, raw=job.raw)
    sys.stdout.write(f"{job.out}: the exported program differs by {difference:.1g} at most\n")


def _print_recipes() -> None:
    for name, recipe in RECIPES.items():
        summary = (recipe.__doc__ or "").strip().splitlines()[0]
        sys.stdout.write(f"{name:20} {recipe().view:6} {summary}\n")


if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:]))
