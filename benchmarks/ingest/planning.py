r"""Planning at scale: seconds and peak memory of `ingest plan` over a table of so many synapses.

The table is made once from the real one: its rows drawn anew, moved by some 100 µm, and shared out
over copies of its neurons so that each has about 100. The volume is minnie65, planned from its
saved `info`; patches of 256×256 and cubes of 32×128×128, all of 8×8×40 nm. `--num 0` plans the
real table itself.

Example:
    python benchmarks/ingest/planning.py --synapses ../shared/data/minnie65_ei_synapses.parquet \
        --folder runs/bench/plan --num 10000000 --kind csv.gz
"""

import argparse
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import yaml

INFO = Path(__file__).parents[2] / "ingest" / "configs" / "minnie65_info.json"
IDS = ["id", "pre_pt_root_id", "post_pt_root_id", "size"]
POSITION = [f"ctr_pt_position_{axis}" for axis in "xyz"]
LOW, HIGH = (28000, 28000, 14900), (453000, 387000, 27800)  # well within, in 4×4×40 nm, x, y, z
MOVED = (25_000, 25_000, 2500)  # standard deviation, in the same voxels: 100 µm
PER_NEURON = 100
BATCH = 500_000


def main() -> None:
    """Make what is not there, plan it once, say what that took."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("--synapses", type=Path, required=True, help="the real ones")
    parser.add_argument("--folder", type=Path, required=True, help="for tables and plans")
    parser.add_argument("--num", type=int, default=1_000_000, help="0: the real table as it is")
    parser.add_argument("--kind", choices=["parquet", "csv.gz"], default="parquet")
    options = parser.parse_args()
    real = pd.read_parquet(options.synapses)
    copies = max(1, options.num // PER_NEURON // real.pre_pt_root_id.nunique())
    folder = options.folder / f"{options.num}-{options.kind}"
    if not (folder / "neurons.parquet").exists():
        folder.mkdir(parents=True, exist_ok=True)
        batches = made(real, options.num, copies) if options.num else iter([real[IDS + POSITION]])
        write(batches, folder / f"synapses.{options.kind}")
        neurons(real, copies).to_parquet(folder / "neurons.parquet")
    (folder / "job.yaml").write_text(yaml.safe_dump(job(folder, options.kind)))
    plan(folder)


def made(real: pd.DataFrame, num: int, copies: int) -> Iterator[pd.DataFrame]:
    """Yield `num` synapses in batches."""
    rng = np.random.default_rng(0)
    table = real[IDS + POSITION].to_numpy(np.int64)
    for start in range(0, num, BATCH):
        count = min(BATCH, num - start)
        rows = table[rng.integers(0, len(table), count)]
        rows[:, 0] = start + np.arange(count)
        rows[:, 1] += rng.integers(0, copies, count) << 32
        rows[:, 2] += rng.integers(0, copies, count) << 32
        moved = rows[:, 4:] + rng.normal(0, MOVED, (count, 3)).astype(np.int64)
        rows[:, 4:] = np.clip(moved, LOW, HIGH)
        yield pd.DataFrame(rows, columns=IDS + POSITION)


def neurons(real: pd.DataFrame, copies: int) -> pd.DataFrame:
    """Return the neurons' classes."""
    known = real.drop_duplicates("pre_pt_root_id")
    roots = (known.pre_pt_root_id.to_numpy()[:, None] + (np.arange(copies) << 32)).reshape(-1)
    return pd.DataFrame(
        {
            "target_id": np.arange(len(roots)) + 10**6,
            "pt_root_id": roots,
            "cell_type": np.repeat(known.ei.to_numpy(), copies),
        }
    )


def write(batches: Iterator[pd.DataFrame], path: Path) -> None:
    """Write a table; a CSV as CAVE releases it, its columns' names in another file."""
    schema = pa.schema([(name, pa.int64()) for name in IDS + POSITION])
    tables = (pa.Table.from_pandas(batch, schema, preserve_index=False) for batch in batches)
    if path.suffix == ".parquet":
        with pq.ParquetWriter(path, schema) as writer:
            for table in tables:
                writer.write_table(table)
        return
    header = "".join(f"{name},bigint\n" for name in schema.names)
    path.with_name("header.csv").write_text(header)
    plain = pa_csv.WriteOptions(include_header=False)
    with (
        pa.output_stream(path, compression="gzip") as stream,
        pa_csv.CSVWriter(stream, schema, write_options=plain) as csv_writer,
    ):
        for table in tables:
            csv_writer.write_table(table)


def job(folder: Path, kind: str) -> dict[str, object]:
    """Return the job's config."""
    classes = {"excitatory": "excitatory", "inhibitory": "inhibitory"}
    synapses = {"path": f"synapses.{kind}", "columns": {"pre": None, "post": None}}
    labels = {"path": "neurons.parquet", "column": "cell_type", "classes": classes}
    return {
        "axes": "xyz",
        "volume": {"path": "https://example.invalid/minnie65/em", "info": str(INFO.resolve())},
        "synapses": synapses | ({"header": "header.csv"} if kind == "csv.gz" else {}),
        "labels": {"tables": [labels]},
        "samples": {"center": "ctr"},
    }


def plan(folder: Path) -> None:
    """Plan in a process of its own."""
    shutil.rmtree(folder / "out", ignore_errors=True)
    command = [sys.executable, "-m", "ingest", "plan", str(folder / "job.yaml")]
    began = time.perf_counter()
    subprocess.run([*command, "--out", str(folder / "out")], check=True)
    seconds = time.perf_counter() - began
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = used.ru_utime + used.ru_stime
    print(f"{folder.name}: {seconds:.1f} s, {cpu:.1f} s of processor time, ", end="")
    print(f"peak {used.ru_maxrss / 1e6:.2f} GB")


if __name__ == "__main__":
    main()
