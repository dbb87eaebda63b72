"""What each method adds: the same training with and without it, three seeds, on unseen data.

Usage: python benchmarks/trainer/ablation.py TRAINING TEST OUT [--seeds 42 …] [--rows …] [--table]

TRAINING and TEST are folders with the shard sets `cube` and `patch`, of two phantoms (or of any two
datasets). Models learn on the one, choose checkpoint and threshold by its validation split, and are
tested on all of the other. What is in OUT already is not done again; --table only prints.
"""

import argparse
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from eval.inputs.predictions import read_predictions
from eval.metrics.metrics import balanced_accuracy
from eval.metrics.threshold import sweep

VAL, ALL = ("val",), ("train", "val", "test")
SIZED = ["--crop", "10", "56", "56", "--epochs", "8"]
LONG = ["--crop", "10", "56", "56", "--epochs", "24"]
SIZED_2D = ["--weights", "none", "--crop", "96", "96", "--epochs", "10"]
RUNS = {
    "base": ["unet3d_small", *SIZED, "--ema", "0.99"],
    "focal": ["unet3d_small", *SIZED, "--loss", "focal"],
    "balanced": ["unet3d_small", *SIZED, "--loss", "bce", "--class-weights", "effective"],
    "mixup": ["unet3d_small", *SIZED, "--mixup", "0.4"],
    "cutmix": ["unet3d_small", *SIZED, "--cutmix", "1.0"],
    "long": ["unet3d_small", *LONG],
    "long_mixup": ["unet3d_small", *LONG, "--mixup", "0.4"],
    "long_cutmix": ["unet3d_small", *LONG, "--cutmix", "1.0"],
    "strong_3d": ["unet3d_strong", "--crop", "10", "56", "56", "--width", "16", "--epochs", "24"],
    "strong_2d": ["resnet18_2d_strong", *SIZED_2D],
    "earlier_2d": ["resnet18_2d", *SIZED_2D],
    "earlier_cnn": ["cnn_2d_128", "--epochs", "10"],
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """A line of the table: a run, how it predicts, and the line that it is compared with."""

    run: str
    predict: tuple[str, ...] = ()
    against: str = ""


ROWS = {
    "unet3d_small": Row(run="base", predict=("--raw",)),
    "+ EMA": Row(run="base", against="unet3d_small"),
    "+ TTA": Row(run="base", predict=("--raw", "--tta"), against="unet3d_small"),
    "+ focal loss": Row(run="focal", against="unet3d_small"),
    "+ balanced BCE": Row(run="balanced", against="unet3d_small"),
    "+ MixUp": Row(run="mixup", against="unet3d_small"),
    "+ CutMix": Row(run="cutmix", against="unet3d_small"),
    "unet3d_small 24 epochs": Row(run="long"),
    "+ MixUp 24 epochs": Row(run="long_mixup", against="unet3d_small 24 epochs"),
    "+ CutMix 24 epochs": Row(run="long_cutmix", against="unet3d_small 24 epochs"),
    "cnn_2d_128": Row(run="earlier_cnn"),
    "resnet18_2d": Row(run="earlier_2d"),
    "resnet18_2d_strong": Row(run="strong_2d", predict=("--tta",), against="resnet18_2d"),
    "unet3d_strong": Row(run="strong_3d", predict=("--tta",), against="resnet18_2d_strong"),
}


def view(run: str) -> str:
    """Return the shard set that a run learns from."""
    return "patch" if "2d" in RUNS[run][0] else "cube"


def train(run: str, seed: int, data: Path, folder: Path, threads: int) -> None:
    """Train, or go on training, one run."""
    launch = "accelerate launch --num_processes 1 --num_machines 1 --mixed_precision no"
    where = ["--data", str(data / view(run)), "--out", str(folder), "--seed", str(seed)]
    where += ["--threads", str(threads)]
    command = [*launch.split(), "--dynamo_backend", "no", "-m", "trainer", *RUNS[run], *where]
    subprocess.run(command, check=True)


def predict(row: Row, run: Path, out: Path, training: Path, test: Path) -> None:
    """Predict the training data's validation split and all of the test data."""
    ours = ["python", "-m", "trainer", "predict", str(run), *row.predict]
    for part, data, splits in (("val", training, VAL), ("test", test, ALL)):
        where = ["--data", str(data / view(row.run)), "--out", str(out / part)]
        subprocess.run([*ours, *where, "--split", *splits], check=True)


def scores(out: Path) -> tuple[float, float]:
    """Return balanced accuracy and AUROC on the test data, thresholded by validation."""
    val, _ = read_predictions(out / "val" / "predictions" / "val.parquet")
    paths = sorted((out / "test" / "predictions").glob("*.parquet"))
    test = pd.concat([read_predictions(path)[0] for path in paths])
    tau = sweep(val["label"].to_numpy(np.int64), val["probability"].to_numpy()).tau
    truth, found = test["label"].to_numpy(np.int64), test["probability"].to_numpy()
    return balanced_accuracy(truth, (found >= tau).astype(np.int64)), roc_auc_score(truth, found)


def spread(values: np.ndarray) -> str:
    """Return the mean, and lowest and highest."""
    return f"{values.mean():+.3f} [{values.min():+.3f}, {values.max():+.3f}]"


def table(out: Path, seeds: list[int]) -> str:
    """Return the table of all rows whose predictions are there, in Markdown."""
    heads = ("", "seeds", "balanced accuracy", "AUROC", "against", "difference")
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    found: dict[str, dict[int, tuple[float, float]]] = {}
    for name, row in ROWS.items():
        folders = {seed: prediction_folder(out, name, seed) for seed in seeds}
        done = {seed: scores(folder) for seed, folder in folders.items() if is_done(folder)}
        found[name] = done
        if not done:
            continue
        balanced, ranked = np.array(list(done.values())).T
        both = [seed for seed in done if seed in found.get(row.against, {})]
        difference = np.array([done[seed][0] - found[row.against][seed][0] for seed in both])
        lines.append(
            f"| {name} | {len(done)} | {balanced.mean():.3f} [{balanced.min():.3f}, "
            f"{balanced.max():.3f}] | {ranked.mean():.3f} | {row.against} | "
            f"{spread(difference) if both else ''} |"
        )
    return "\n".join(lines)


def prediction_folder(out: Path, name: str, seed: int) -> Path:
    """Return where a row's predictions of one seed are."""
    return out / f"{name.replace('+ ', '')}-{seed}".replace(" ", "_")


def is_done(folder: Path) -> bool:
    """Whether all predictions of a row and seed are there."""
    return (folder / "test" / "predictions" / "test.parquet").exists()


def main() -> None:
    """Do what is left to do, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("training", type=Path)
    parser.add_argument("test", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 43, 44])
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--threads", type=int, default=0, help="of a training; 0 for all cores")
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    for seed in [] if options.table else options.seeds:
        for name, row in ((name, ROWS[name]) for name in options.rows):
            out = prediction_folder(options.out, name, seed)
            if not is_done(out):
                run = options.out / "runs" / f"{row.run}-{seed}"
                train(row.run, seed, options.training, run, options.threads)
                predict(row, run, out, options.training, options.test)
    print(table(options.out, options.seeds))


if __name__ == "__main__":
    main()
