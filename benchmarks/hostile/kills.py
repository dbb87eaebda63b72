"""SIGKILL at random moments, then the same command again: the same files, and nothing else.

    python benchmarks/hostile/kills.py [--command pack …] [--kills 12] [--twice] [--json FILE]

Each command runs in a child process on a small job, with a copy of the code as it was at the start.
It is killed after a random part of the time that it takes, started again in the same folder, up to
three times, and then left to end, until it was killed KILLS times; what follows it (`finish` after
the tasks of an array) runs undisturbed. The whole working folder is compared with that
of a run that nobody killed: the names of files, folders and links, where links lead, and the bytes
of all files that two undisturbed runs leave alike; the others are listed. Left out are locks, which
hold nothing without a process, the minute on the page of a report, and speeds in metrics.jsonl.
TensorBoard's files count as one, whatever their number: each start of a training adds one.

With --twice, two of the same command also start at once: one must end well, and the other too, or
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

from benchmarks.hostile.samples import write_small_job
from shards.cli.command import run_command
from shards.storage.locks import is_lock

PACKAGES = ("shards", "ingest", "eval", "trainer")
SAID = "said.txt"  # what commands print
LIMIT_S = 120.0
VARYING = re.compile(
    rb"\d{4}-\d\d-\d\d \d\d:\d\d UTC"  # on the page of a report
    rb'|"(samples_per_s|wait_share)": [^,}]+'  # in metrics.jsonl
)


@dataclass(frozen=True)
class Command:
    """A command in the working folder: its words, and the stage that it starts from."""

    line: str
    start: str
    then: tuple[str, ...] = ()  # commands that follow it undisturbed


COMMANDS = {
    "plan": Command("ingest plan job/job.yaml --out ds", "job"),
    "ingest": Command("ingest run ds", "plan"),
    "ingest-processes": Command("ingest run ds --scheduler processes --workers 2", "plan"),
    "ingest-task": Command(
        "ingest run ds --task-index 0 --num-tasks 2",
        "plan",
        then=("ingest run ds --task-index 1 --num-tasks 2", "ingest finish ds"),
    ),
    "finish": Command("ingest finish ds", "ingest"),
    "export-tiff": Command("ingest export ds --tiff tiff", "finish"),
    "pack": Command("shards pack ds --view patch --out set --samples-per-shard 8", "finish"),
    "copy": Command("shards copy set copied", "pack"),
    "index": Command("shards index bare", "bare"),
    "train": Command(
        "trainer cnn_2d --epochs 3 --batch-size 8 --width 4 --crop 32 32 --data set --out run "
        "--checkpoint-steps 1 --threads 1 --memory-format contiguous",
        "pack",
    ),
    "predict": Command("trainer predict run --split val test", "train"),
    "export": Command("trainer export run model", "train"),
    "eval": Command("eval run --out report", "predict"),
}


def main() -> int:
    """Print a row a command."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--command", nargs="*", choices=COMMANDS, default=list(COMMANDS), help="which"
    )
    parser.add_argument("--kills", type=int, default=12, help="of each command")
    parser.add_argument("--twice", action="store_true", help="start two at once as well")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--json", type=Path, help="file for the counts")
    asked = parser.parse_args()
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="kills-") as made:
        folder = Path(made)
        _use_copy(folder / "code")
        packages = {COMMANDS[name].line.split()[0] for name in asked.command} | {"ingest"}
        multiprocessing.set_forkserver_preload([f"{package}.__main__" for package in packages])
        stages = Stages(folder)
        for name in asked.command:
            undisturbed = reference(stages, name)
            rng = random.Random(f"{asked.seed}:{name}")
            told = killed(stages, name, undisturbed, asked.kills, rng)
            if asked.twice:
                outcome, fault = twice(stages, name, undisturbed)
                told["twice"] = outcome
                told["faults"] += [fault] * bool(fault)
            told["not compared"] = undisturbed.unlike
            result[name] = told
            print(f"{name:18}" + "  ".join(f"{k} {v}" for k, v in told.items()), flush=True)
    if asked.json:
        asked.json.write_text(json.dumps(result, indent=2) + "\n")
    return int(any(told["faults"] for told in result.values()))


def _use_copy(code: Path) -> None:
    """Let the children import a copy of the packages, which no edit and no commit changes."""
    for package in PACKAGES:
        source = Path(__file__).parents[2] / package
        shutil.copytree(source, code / package, ignore=shutil.ignore_patterns("__pycache__"))
    sys.path.insert(0, str(code))
    os.environ["PYTHONPATH"] = str(code)


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What an undisturbed run leaves, by path, and how long it takes."""

    files: dict[str, str]
    unlike: list[str]  # files whose bytes differ in another undisturbed run
    seconds: float

    def difference(self, found: dict[str, str]) -> str:
        """Say what differs, or nothing."""
        names = {_stable(name) for name in found} ^ {_stable(name) for name in self.files}
        alike = (self.files.keys() & found.keys()) - set(self.unlike)
        bytes_ = sorted(name for name in alike if found[name] != self.files[name])
        parts = [f"files {', '.join(sorted(names)[:4])}"] * bool(names)
        return "; ".join(parts + [f"bytes of {', '.join(bytes_[:4])}"] * bool(bytes_))


class Stages:
    """What each command leaves, made once; the working folder is always the same path."""

    def __init__(self, folder: Path) -> None:
        self.work, self._kept = folder / "work", folder / "kept"

    def open(self, stage: str) -> None:
        """Make the working folder what `stage` left."""
        if not (self._kept / stage).exists():
            self._make(stage)
            shutil.copytree(self.work, self._kept / stage, symlinks=True)
        else:
            shutil.rmtree(self.work, ignore_errors=True)
            shutil.copytree(self._kept / stage, self.work, symlinks=True)

    def start(self, line: str) -> Any:
        """Start a command in the working folder."""
        context = multiprocessing.get_context("forkserver")
        child = context.Process(target=_run, args=(self.work, line))
        child.start()
        return child

    def do(self, *lines: str) -> str:
        """Let commands end, one after the other; return what went wrong, or nothing."""
        for line in lines:
            child = self.start(line)
            child.join(LIMIT_S)
            code = child.exitcode
            end_group(child)
            if code != 0:
                return f"`{line}` " + ("hangs" if code is None else f"says {said(self.work)}")
        return ""

    def _make(self, stage: str) -> None:
        if stage == "job":
            write_small_job(self.work / "job")
        elif stage == "bare":
            self.open("pack")
            (self.work / "bare").mkdir()
            for tar in (self.work / "set").glob("*.tar"):
                shutil.copy(tar, self.work / "bare")
        else:
            command = COMMANDS[stage]
            self.open(command.start)
            if fault := self.do(command.line, *command.then):
                raise RuntimeError(fault)


def reference(stages: Stages, name: str) -> Reference:
    """Run a command undisturbed, twice."""
    command = COMMANDS[name]
    stages.open(name)
    first = files(stages.work)
    stages.open(command.start)
    begin = time.monotonic()
    fault = stages.do(command.line)
    seconds = time.monotonic() - begin
    if fault := fault or stages.do(*command.then):
        raise RuntimeError(fault)
    again = files(stages.work)
    unlike = sorted(path for path, digest in first.items() if again.get(path) != digest)
    return Reference(files=first, unlike=unlike, seconds=seconds)


def killed(
    stages: Stages, name: str, right: Reference, kills: int, rng: random.Random
) -> dict[str, Any]:
    """Kill a command so many times, let it end, and compare."""
    command = COMMANDS[name]
    count, faults = 0, []
    while count < kills:
        stages.open(command.start)
        for _ in range(rng.choice((1, 2, 3))):
            child = stages.start(command.line)
            child.join(rng.random() * right.seconds * 1.1)
            if child.exitcode is None:
                os.kill(child.pid, signal.SIGKILL)
                count += 1
            child.join()
        fault = stages.do(command.line, *command.then)
        if fault := fault or right.difference(files(stages.work)):
            faults.append(fault)
    return {"kills": count, "seconds": round(right.seconds, 1), "faults": faults}


def twice(stages: Stages, name: str, right: Reference) -> tuple[str, str]:
    """Start two of a command at once; return what came of them, and what went wrong."""
    command = COMMANDS[name]
    stages.open(command.start)
    children = [stages.start(command.line) for _ in range(2)]
    for child in children:
        child.join(LIMIT_S)
    codes = sorted(-1 if child.exitcode is None else child.exitcode for child in children)
    for child in children:
        end_group(child)
    told = said(stages.work)
    if codes not in ([0, 0], [0, 1]) or (codes == [0, 1] and "is being written by" not in told):
        return "", f"exit codes {codes}: {told}"
    outcome = "both end well" if codes == [0, 0] else "the second says who holds it"
    return outcome, stages.do(*command.then) or right.difference(files(stages.work))


def files(work: Path) -> dict[str, str]:
    """Return what commands left, by path, hidden ones included: digests, and where links lead."""
    return {
        str(path.relative_to(work)): _content(path)
        for path in sorted(work.rglob("*"))
        if not is_lock(path) and path.name != SAID
    }


def _content(path: Path) -> str:
    if path.is_symlink():
        return f"link to {path.readlink()}"
    if path.is_dir():
        return "folder"
    return hashlib.sha256(VARYING.sub(b"", path.read_bytes())).hexdigest()


def _stable(name: str) -> str:
    """Return a name without the time and process in those of TensorBoard's files."""
    return "events" if "tfevents" in name else name


def said(work: Path) -> str:
    """Return the last line that a command said."""
    path = work / SAID
    lines = path.read_text(errors="replace").strip().splitlines() if path.exists() else []
    errors = [line for line in lines if line.startswith("error: ")]
    return (errors or lines or [""])[-1]


def end_group(child: Any) -> None:
    """End whatever a command left running."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    child.join()


def _run(work: Path, line: str) -> None:
    from importlib import import_module

    os.setsid()
    os.chdir(work)
    with open(SAID, "a", buffering=1) as file:  # noqa: PTH123 - in the working folder
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    package, *arguments = line.split()
    sys.exit(run_command(import_module(f"{package}.__main__").main, arguments))


if __name__ == "__main__":
    sys.exit(main())
