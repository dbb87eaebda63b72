"""sbatch's long options: which there are, which exclude each other, and how layers merge."""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, combinations

Options = Mapping[str, str]  # by long name; a flag such as `exclusive` has ""

SBATCH_OPTIONS = frozenset(
    re.findall(
        r"\S+",
        """account acctg-freq batch bb bbf begin burst-buffer cluster-constraint clusters comment
    constraint container contiguous core-spec cores-per-socket cpu-freq cpus-per-gpu cpus-per-task
    deadline delay-boot distribution exclude exclusive export export-file extra-node-info
    get-user-env gpu-bind gpu-freq gpus gpus-per-node gpus-per-socket gpus-per-task gres gres-flags
    hint hold ignore-pbs licenses mail-type mail-user mem mem-bind mem-per-cpu mem-per-gpu mincpus
    network nice no-kill nodefile nodelist nodes ntasks ntasks-per-core ntasks-per-gpu
    ntasks-per-node ntasks-per-socket oom-kill-step overcommit oversubscribe partition power prefer
    priority profile propagate qos quiet reboot reservation signal sockets-per-node spread-job
    switches thread-spec threads-per-core time time-min tmp tres-bind tres-per-task uid
    use-min-nodes wait-all-nodes wckey""",
    )
)
OWN_OPTIONS = frozenset(
    re.findall(
        r"\S+",
        """array chdir dependency error input job-name kill-on-invalid-dep no-requeue open-mode
    output parsable requeue test-only wait wrap""",
    )
)
# Options that stand without a value; "" gives one, and OFF takes it away.
FLAGS = frozenset(
    re.findall(
        r"\S+",
        """contiguous exclusive get-user-env hold ignore-pbs nice no-kill overcommit oversubscribe
    propagate quiet reboot spread-job use-min-nodes""",
    )
)
OFF = "false"
# What sbatch calls mutually exclusive, or what asks for the same thing in several ways.
GPU_OPTIONS = ("gpus-per-node", "gres", "gpus", "gpus-per-task", "gpus-per-socket", "tres-per-task")
EXCLUSIVE_GROUPS = (
    ("mem", "mem-per-cpu", "mem-per-gpu"),
    ("cpus-per-task", "cpus-per-gpu"),
    ("core-spec", "thread-spec"),
    ("exclusive", "oversubscribe"),
    ("spread-job", "use-min-nodes"),
    ("spread-job", "contiguous"),
    ("extra-node-info", "sockets-per-node"),
    ("extra-node-info", "cores-per-socket"),
    ("extra-node-info", "threads-per-core"),
    ("hint", "ntasks-per-core"),
    ("hint", "threads-per-core"),
    ("hint", "extra-node-info"),
    ("ntasks-per-gpu", "gpus-per-task"),
    ("ntasks-per-gpu", "gpus-per-socket"),
    ("ntasks-per-gpu", "ntasks-per-node"),
)
EXCLUSIVE_PAIRS = frozenset(
    frozenset(pair) for pair in chain.from_iterable(combinations(g, 2) for g in EXCLUSIVE_GROUPS)
)


def merged(layers: Sequence[Options]) -> dict[str, str]:
    """Return the options of all layers: a later one replaces those that it excludes.

    An empty value of an option that is no flag, and OFF of a flag, take the option away.
    """
    result: dict[str, str] = {}
    for layer in layers:
        check_layer(layer)
        for name, value in layer.items():
            if value == (OFF if name in FLAGS else ""):
                result.pop(name, None)
                continue
            result = {n: v for o, p in result.items() for n, v in _beside(o, p, name, value)}
            result[name] = value
    return result


def check_layer(layer: Options) -> None:
    """Refuse two options of one source that exclude each other."""
    given = [name for name, value in layer.items() if value or name in FLAGS]
    for one, other in combinations(given, 2):
        both_gpus = None not in (num_gpus(one, layer[one]), num_gpus(other, layer[other]))
        if both_gpus or frozenset((one, other)) in EXCLUSIVE_PAIRS:
            raise ValueError(f"sbatch options {one} and {other} exclude each other; give one")


def num_gpus(name: str, value: str) -> int | None:
    """Return how many GPUs an option asks for: `4`, `a40:2`, `gres/gpu:a40:2`; None if it does not.

    Options that are for GPUs alone, as `gpus-per-node` is, always ask for a number, which may be 0.
    """
    if name not in GPU_OPTIONS:
        return None
    if name not in ("gres", "tres-per-task"):
        return _count(value)
    counts = [_count(item) for item in value.split(",") if _is_gpu(item)]
    return sum(counts) if counts else 0 if value == "none" else None


def _beside(name: str, value: str, new: str, new_value: str) -> Iterator[tuple[str, str]]:
    """Yield what of an option stays beside a new one; of `gres`, what is not for GPUs."""
    if name == new or None in (num_gpus(name, value), num_gpus(new, new_value)):
        if frozenset((name, new)) not in EXCLUSIVE_PAIRS:
            yield name, value
    elif name in ("gres", "tres-per-task"):
        others = [item for item in value.split(",") if not _is_gpu(item) and item != "none"]
        if others:
            yield name, ",".join(others)


def _is_gpu(item: str) -> bool:
    """Return true for an item of `gres` or `tres-per-task` for GPUs: gpu:2, gres/gpu:a40=2."""
    return bool(re.match(r"(gres[/:])?gpu\b", item))


def _count(item: str) -> int:
    last = re.split(r"[:=]", item)[-1]
    return int(last) if last.isdecimal() else 1
