"""Every recipe, trained for a short time on the same small data: scores, speed, size, command.

    python benchmarks/trainer/every_recipe.py SHARDS OUT [--recipes unet3d …] [--table]

SHARDS is a folder with the shard sets `cube` and `patch`. Images are cropped, but for the
CNNs of the 2D baseline, which differ by their crops. There are as many epochs as the time allows
by the speed of the first steps, but one at least and `--epochs` at most. Threshold and checkpoint
are chosen by validation. What is in OUT already is not done again; --table only prints.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np

from benchmarks.trainer.train_step import steps_of_a_run
from eval.inputs.predictions import read_predictions
from eval.metrics.metrics import balanced_accuracy
from eval.metrics.threshold import sweep
from shards.stream.shardset import open_shards
from trainer.recipes import RECIPES

TRIED_STEPS = 3


def settings(name: str, options: argparse.Namespace) -> list[str]:
    """Return a recipe's arguments but for the number of epochs."""
    recipe = RECIPES[name]()
    crop = [str(size) for size in (options.patch if recipe.view == "patch" else options.cube)]
    if name == "resnet18_25d":
        crop[0] = "5"
    if recipe.model == "cnn_2d":
        crop = [str(size) for size in recipe.crop]
    data = str(options.shards / recipe.view)
    batch = ["--batch-size", str(options.batch_size)]
    return [name, "--data", data, "--crop", *crop, *batch, "--weights", options.weights]


def train(name: str, options: argparse.Namespace) -> None:
    """Train and predict a recipe, or go on doing so."""
    run, chosen = options.out / name, options.out / f"{name}.json"
    arguments = settings(name, options)
    if not chosen.exists():
        rows = steps_of_a_run(arguments, TRIED_STEPS)
        speed = statistics.median(row["samples_per_s"] for row in rows)
        with open_shards(str(options.shards / RECIPES[name]().view)) as shards:
            images = len(shards.index("train"))
        epochs = max(1, min(options.epochs, int(options.seconds * speed / images)))
        chosen.write_text(json.dumps([*arguments, "--epochs", str(epochs)]))
    ours = [sys.executable, "-m", "trainer"]
    subprocess.run([*ours, *json.loads(chosen.read_text()), "--out", str(run)], check=True)
    subprocess.run([*ours, "predict", str(run), "--split", "val", "test"], check=True)


def row(name: str, out: Path) -> list[str]:
    """Return the cells of a recipe's line."""
    command = json.loads((out / f"{name}.json").read_text())
    document = json.loads((out / name / "run.json").read_text())
    lines = (out / name / "metrics.jsonl").read_text().splitlines()
    speeds = [r["samples_per_s"] for r in map(json.loads, lines) if r["kind"] == "train"]
    val, test = (
        read_predictions(out / name / "predictions" / f"{split}.parquet")[0]
        for split in ("val", "test")
    )
    tau = sweep(val["label"].to_numpy(np.int64), val["probability"].to_numpy()).tau
    truth = test["label"].to_numpy(np.int64)
    found = (test["probability"].to_numpy() >= tau).astype(np.int64)
    return [
        f"`{name}`",
        f"{document['num_parameters'] / 1e6:.1f} M",
        command[-1],
        f"{statistics.median(speeds):.1f}",
        f"{(truth == found).mean():.3f}",
        f"{balanced_accuracy(truth, found):.3f}",
        f"`accelerate launch -m trainer {' '.join(command)}`",
    ]


def main() -> None:
    """Do what is left to do, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shards", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--recipes", nargs="+", choices=list(RECIPES), default=list(RECIPES))
    parser.add_argument("--seconds", type=float, default=600.0, help="of training, a recipe")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--cube", type=int, nargs=3, default=[12, 64, 64])
    parser.add_argument("--patch", type=int, nargs=2, default=[96, 96])
    parser.add_argument("--weights", choices=["none", "default"], default="none")
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    done = [options.out / name / "predictions" / "test.parquet" for name in options.recipes]
    for name, predictions in zip(options.recipes, done, strict=True):
        if not options.table and not predictions.exists():
            train(name, options)
    heads = ("recipe", "parameters", "epochs", "images/s", "accuracy", "balanced", "command")
    print(f"| {' | '.join(heads)} |\n{'|---' * len(heads)}|")
    for name, predictions in zip(options.recipes, done, strict=True):
        if predictions.exists():
            print(f"| {' | '.join(row(name, options.out))} |")


if __name__ == "__main__":
    main()
