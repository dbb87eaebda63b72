"""How threads of OpenMP that wait for each other should do so: alone, and on a shared machine.

    python benchmarks/trainer/openmp_waiting.py [--rounds 5] [--steps 4] [--busy 2]

Processes train `unet3d_small` on made-up cubes of the demo's size, one process for each policy,
in turns of some steps: alone, then beside busy loops. A turn in which other programs took over a
tenth of the processor does not count, and is repeated until --minutes are over. Figures are medians
of turns; peers wait for theirs asleep.
"""

import argparse
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

POLICIES: dict[str, dict[str, str]] = {
    "torch's default": {},
    "OMP_WAIT_POLICY=passive": {"OMP_WAIT_POLICY": "passive"},
    "GOMP_SPINCOUNT=0": {"GOMP_SPINCOUNT": "0"},
    "GOMP_SPINCOUNT=1000": {"GOMP_SPINCOUNT": "1000"},
    "GOMP_SPINCOUNT=10000": {"GOMP_SPINCOUNT": "10000"},
    "GOMP_SPINCOUNT=100000": {"GOMP_SPINCOUNT": "100000"},
}
SIZE = (32, 128, 128)  # of a cube of the demo


class Trainer:
    """A process that trains some steps whenever it is told to."""

    def __init__(self, settings: dict[str, str], batch_size: int) -> None:
        names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS")
        environment = {name: value for name, value in os.environ.items() if name not in names}
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--steps-of", str(batch_size)],
            env={**environment, **settings},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, steps: int) -> tuple[float, float]:
        """Train; return seconds by the clock and of the processor."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        clock, processor = self.process.stdout.readline().split()
        return float(clock), float(processor)

    def end(self) -> None:
        """Let the process end."""
        self.process.communicate()


@contextmanager
def busy_loops(number: int) -> Iterator[None]:
    """Other people's work: processes that never wait."""
    command = [sys.executable, "-c", "while True: pass"]
    loops = [subprocess.Popen(command) for _ in range(number)]
    try:
        time.sleep(0.3 if number else 0)
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def train_when_told(batch_size: int) -> None:
    """Train as many steps as each line of standard input says; print how long they took."""
    import torch
    from torch.nn.functional import cross_entropy

    from shards.contract.schema import ImageSpec
    from trainer.models.classifier import Inputs, build_classifier
    from trainer.models.memory_format import to_memory_format
    from trainer.recipes import RECIPES
    from trainer.train.optim import build_optimizer

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    image = ImageSpec(shape=(1, *SIZE), dtype="uint8", channels=("em",), voxel_size_nm=(40, 8, 8))
    inputs = Inputs(image=image, class_names=("a", "b"), mean=(128.0,), std=(40.0,))
    config = RECIPES["unet3d_small"]()
    crop = config.crop or SIZE
    net = build_classifier(config, inputs)[0]
    to_memory_format(net, "channels_last")
    optimizer = build_optimizer(config, net, torch.device("cpu"))
    x = torch.randint(0, 256, (batch_size, 1, *crop), dtype=torch.uint8)
    labels = torch.arange(batch_size) % 2
    for line in sys.stdin:
        start, processor = time.perf_counter(), time.process_time()
        for _ in range(int(line)):
            cross_entropy(net(x), labels).backward()
            optimizer.step()
            optimizer.zero_grad()
        print(time.perf_counter() - start, time.process_time() - processor, flush=True)


class Turns:
    """The turns of one policy that count: seconds of a step by the clock and of the processor."""

    def __init__(self, trainer: Trainer, steps: int, busy: int) -> None:
        self.trainer, self.steps, self.busy = trainer, steps, busy
        self.seconds: list[tuple[float, float]] = []

    def take(self) -> None:
        """Take a turn; remember it if other programs left the processor alone."""
        with busy_loops(self.busy):
            before = _used_by_all()
            clock, own = self.trainer.run(self.steps)
            others = _used_by_all() - before - own
        if self.busy or others < 0.1 * clock * len(os.sched_getaffinity(0)):
            self.seconds.append((clock / self.steps, own / self.steps))

    def median(self, of: int) -> float:
        """Return the clock's (0) or the processor's (1) seconds of a step."""
        return statistics.median(turn[of] for turn in self.seconds) if self.seconds else math.nan


def _used_by_all() -> float:
    """Return the processor time, in seconds, that all programs of the machine have used."""
    words = Path("/proc/stat").read_text().splitlines()[0].split()
    user, nice, system = map(int, words[1:4])
    return (user + nice + system) / os.sysconf("SC_CLK_TCK")


def compare(options: argparse.Namespace) -> None:
    """Print a table of Markdown: a row per policy."""
    trainers = {name: Trainer(also, options.batch_size) for name, also in POLICIES.items()}
    for trainer in trainers.values():
        trainer.run(2)
    alone = {name: Turns(trainer, options.steps, 0) for name, trainer in trainers.items()}
    beside = {name: Turns(t, options.steps, options.busy) for name, t in trainers.items()}
    end = time.monotonic() + 60 * options.minutes
    while time.monotonic() < end and _fewest(alone) < options.rounds:
        for turns in alone.values():
            turns.take()
    while time.monotonic() < end and _fewest(beside) < options.rounds:
        for turns in beside.values():
            turns.take()
    for trainer in trainers.values():
        trainer.end()
    first = alone[next(iter(POLICIES))]
    print("| policy | turns | step alone | by the default's | processor time | beside by alone |")
    print("|---|---|---|---|---|---|")
    for name, turns in alone.items():
        cells = [
            f"{len(turns.seconds)}",
            f"{turns.median(0) * 1e3:.0f} ms",
            f"{turns.median(0) / first.median(0):.2f}",
            f"{turns.median(1) / first.median(1):.2f}",
            f"{beside[name].median(0) / turns.median(0):.2f}",
        ]
        print(f"| {name} | {' | '.join(cells)} |")


def _fewest(turns: dict[str, Turns]) -> int:
    return min(len(one.seconds) for one in turns.values())


def main() -> None:
    """Read the arguments."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--busy", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--steps-of", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.steps_of:
        train_when_told(options.steps_of)
    else:
        compare(options)


if __name__ == "__main__":
    main()
