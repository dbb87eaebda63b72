r"""The whole job, killed again and again: tables from CAVE, voxels from the EM server, two workers.

The real synapses are served by the CAVE stand-in server to a real `CAVEclient`; patches and cubes
around them are read from the EM stand-in server, of minnie65's geometry, and stored by
`ingest run --scheduler processes`. The run is killed (SIGKILL) at even intervals: the whole of it,
its first process alone, one worker alone, and so on; what is killed whole is started again. Then
what was stored is compared with the tables and with the volume, voxel by voxel.

Example:
    python benchmarks/ingest/full_job.py --synapses ../shared/data/minnie65_ei_synapses.parquet \
        --folder runs/bench/full --num 3000 30173
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import yaml

from ingest.job.job_file import load_job
from ingest.plan.make import plan_dataset
from ingest.run.finish import finish_dataset
from ingest.tables.cave_token import SERVER_VARIABLE, TOKEN_VARIABLE
from shards.contract.sample_store import SampleStore, open_store
from tests.servers.cave import CaveServer
from tests.servers.cave_tables import neuron_types, public_tables
from tests.servers.em import EmServer

KILLS = ("all", "first", "worker")
CLASSES = ("inhibitory", "excitatory")
POLL_S = 0.2
PATIENCE_S = 60.0


def main() -> None:
    """Run the job on each number of synapses and print a line for each."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("--synapses", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True, help="is emptied after each run")
    parser.add_argument("--num", type=int, nargs="+", default=[30173], help="synapses")
    parser.add_argument("--patch", type=int, nargs=2, default=[256, 256], help="x y")
    parser.add_argument("--cube", type=int, nargs=3, default=[128, 128, 32], help="x y z")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--latency-ms", type=float, default=20.0)
    parser.add_argument("--check-every", type=int, default=10, help="images compared by voxel")
    options = parser.parse_args()
    real = pd.read_parquet(options.synapses)
    for num in options.num:
        print("\n".join(full_job(real.sample(num, random_state=0), options)), flush=True)


def full_job(rows: pd.DataFrame, options: argparse.Namespace) -> Iterator[str]:
    """Do the whole job on these synapses; yield what it took, in lines."""
    shutil.rmtree(options.folder, ignore_errors=True)
    options.folder.mkdir(parents=True)
    tables = public_tables(rows.select_dtypes("number"), {"types": neuron_types(rows)})
    with CaveServer(tables=tables) as cave, EmServer(latency_ms=options.latency_ms) as em:
        os.environ |= {TOKEN_VARIABLE: cave.token, SERVER_VARIABLE: cave.address}
        config = options.folder / "job.yaml"
        config.write_text(yaml.safe_dump(job(cave, em, options)))
        out = options.folder / "data"
        began = time.perf_counter()
        plan, _ = plan_dataset(load_job(config), out)
        predicted = plan.prediction
        room = shutil.disk_usage(options.folder).free
        if room < 1.2 * predicted.store_bytes:
            sys.exit(f"{options.folder}: {room / 1e9:.0f} GB free, too little")
        yield f"planned {plan.num_samples} of {len(rows)} in {time.perf_counter() - began:.1f} s"
        em.configure()
        run = Run(out, options.workers, plan.num_blocks)
        run.to_the_end(options.kills)
        finish_dataset(out)
        rate = plan.num_samples / run.seconds
        yield f"killed {dict(run.killed)}: {run.seconds:.0f} s in all, {rate:.1f} samples/s"
        yield f"peak memory: {run.memory()}"
        made, read = em.stats()["requests"], em.stats()["bytes"]
        yield (
            f"requests {made} ({made / predicted.requests - 1:+.1%} of those predicted), "
            f"bytes {read / 1e9:.2f} GB ({read / predicted.bytes - 1:+.1%})"
        )
        compared = compare(open_store(out), rows, em, options.check_every)
        yield f"complete and right: {len(rows)} samples by the table, {compared} by every voxel"
    shutil.rmtree(options.folder)


def job(cave: CaveServer, em: EmServer, options: argparse.Namespace) -> dict[str, Any]:
    """Return the job's config."""
    labels = {"source": "cave", "path": "types", "column": "cell_type"}
    return {
        "axes": "xyz",
        "volume": {"path": em.url},
        "cave": {
            "datastack": cave.datastack,
            "version": 1300,
            "server": cave.address,
            "cache": "answers",
        },
        "synapses": {"source": "cave", "path": cave.synapse_table},
        "labels": {"tables": [{**labels, "classes": {name: name for name in CLASSES}}]},
        "splits": {"overlap": "keep"},
        "samples": {
            "center": "ctr",
            "views": {"patch": {"size": options.patch}, "cube": {"size": options.cube}},
        },
        "cost": {"latency_ms": max(options.latency_ms, 1.0)},
    }


@dataclass
class Run:
    """`ingest run` in processes of its own, killed and started again until it is done."""

    out: Path
    workers: int
    num_blocks: int
    seconds: float = 0.0
    killed: Counter[str] = field(default_factory=Counter)
    peaks: dict[str, list[int]] = field(default_factory=dict)  # bytes, by kind of process

    def to_the_end(self, kills: int) -> None:
        """Run all blocks, killing `kills` times on the way."""
        rng = random.Random(0)
        began = time.perf_counter()
        for number in range(kills):
            process = self.start()
            kind = KILLS[number % len(KILLS)]
            self.wait(process, self.num_blocks * (number + 1) // (kills + 1))
            time.sleep(rng.uniform(0, 1))
            self.kill(process, kind)
            if kind == "worker":  # the others go on, and finish the dead one's blocks
                self.wait(process, min(self.done() + 4, self.num_blocks))
                self.kill(process, "all")
        process = self.start()
        self.wait(process, self.num_blocks)
        if process.wait():
            sys.exit("the last run failed")
        self.seconds = time.perf_counter() - began

    def start(self) -> "subprocess.Popen[bytes]":
        """Start a run in a session of its own."""
        command = [sys.executable, "-m", "ingest", "run", str(self.out), "--scheduler", "processes"]
        return subprocess.Popen(
            [*command, "--workers", str(self.workers)], start_new_session=True, stdout=-3
        )

    def done(self) -> int:
        """Return the number of blocks done."""
        return len(list((self.out / "blocks").glob("0*")))

    def wait(self, process: "subprocess.Popen[bytes]", blocks: int) -> None:
        """Wait until so many blocks are done, and watch the memory meanwhile."""
        while self.done() < blocks:
            if process.poll() is not None:
                sys.exit(f"a run ended at {self.done()} of {self.num_blocks} blocks")
            self.measure(process.pid)
            time.sleep(POLL_S)
        self.measure(process.pid)

    def measure(self, first: int) -> None:
        """Note the peak memory of each process of the run."""
        for pid, kind in processes(first).items():
            try:
                status = Path(f"/proc/{pid}/status").read_text()
            except FileNotFoundError:
                continue
            peak = next((line for line in status.splitlines() if line.startswith("VmHWM")), "")
            if peak:
                self.peaks.setdefault(kind, []).append(int(peak.split()[1]) << 10)

    def kill(self, process: "subprocess.Popen[bytes]", kind: str) -> None:
        """Kill all, the first process alone, or one worker; wait for the end of what ends."""
        found = processes(process.pid)
        workers = [pid for pid, what in found.items() if what == "worker"]
        targets = {"all": list(found), "first": [process.pid], "worker": workers[:1]}[kind]
        for pid in targets:
            os.kill(pid, signal.SIGKILL)
        self.killed[kind] += 1
        if kind == "worker":
            return
        process.wait()
        orphans = [psutil.Process(pid) for pid in found if psutil.pid_exists(pid)]
        psutil.wait_procs(orphans, timeout=PATIENCE_S)

    def memory(self) -> str:
        """Return the greatest peaks."""
        return ", ".join(f"{kind} {max(n) / 1e6:.0f} MB" for kind, n in sorted(self.peaks.items()))


def processes(first: int) -> dict[int, str]:
    """Return the processes of a run: its first one (`scheduler`), its workers."""
    found = {first: "scheduler"}
    for child in psutil.Process(first).children(recursive=True):
        try:
            if "spawn_main" in " ".join(child.cmdline()):
                found[child.pid] = "worker"
        except psutil.Error:
            continue
    return found


def compare(store: SampleStore, rows: pd.DataFrame, em: EmServer, every: int) -> int:
    """Compare a store with its table, and some of its images with the volume."""
    samples = store.samples.to_pandas()
    table = rows.set_index("id").loc[samples.synapse_id]
    assert sorted(samples.synapse_id) == sorted(rows.id), "not complete"
    assert (samples.pre_root_id.to_numpy() == table.pre_pt_root_id.to_numpy()).all()
    assert (np.array(CLASSES)[samples.label] == table.ei.to_numpy()).all()
    centers = [table[f"ctr_pt_position_{axis}"].to_numpy() for axis in "zyx"]
    center = np.stack(centers, axis=1) // (1, 2, 2)
    chosen = range(0, len(samples), every)
    for view, spec in store.dataset.views.items():
        depth, height, width = spec.shape[1:] if len(spec.shape) == 4 else (1, *spec.shape[1:])
        size = depth, height, width
        files = store.files(spec.view)
        for place in chosen:
            z, y, x = (int(n) for n in center[place] - np.array(size) // 2)
            found = files.read([int(samples.row[place])]).reshape(size)
            assert np.array_equal(found, em.voxels(0, (z, y, x), size)), (view, place)
    return len(chosen) * len(store.dataset.views)


if __name__ == "__main__":
    main()
