"""The text of an sbatch script, as a pure function of an `ArrayJob`.

A script keeps the record of its own task in FOLDER/tasks/STEP/TASK, one line
`STATE EXIT_CODE JOB_ID NODE`, so that status needs no accounting. STATE is `running`,
`done`, `failed` or `stopped` (ended by a signal from Slurm; it may have been queued again).
A command that ends with 75 (EX_TEMPFAIL), or with any error after the warning signal USR1, has
saved its work and is queued again; the same command then continues.
"""

import shlex
from collections.abc import Iterator

from slurm.job import ArrayJob

FIRST_PORT, NUM_PORTS = 20000, 10000  # below the ports that Linux gives out by itself

_PREAMBLE = """\
note() {
  printf '%s %s %s %s\\n' "$1" "$2" "$SLURM_JOB_ID" "$SLURMD_NODENAME" >"$record.tmp" &&
    mv -f -- "$record.tmp" "$record"
}
child='' signal=''
forward() {
  signal=$1
  [ -z "$child" ] || kill -s "$1" "$child" 2>/dev/null
}
finish() {
  code=$?
  if [ "$code" -eq 0 ]; then
    note done 0
  elif [ "$signal" = TERM ]; then # Slurm ends the job, and queues it again itself if it wants to
    note stopped "$code"
  elif [ "$signal" = USR1 ] || [ "$code" -eq 75 ]; then # the work is saved, and goes on later
    note stopped "$code"
    scontrol requeue "$SLURM_JOB_ID" || note failed "$code"
  else
    note failed "$code"
  fi
}
trap finish EXIT
trap 'forward TERM' TERM
trap 'forward USR1' USR1
note running 0
"""

_WAIT = """\
child=$!
while :; do # a signal interrupts wait, not the command
  wait "$child"
  kill -0 "$child" 2>/dev/null || break
done
wait "$child"
exit
"""

# One launcher per node. It ignores the signals, or it would end and take the trainer with it, which
# hears them itself.
_LAUNCHER = (
    'trap "" USR1 TERM; exec "$0" -m accelerate.commands.launch --machine_rank "$SLURM_PROCID" "$@"'
)

# Nobody said how many GPUs a node has: a training must not leave those that are there idle.
_NO_GPUS = """\
if [ -n "${SLURM_JOB_GPUS:-}" ] || nvidia-smi -L >/dev/null 2>&1; then
  echo "error: $SLURMD_NODENAME has GPUs, and nothing asked for them: submit again with" \\
    "--option train.gpus-per-node=N (0 trains on CPUs), or state gpus_per_node in the site" >&2
  exit 2
fi
"""


def render(job: ArrayJob) -> str:
    """Return the script that runs `job`; every word of a command reaches it as it was given."""
    parts = [_directives(job), _record(job), _PREAMBLE, _setup(job), _command(job), _launch(job)]
    return "\n".join((*parts, _WAIT))


def render_array(indices: list[int], limit: int | None) -> str:
    """Return the value of `--array` for sorted indices, such as `0-3,7%2`."""
    runs: list[list[int]] = []
    for index in indices:
        if runs and index == runs[-1][1] + 1:
            runs[-1][1] = index
        else:
            runs.append([index, index])
    spec = ",".join(f"{a}" if a == b else f"{a}-{b}" for a, b in runs)
    return spec if limit is None or limit >= len(indices) else f"{spec}%{limit}"


def log_path(job: ArrayJob, index: str) -> str:
    """Return the log of the task with this array index; "%a" gives sbatch's own pattern."""
    return f"{job.folder}/logs/{job.name}/{index}.log"


def _directives(job: ArrayJob) -> str:
    lines = {
        "job-name": job.step.name,
        "array": render_array(list(range(len(job.tasks))), job.step.limit),
        "chdir": str(job.workdir),
        "output": log_path(job, "%a"),
        "open-mode": "append",
        "requeue": "",
        **job.resources.options,
    }
    if lines.get("gpus-per-node") == "0":  # a Slurm that knows no GPUs would refuse even none
        del lines["gpus-per-node"]
    return "#!/bin/bash\n" + "".join(_directive(*line) for line in lines.items())


def _directive(name: str, value: str) -> str:
    if not value:
        return f"#SBATCH --{name}\n"
    if shlex.quote(value) != value:
        value = '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return f"#SBATCH --{name}={value}\n"


def _record(job: ArrayJob) -> str:
    folder = shlex.quote(f"{job.folder}/tasks/{job.step.name}")
    return f'task=$((SLURM_ARRAY_TASK_ID + {job.tasks.start}))\nrecord={folder}/"$task"\n'


def _setup(job: ArrayJob) -> str:
    lines = ("set -e", "export PYTHONUNBUFFERED=1", *job.environment.setup, "set +e")
    return "\n".join((*lines, '[ -z "$signal" ] || exit 75', ""))


def _command(job: ArrayJob) -> str:
    if job.step.parts:
        return f'command=({shlex.join(job.step.commands[0])} --task-index "$task")\n'
    if len(job.step.commands) == 1:
        return f"command=({shlex.join(job.step.commands[0])})\n"
    return "\n".join(("case $task in", *_cases(job), "esac", ""))


def _cases(job: ArrayJob) -> Iterator[str]:
    for task in job.tasks:
        yield f"  {task}) command=({shlex.join(job.step.commands[task])}) ;;"


def _launch(job: ArrayJob) -> str:
    container = shlex.join(job.environment.container) + " " * bool(job.environment.container)
    python = shlex.quote(job.environment.python)
    if job.step.launch == "batch":
        return f'{container}{python} "${{command[@]}}" &\n'
    return _accelerate(job, container, python)


def _accelerate(job: ArrayJob, container: str, python: str) -> str:
    num_nodes = job.resources.num_nodes
    multiple = " --multi_gpu" if job.num_ranks > 1 else ""
    gpus = job.resources.gpus_per_node
    processor = _NO_GPUS if gpus is None else ""
    processor += "" if gpus else "export ACCELERATE_USE_CPU=true\n"
    return f"""\
{processor}first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
address=$(scontrol show node "$first" --oneliner | sed -n 's/.* NodeAddr=\\([^ ]*\\).*/\\1/p')
srun --nodes={num_nodes} --ntasks={num_nodes} --kill-on-bad-exit=1 \\
  --cpus-per-task="${{SLURM_CPUS_PER_TASK:-$SLURM_CPUS_ON_NODE}}" \\
  {container}bash -c {shlex.quote(_LAUNCHER)} {python} \\
  --num_machines {num_nodes} --num_processes {job.num_ranks}{multiple} \\
  --mixed_precision no --dynamo_backend no --quiet \\
  --main_process_ip "${{address:-$first}}" \\
  --main_process_port $(({FIRST_PORT} + SLURM_JOB_ID % {NUM_PORTS})) "${{command[@]}}" &
"""
