"""SIGKILL at random moments, then the same command again: the same files, and nothing else.

    python benchmarks/kills.py [--command pack …] [--kills 12] [--seed 0] [--json kills.json]

Each command runs in a child process on a small job. It is killed after a random part of the
time that it takes, started again in the same folder and killed again, KILLS times, and then left to
end. What it leaves is compared with a run that nobody killed: the names of all files, and the bytes
of each file that two undisturbed runs leave alike (logs, times and reports hold the date). With
--twice, two of the same command start at once instead: one must end well, and the other too, or
with a line that says who holds the folder. Exit code 1 where anything differs.
"""

import argparse
import contextlib
import hashlib
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hostile.samples import write_small_job

from shards.command import run_command
from shards.files import TEMPORARY_PATTERN
from shards.locks import is_lock

TRAIN = ("cnn_2d", "--epochs", "3", "--batch-size", "8", "--width", "4", "--crop", "32", "32")
KEPT = ("--checkpoint-steps", "1", "--threads", "1", "--memory-format", "contiguous")
LIMIT_S = 120.0
DATE = re.compile(rb"\d{4}-\d\d-\d\d \d\d:\d\d UTC")  # on the page of a report


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command in the working folder: what it starts from, and the folder that it fills."""

    words: tuple[str, ...]
    start: str  # the stage that it starts from
    out: str


COMMANDS = {
    "plan": Command(words=("ingest", "plan", "job/job.yaml", "--out", "ds"), start="job", out="ds"),
    "ingest": Command(words=("ingest", "run", "ds"), start="plan", out="ds"),
    "ingest-processes": Command(
        words=("ingest", "run", "ds", "--scheduler", "processes", "--workers", "2"),
        start="plan",
        out="ds",
    ),
    "ingest-task": Command(
        words=("ingest", "run", "ds", "--task-index", "0", "--num-tasks", "1"),
        start="plan",
        out="ds",
    ),
    "finish": Command(words=("ingest", "finish", "ds"), start="ingest", out="ds"),
    "export-tiff": Command(
        words=("ingest", "export", "ds", "--tiff", "tiff"), start="finish", out="tiff"
    ),
    "pack": Command(
        words=(
            "shards",
            "pack",
            "ds",
            "--view",
            "patch",
            "--out",
            "set",
            "--samples-per-shard",
            "8",
        ),
        start="finish",
        out="set",
    ),
    "copy": Command(words=("shards", "copy", "set", "copied"), start="pack", out="copied"),
    "index": Command(words=("shards", "index", "bare"), start="bare", out="bare"),
    "train": Command(
        words=("trainer", *TRAIN, "--data", "set", "--out", "run", *KEPT), start="pack", out="run"
    ),
    "predict": Command(
        words=("trainer", "predict", "run", "--split", "val", "test"),
        start="train",
        out="run/predictions",
    ),
    "export": Command(words=("trainer", "export", "run", "model"), start="train", out="model"),
    "eval": Command(words=("eval", "run", "--out", "report"), start="predict", out="report"),
}


def main() -> int:
    """Print a row a command."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--command", nargs="*", choices=COMMANDS, default=list(COMMANDS), help="which"
    )
    parser.add_argument("--kills", type=int, default=12, help="of each command")
    parser.add_argument("--twice", action="store_true", help="start two at once instead")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--json", type=Path, help="file for the counts")
    asked = parser.parse_args()
    packages = {COMMANDS[name].words[0] for name in asked.command} | {"ingest"}
    multiprocessing.set_forkserver_preload([f"{package}.__main__" for package in packages])
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="kills-") as folder:
        stages = Stages(Path(folder))
        for name in asked.command:
            rng = random.Random(f"{asked.seed}:{name}")
            told = twice(stages, name) if asked.twice else killed(stages, name, asked.kills, rng)
            result[name] = told
            print(f"{name:18}" + "  ".join(f"{k} {v}" for k, v in told.items()), flush=True)
    if asked.json:
        asked.json.write_text(json.dumps(result, indent=2) + "\n")
    return int(any(told["faults"] for told in result.values()))


class Stages:
    """What each command leaves, made once; the working folder is always the same path."""

    def __init__(self, folder: Path) -> None:
        self.work, self._kept = folder / "work", folder / "kept"
        self.seconds: dict[str, float] = {}

    def open(self, stage: str) -> None:
        """Make the working folder what `stage` left."""
        if not (self._kept / stage).exists():
            self._make(stage)
        shutil.rmtree(self.work, ignore_errors=True)
        shutil.copytree(self._kept / stage, self.work, symlinks=True)

    def start(self, name: str) -> Any:
        """Start a command in the working folder."""
        context = multiprocessing.get_context("forkserver")
        child = context.Process(target=_run, args=(self.work, COMMANDS[name].words))
        child.start()
        return child

    def _make(self, stage: str) -> None:
        if stage == "job":
            shutil.rmtree(self.work, ignore_errors=True)
            write_small_job(self.work / "job")
        elif stage == "bare":
            self.open("pack")
            bare = self.work / "bare"
            bare.mkdir()
            for tar in (self.work / "set").glob("*.tar"):
                shutil.copy(tar, bare)
        else:
            self.open(COMMANDS[stage].start)
            begin = time.monotonic()
            self._do(COMMANDS[stage].words)
            self.seconds[stage] = time.monotonic() - begin
        shutil.copytree(self.work, self._kept / stage, symlinks=True)

    def _do(self, words: tuple[str, ...]) -> None:
        context = multiprocessing.get_context("forkserver")
        child = context.Process(target=_run, args=(self.work, words))
        child.start()
        child.join(LIMIT_S)
        if child.exitcode != 0:
            child.kill()
            raise RuntimeError(f"{' '.join(words)} ended with {child.exitcode}: {said(self.work)}")


def killed(stages: Stages, name: str, kills: int, rng: random.Random) -> dict[str, Any]:
    """Kill a command so many times, let it end, and compare."""
    right, alike, seconds = reference(stages, name)
    counts = {"kills": 0, "faults": 0}
    first = ""
    while counts["kills"] < kills:
        stages.open(COMMANDS[name].start)
        for _ in range(rng.choice((1, 2, 3))):
            child = stages.start(name)
            child.join(rng.random() * seconds * 1.1)
            if child.exitcode is None:
                os.kill(child.pid, signal.SIGKILL)
                counts["kills"] += 1
            child.join()
        child = stages.start(name)
        child.join(LIMIT_S)
        fault = "hangs" if child.exitcode is None else said(stages.work) * bool(child.exitcode)
        end_group(child)
        fault = fault or difference(files(name, stages.work), right, alike)
        counts["faults"] += bool(fault)
        first = first or fault
    return {**counts, "seconds": round(seconds, 1)} | ({"first": first} if first else {})


def twice(stages: Stages, name: str) -> dict[str, Any]:
    """Start two of a command at once and compare."""
    right, alike, _ = reference(stages, name)
    stages.open(COMMANDS[name].start)
    children = [stages.start(name) for _ in range(2)]
    for child in children:
        child.join(LIMIT_S)
    codes = sorted(-1 if child.exitcode is None else child.exitcode for child in children)
    for child in children:
        end_group(child)
    fault = difference(files(name, stages.work), right, alike)
    told = said(stages.work)
    if codes not in ([0, 0], [0, 1]) or (codes == [0, 1] and "is being written by" not in told):
        fault = f"exit codes {codes}: {told}"
    outcome = "both end well" if codes == [0, 0] else "the second says who holds it"
    return {"outcome": outcome, "faults": int(bool(fault))} | ({"first": fault} if fault else {})


def reference(stages: Stages, name: str) -> tuple[dict[str, str], set[str], float]:
    """Return the files of an undisturbed run, those that two such runs leave alike, its time."""
    runs = []
    for _ in range(2):
        stages.open(COMMANDS[name].start)
        begin = time.monotonic()
        child = stages.start(name)
        child.join(LIMIT_S)
        seconds = time.monotonic() - begin
        if child.exitcode != 0:
            raise RuntimeError(f"{name} ended with {child.exitcode}: {said(stages.work)}")
        runs.append(files(name, stages.work))
    return (
        runs[0],
        {path for path, digest in runs[0].items() if runs[1].get(path) == digest},
        seconds,
    )


def files(name: str, work: Path) -> dict[str, str]:
    """Return the SHA-256 of each file that a command left, by path, hidden ones included.

    Unfinished files of one of several tasks are left out: others may be writing, and `finish`
    removes them.
    """
    folder, shared = work / COMMANDS[name].out, name == "ingest-task"
    return {
        str(path.relative_to(folder)): hashlib.sha256(DATE.sub(b"", path.read_bytes())).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not is_lock(path) and not (shared and path.match(TEMPORARY_PATTERN))
    }


def difference(found: dict[str, str], right: dict[str, str], alike: set[str]) -> str:
    """Say what differs, or nothing."""
    names = {_stable(name) for name in found} ^ {_stable(name) for name in right}
    bytes_ = [name for name in sorted(alike & found.keys()) if found[name] != right[name]]
    parts = [f"files {', '.join(sorted(names)[:4])}"] * bool(names)
    return "; ".join(parts + [f"bytes of {', '.join(bytes_[:4])}"] * bool(bytes_))


def _stable(name: str) -> str:
    """Return a name without the time and process in those of TensorBoard's logs."""
    return "events" if "tfevents" in name else name


def said(work: Path) -> str:
    """Return the last line that a command said."""
    path = work / "said.txt"
    lines = path.read_text(errors="replace").strip().splitlines() if path.exists() else []
    errors = [line for line in lines if line.startswith("error: ")]
    return (errors or lines or [""])[-1]


def end_group(child: Any) -> None:
    """End whatever a command left running."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    child.join()


def _run(work: Path, words: tuple[str, ...]) -> None:
    from importlib import import_module

    os.setsid()
    os.chdir(work)
    with open("said.txt", "a", buffering=1) as file:  # noqa: PTH123 - in the working folder
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    package, *arguments = words
    sys.exit(run_command(import_module(f"{package}.__main__").main, arguments))


if __name__ == "__main__":
    sys.exit(main())
