"""The only place that calls Slurm: sbatch, squeue, scancel and scontrol, never sacct."""

import re
import shlex
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

Task = tuple[str, int]  # an array's job id and the index in it
TIMEOUT_S = 120


@dataclass(frozen=True, kw_only=True, slots=True)
class Queued:
    """A task that has not ended, as squeue reports it."""

    state: str
    reason: str

    @property
    def is_running(self) -> bool:
        """True if it holds a node now."""
        return self.state not in {"PENDING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT"}


def sbatch_command(script: Path, *, dependency: str, array: str | None) -> list[str]:
    """Return the command that submits `script`; `array` replaces the one in the script."""
    command = ["sbatch", "--parsable"]
    if dependency:
        command += [f"--dependency={dependency}", "--kill-on-invalid-dep=yes"]
    if array is not None:
        command.append(f"--array={array}")
    return [*command, str(script)]


def sbatch(command: Sequence[str]) -> str:
    """Run the `sbatch_command` and return the job id."""
    return _call(command).strip().split(";")[0]


def read_queue(job_ids: Sequence[str]) -> dict[Task, Queued]:
    """Return the tasks of these array jobs that have not ended; ids Slurm forgot are none."""
    if not job_ids:
        return {}
    command = ["squeue", "--noheader", "--array", f"--jobs={','.join(job_ids)}"]
    result = _run([*command, "--format=%F|%K|%T|%r"])
    if result.returncode and "Invalid job id" not in result.stderr:
        raise ValueError(_failure(command, result))
    queue: dict[Task, Queued] = {}
    for line in result.stdout.splitlines():
        job_id, index, state, reason = line.split("|", 3)
        queue[job_id, int(index)] = Queued(state=state, reason=reason)
    return queue


def scancel(job_ids: Iterable[str]) -> None:
    """Take these jobs out of the queue, with all their tasks."""
    if ids := sorted(set(job_ids)):
        _call(["scancel", *ids])


def max_array_size() -> int:
    """Return Slurm's MaxArraySize: array indices stay below it."""
    match = re.search(r"^MaxArraySize\s*=\s*(\d+)", _call(["scontrol", "show", "config"]), re.M)
    if not match:
        raise ValueError(
            "scontrol show config shows no MaxArraySize: is this Slurm 20.02 or newer?"
        )
    return int(match[1])


def _call(command: Sequence[str]) -> str:
    result = _run(command)
    if result.returncode:
        raise ValueError(_failure(command, result))
    return result.stdout


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except FileNotFoundError:
        raise ValueError(
            f"{command[0]} is not installed here: run this on a login node of your cluster, or add "
            "--dry-run to see what would be submitted"
        ) from None
    except subprocess.TimeoutExpired:
        raise ValueError(
            f"{command[0]} gave no answer in {TIMEOUT_S} s: ask sinfo whether the controller is up"
        ) from None


def _failure(command: Sequence[str], result: subprocess.CompletedProcess[str]) -> str:
    message = " ".join(result.stderr.split()) or f"exit code {result.returncode}"
    submits = command[0] == "sbatch"
    cure = "correct the --option or the site file" if submits else "ask sinfo whether Slurm is up"
    return f"{shlex.join(command)} failed: {message}; {cure}"
