"""One class ten times as frequent as the other: what class-balanced training rescues.

    python benchmarks/trainer/imbalance.py DATASET OUT [--ratio 10] [--seeds 42 43 44] [--table]

DATASET is a finished sample store with cubes. Of the training split's second class (excitatory) all
samples stay, of the first so few that they are one in RATIO of those; validation and test keep all.
Prints each class's recall at probability 1/2 on the test split. What is in OUT already is not done
again; --table only prints.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from eval.inputs.predictions import read_predictions
from shards.contract.sample_store import SAMPLES
from shards.pack.assign import PackOptions
from shards.pack.write_shards import pack

TRAINING = ["unet3d_small", "--crop", "10", "56", "56", "--epochs", "12"]
RUNS = {
    "plain BCE": ["--loss", "bce"],
    "BCE, inverse frequency": ["--loss", "bce", "--class-weights", "inverse"],
    "BCE, effective number": ["--loss", "bce", "--class-weights", "effective"],
    "BCE, classes drawn equally often": ["--loss", "bce", "--balance", "class"],
}
THINNED = "thinned"


def make_shards(dataset: Path, out: Path, ratio: float) -> None:
    """Pack the store without most training samples of class 0, which get a flag in a copy."""
    copy = out / "dataset"
    copy.mkdir(parents=True, exist_ok=True)
    for source in dataset.iterdir():
        if source.name != SAMPLES and not (copy / source.name).exists():
            (copy / source.name).symlink_to(source.resolve())
    samples = pd.read_parquet(dataset / SAMPLES)
    train = samples["split"] == "train"
    rare = samples.index[train & (samples["label"] == 0)]
    kept = round((train & (samples["label"] == 1)).sum() / ratio)
    dropped = np.random.default_rng(0).permutation(rare)[kept:]
    samples.loc[dropped, "qc_flags"] = THINNED
    samples.to_parquet(copy / SAMPLES)
    options = PackOptions(exclude_flags=(THINNED,))
    pack(copy, "cube", str(out / "cube"), options, workers=1)


def train(arguments: list[str], seed: int, out: Path, run: Path) -> None:
    """Train and predict one run."""
    ours = [sys.executable, "-m", "trainer"]
    where = ["--data", str(out / "cube"), "--out", str(run), "--seed", str(seed)]
    subprocess.run([*ours, *TRAINING, *arguments, *where], check=True)
    subprocess.run([*ours, "predict", str(run), "--split", "test"], check=True)


def scores(run: Path) -> tuple[float, float, float]:
    """Return the recall of class 0 and of class 1 at probability 1/2, and the AUROC."""
    test, _ = read_predictions(run / "predictions" / "test.parquet")
    truth, p = test["label"].to_numpy(), test["probability"].to_numpy()
    return (p[truth == 0] < 0.5).mean(), (p[truth == 1] >= 0.5).mean(), roc_auc_score(truth, p)


def main() -> None:
    """Do what is left to do, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--ratio", type=float, default=10.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 43, 44])
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    if not (options.out / "cube" / "manifest.json").exists():
        make_shards(options.dataset, options.out, options.ratio)
    heads = ("training", "seeds", "recall, rare class", "recall, frequent class", "AUROC")
    print(f"| {' | '.join(heads)} |\n{'|---' * len(heads)}|")
    for name, arguments in RUNS.items():
        found = []
        for seed in options.seeds:
            run = options.out / f"{name}-{seed}".replace(" ", "_").replace(",", "")
            if not options.table and not (run / "predictions" / "test.parquet").exists():
                train(arguments, seed, options.out, run)
            if (run / "predictions" / "test.parquet").exists():
                found.append(scores(run))
        cells = [f"{np.mean(v):.3f} [{min(v):.3f}, {max(v):.3f}]" for v in zip(*found, strict=True)]
        print(f"| {name} | {len(found)} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
