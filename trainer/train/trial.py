"""Trials of the real model on the device: which memory layout is faster, which batch size."""

import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import get_args

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils.memory import clear_device_cache
from torch import nn
from torch.nn.functional import cross_entropy

from shards.stream.shardset import ShardSet, open_shards
from trainer.config import Config, MemoryFormat, System
from trainer.models.classifier import build_classifier, center_crop, inputs_of, without_weights
from trainer.models.memory_format import to_memory_format
from trainer.setup.distributed import make_accelerator
from trainer.setup.faults import is_one_value, is_out_of_memory
from trainer.train.optim import build_optimizer

TIMED_STEPS = 3
GAIN = 1.05  # a batch twice as large must be this much faster by the image to go on
Step = Callable[[nn.Module], None]  # forward and back, on images of its own


def trial_step(config: Config, accelerator: Accelerator, shards: ShardSet, size: int) -> Step:
    """Return a function that runs a model forward and back on `size` training images."""
    rows = np.arange(size) % len(shards.index("train"))
    images = torch.from_numpy(shards.read_images("train", rows))
    x = center_crop(images, config.crop).to(accelerator.device)
    labels = torch.zeros(size, dtype=torch.long, device=x.device)

    def step(model: nn.Module) -> None:
        with accelerator.autocast():
            loss = cross_entropy(model(x), labels)
        torch.autograd.backward(loss)

    return step


def choose_memory_format(
    model: nn.Module, step: Step, device: torch.device
) -> tuple[MemoryFormat, dict[MemoryFormat, float]]:
    """Return the faster of the two layouts and the seconds per step of each.

    It works on copies, so the model's weights and statistics stay as they are.
    """
    seconds: dict[MemoryFormat, float] = {}
    for name in get_args(MemoryFormat):
        copy = to_memory_format(deepcopy(model), name)
        seconds[name] = _seconds(step, copy, device)
    return min(seconds, key=lambda name: seconds[name]), seconds


@dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """A batch size on one rank; `images_s` is 0 where it did not fit into memory."""

    batch_size: int
    images_s: float
    memory_gb: float  # the peak: of the GPU, or of the process


def report_batches(
    config: Config, system: System, data: str, fold: int | None, *, most: int
) -> None:
    """Print the speed of each batch size, and which size to take."""
    accelerator = make_accelerator(config, system)
    timings = []
    with open_shards(data, fold=fold) as shards:
        for timing in time_batches(config, system, shards, accelerator, most=most):
            timings.append(timing)
            speed = f"{timing.images_s:9.1f} images/s {timing.memory_gb:8.2f} GB"
            result = speed if timing.images_s else "does not fit into memory"
            sys.stdout.write(f"{timing.batch_size:6} images per step {result}\n")
            sys.stdout.flush()
    best = recommended(timings)
    sys.stdout.write(
        f"--batch-size {best.batch_size} on one rank, {best.batch_size} times their number on "
        f"several; the recipe has {config.batch_size} at --lr {config.lr:g} (--lr-batch "
        f"{config.batch_size} scales the rate with the batch, --accumulate splits it)\n"
    )


def time_batches(
    config: Config, system: System, shards: ShardSet, accelerator: Accelerator, *, most: int
) -> Iterator[Timing]:
    """Yield timings at doubling batch sizes, until one does not fit or none is gained twice.

    Accelerate's `find_executable_batch_size` goes down from a size to the first that fits, untimed.
    """
    best, lost, size = 0.0, 0, 1
    while size <= most and lost < 2:
        try:
            timing = _timing(config, system, shards, accelerator, size)
        except ValueError as error:
            if size > 1 or not is_one_value(error):
                raise
            size = 2  # a batch norm needs more than one image
            continue
        yield timing
        if not timing.images_s:
            return
        lost = 0 if timing.images_s > best * GAIN else lost + 1
        best, size = max(best, timing.images_s), size * 2


def recommended(timings: list[Timing]) -> Timing:
    """Return the smallest batch within `GAIN` of the fastest; a `ValueError` if none fitted."""
    best = max((timing.images_s for timing in timings), default=0.0)
    if not best:
        raise ValueError(
            "not even one image fits into memory: choose a smaller --crop or --width, or "
            "--checkpoint-activations"
        )
    return next(timing for timing in timings if timing.images_s * GAIN >= best)


def _timing(
    config: Config, system: System, shards: ShardSet, accelerator: Accelerator, size: int
) -> Timing:
    clear_device_cache(garbage_collection=True)
    device = accelerator.device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    net, _ = build_classifier(without_weights(config), inputs_of(shards.manifest))
    net.to(device).train()
    if system.memory_format != "auto":
        to_memory_format(net, system.memory_format)
    optimizer = build_optimizer(config, net, device)

    def step(model: nn.Module) -> None:
        optimizer.zero_grad()
        forward_and_back(model)
        optimizer.step()

    try:
        forward_and_back = trial_step(config, accelerator, shards, size)
        seconds = _seconds(step, net, device)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return Timing(batch_size=size, images_s=0.0, memory_gb=0.0)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if device.type == "cuda":
        memory = torch.cuda.max_memory_allocated()
    return Timing(batch_size=size, images_s=size / seconds, memory_gb=memory / 1e9)


def _seconds(step: Step, model: nn.Module, device: torch.device) -> float:
    """Return the median time of a step, after one that warms up."""
    seconds = []
    for _ in range(TIMED_STEPS + 1):
        start = time.perf_counter()
        step(model)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])
