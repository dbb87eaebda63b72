"""Time and memory of `python -m eval` on many predictions, without pictures.

Usage: python benchmarks/eval/many_predictions.py [NUMBER] [FOLDER]   (10 million)
"""

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
from scipy import special

from eval.inputs.predictions import PredictionsInfo, write_predictions


def made_up(number: int, neurons: int, seed: int, first: int) -> pa.Table:
    """Return predictions of neurons of alternating class, whose synapses err together."""
    rng = np.random.default_rng(seed)
    group = rng.integers(0, neurons, number)
    label = group % 2
    evidence = 1.6 * (label - 0.5) + 0.7 * rng.standard_normal(neurons)[group]
    return pa.table(
        {
            "key": pa.array(np.char.add("s", (first + np.arange(number)).astype(str))),
            "synapse_id": first + np.arange(number),
            "neuron_id": first + group,
            "pre_root_id": 864691135000000000 + group,
            "post_root_id": 864691135000000000 + rng.integers(0, 80_000, number),
            "center_x_nm": rng.uniform(0, 1e6, number),
            "center_y_nm": rng.uniform(0, 1e6, number),
            "center_z_nm": rng.uniform(0, 5e5, number),
            "size": rng.lognormal(6, 1, number),
            "label": label.astype(np.int16),
            "label_tier": pa.array(np.where(rng.random(number) < 0.1, "manual", "two tables")),
            "qc_flags": pa.array(np.where(rng.random(number) < 0.05, "blurred", "")),
            "probability": special.expit(1.6 * (evidence + rng.standard_normal(number))),
        }
    )


def main() -> None:
    """Write the predictions, evaluate them in a process of its own, and say what it took."""
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000_000
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(sys.argv[2]) if len(sys.argv) > 2 else Path(temporary)
        neurons = max(20, number // 200)
        for split, count, first in (("val", number // 10, 10**9), ("test", number, 1)):
            cells = max(20, neurons * count // number)
            table = made_up(count, cells, seed=count, first=first)
            write_predictions(folder / f"{split}.parquet", table, PredictionsInfo())
            del table
        start = time.monotonic()
        command = [sys.executable, "-m", "eval", str(folder / "test.parquet"), "--no-images"]
        subprocess.run(command, check=True)
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6
        cpu = resource.getrusage(resource.RUSAGE_CHILDREN)
        print(
            f"{number:,} predictions of {neurons:,} neurons: {time.monotonic() - start:.1f} s wall,"
            f" {cpu.ru_utime + cpu.ru_stime:.1f} s processor time, {peak:.2f} GB at the most"
        )


if __name__ == "__main__":
    main()
