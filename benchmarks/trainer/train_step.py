"""What a training step costs, and how much of a run is waiting for data.

    python benchmarks/trainer/train_step.py step [--recipes r3d_18 …] [--no-bf16] [--compile]
    python benchmarks/trainer/train_step.py wait r3d_18 CUBES [--batch-size 2] [--steps 8]

`step` times forward, backward and optimiser of each recipe's model on made-up images, on the GPU or
else the CPU: float32 contiguous, and channels_last in float32 and bf16, in turns; figures are
medians. `wait` trains a recipe on a shard set until so many steps are logged, stops it as a
scheduler would, and prints the share of the time that it waited for images, but for the first step.
"""

import argparse
import json
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

from shards.contract.schema import ImageSpec
from trainer.config import Config
from trainer.models.classifier import Inputs, build_classifier
from trainer.models.memory_format import to_memory_format
from trainer.recipes import RECIPES
from trainer.train.optim import build_optimizer

MODELS = (
    "resnet18_2d", "resnet50_2d", "cnn_2d", "unet3d_small", "unet3d", "r3d_18", "mc3_18",
    "r2plus1d_18", "resnet18_3d", "vgg3d",
)  # fmt: skip
KINDS = ("float32 contiguous", "float32 channels_last", "bf16 channels_last")
COMPILED = "bf16 channels_last compiled"


class Step:
    """One recipe's training step at one of `KINDS`."""

    def __init__(self, config: Config, x: torch.Tensor, kind: str) -> None:
        torch.manual_seed(0)
        image = ImageSpec(
            shape=tuple(x.shape[1:]), dtype="uint8", channels=("em",), voxel_size_nm=(40, 8, 8)
        )
        inputs = Inputs(image=image, class_names=("a", "b"), mean=(128.0,), std=(40.0,))
        net: nn.Module = build_classifier(config, inputs)[0].to(x.device)
        to_memory_format(net, "channels_last" if "channels_last" in kind else "contiguous")
        self.net, self.x, self.bf16 = net, x, "bf16" in kind
        self.optimizer = build_optimizer(config, net, x.device)
        labels = torch.arange(len(x), device=x.device) % 2
        self.labels = labels
        if "compiled" in kind:
            net.compile()

    def run(self) -> float:
        """Do a step; return its seconds."""
        _wait(self.x)
        start = time.perf_counter()
        self.optimizer.zero_grad()
        with torch.autocast(self.x.device.type, torch.bfloat16, enabled=self.bf16):
            loss = cross_entropy(self.net(self.x), self.labels)
        torch.autograd.backward(loss)
        self.optimizer.step()
        _wait(self.x)
        return time.perf_counter() - start


def _wait(x: torch.Tensor) -> None:
    if x.is_cuda:
        torch.cuda.synchronize()


def time_steps(options: argparse.Namespace) -> None:
    """Print a line of Markdown a recipe."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    what = (
        torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} threads"
    )
    print(f"{device}, {what}, torch {torch.__version__}, batch {options.batch_size}\n")
    kinds = [*KINDS[: 3 if options.bf16 else 2], *[COMPILED] * options.compile]
    heads = ["recipe", "images", "parameters", *kinds]
    heads += [f"first by {kind}" for kind in kinds[1:]] + ["images/s at best"]
    heads += ["share of peak"] * bool(options.peak_tflops)
    print(f"| {' | '.join(heads)} |\n{'|---' * len(heads)}|")
    for name in options.recipes:
        print(f"| {' | '.join(_row(name, kinds, device, options))} |", flush=True)


def _row(name: str, kinds: list[str], device: str, options: argparse.Namespace) -> list[str]:
    recipe = RECIPES[name]()
    size = tuple(options.patch if recipe.view == "patch" else options.cube)
    config = replace(recipe, weights="none", crop=size)
    x = torch.randint(0, 256, (options.batch_size, 1, *size), dtype=torch.uint8, device=device)
    steps = [Step(config, x, kind) for kind in kinds]
    with FlopCounterMode(display=False) as flops:
        steps[0].run()
    for step in steps[1:]:
        step.run()
    columns = zip(*([step.run() for step in steps] for _ in range(options.rounds)), strict=True)
    seconds = [statistics.median(column) for column in columns]
    parameters = sum(p.numel() for p in steps[0].net.parameters())
    cells = [name, "×".join(map(str, size)), f"{parameters / 1e6:.1f} M"]
    cells += [f"{value * 1e3:.0f} ms" for value in seconds]
    cells += [f"{seconds[0] / value:.2f}" for value in seconds[1:]]
    cells.append(f"{len(x) / min(seconds):.1f}")
    if options.peak_tflops:
        cells.append(f"{flops.get_total_flops() / min(seconds) / options.peak_tflops / 1e12:.1%}")
    return cells


def measure_wait(options: argparse.Namespace) -> None:
    """Train for some steps and print the share of waiting."""
    settings = ["--data", options.data, "--batch-size", str(options.batch_size)]
    rows = steps_of_a_run([options.recipe, *settings, "--weights", "none"], options.steps)
    seconds = [options.batch_size / row["samples_per_s"] for row in rows]
    waited = sum(row["wait_share"] * s for row, s in zip(rows, seconds, strict=True))
    print(
        f"{options.recipe}: {waited / sum(seconds):.2%} of {len(seconds)} steps of "
        f"{options.batch_size} images was waiting; {statistics.median(seconds):.2f} s a step, "
        f"{len(seconds) * options.batch_size / sum(seconds):.2f} images/s"
    )


def steps_of_a_run(arguments: list[str], count: int) -> list[dict[str, float]]:
    """Train until `count` steps after the first are logged; return what was logged of those."""
    folder = Path(tempfile.mkdtemp())
    command = [sys.executable, "-m", "trainer", *arguments, "--out", str(folder / "run")]
    command += ["--log-steps", "1", "--memory-format", "contiguous"]
    process = subprocess.Popen(command)
    log, rows = folder / "run" / "metrics.jsonl", []
    try:
        while len(rows) <= count:
            if process.poll() is not None:
                raise SystemExit(f"the run ended with {process.returncode}, {len(rows)} steps done")
            time.sleep(0.2)
            lines = log.read_text().splitlines() if log.exists() else []
            rows = [row for row in map(json.loads, lines) if row["kind"] == "train"]
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()
        shutil.rmtree(folder)
    return rows[1 : count + 1]


def main() -> None:
    """Do what the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    step = commands.add_parser("step")
    step.add_argument("--recipes", nargs="+", choices=list(RECIPES), default=list(MODELS))
    step.add_argument("--batch-size", type=int, default=4)
    step.add_argument("--patch", type=int, nargs=2, default=[256, 256])
    step.add_argument("--cube", type=int, nargs=3, default=[32, 128, 128])
    step.add_argument("--rounds", type=int, default=5)
    step.add_argument("--no-bf16", dest="bf16", action="store_false")
    step.add_argument("--compile", action="store_true")
    step.add_argument("--peak-tflops", type=float, default=0.0, help="of the device, in bf16")
    step.set_defaults(run=time_steps)
    wait = commands.add_parser("wait")
    wait.add_argument("recipe", choices=list(RECIPES))
    wait.add_argument("data")
    wait.add_argument("--batch-size", type=int, default=2)
    wait.add_argument("--steps", type=int, default=8)
    wait.set_defaults(run=measure_wait)
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
