"""Optimizers, the learning rate as a pure function of the step, and the average of the weights."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from trainer.config import Config

ONE_CYCLE_START, ONE_CYCLE_END = 1 / 25, 1e-4  # as parts of the peak (Smith and Topin 2018)


def build_optimizer(
    config: Config, model: nn.Module, device: torch.device | None = None
) -> torch.optim.Optimizer:
    """Return the optimizer; biases, norms and other vectors are not decayed. Fused on CUDA."""
    fused = True if device is not None and device.type == "cuda" else None
    trained = [p for p in model.parameters() if p.requires_grad]
    matrices = [p for p in trained if p.ndim > 1]
    lr, decay = config.lr, config.weight_decay
    optimizer: torch.optim.Optimizer
    if config.optimizer == "sgd":
        optimizer = torch.optim.SGD(
            matrices, lr=lr, momentum=0.9, nesterov=True, weight_decay=decay, fused=fused
        )
    else:
        kind = torch.optim.Adam if config.optimizer == "adam" else torch.optim.AdamW
        optimizer = kind(matrices, lr=lr, weight_decay=decay, fused=fused)
    vectors = [p for p in trained if p.ndim <= 1]
    optimizer.add_param_group({"params": vectors, "weight_decay": 0.0})
    return optimizer


def learning_rate(config: Config, step: int, total_steps: int) -> float:
    """Return the rate of step `step` of `total_steps`, counted from 0.

    `warmup` is the part of the steps over which it rises: from 0 before cosine and constant, from
    1/25 of the peak in a one-cycle. Cosine and one-cycle then fall to (almost) 0 at the end.
    """
    peak = config.lr * (config.batch_size / config.lr_batch if config.lr_batch else 1.0)
    rise = config.warmup * total_steps
    if step < rise:
        part = (step + 1) / (rise + 1)
        if config.schedule == "one_cycle":
            return peak * _between(ONE_CYCLE_START, 1.0, part)
        return peak * part
    if config.schedule == "constant":
        return peak
    part = (step - rise) / max(total_steps - rise, 1.0)
    end = ONE_CYCLE_END if config.schedule == "one_cycle" else 0.0
    return peak * _between(1.0, end, part)


def moving_average(model: nn.Module, decay: float) -> AveragedModel:
    """Return the moving average of a model's weights and buffers, to update after each step.

    Step n makes it d * average + (1 - d) * weights, with d = min(decay, (1 + n) / (10 + n)) so that
    the random start is soon forgotten. Buffers that are not floats (counters) are copied.
    """

    def update(means: Sequence[Tensor], values: Sequence[Tensor], _: Tensor | int) -> None:
        n = int(average.n_averaged)  # which is on the CPU: reading it waits for no GPU
        weight = 1.0 - min(decay, (1.0 + n) / (10.0 + n))
        for mean, value in zip(means, values, strict=True):
            if mean.is_floating_point():
                mean.lerp_(value, weight)
            else:
                mean.copy_(value)

    average = AveragedModel(model, multi_avg_fn=update, use_buffers=True)
    average.n_averaged.fill_(1)  # at 0 the first update would copy the weights
    return average


def _between(start: float, end: float, part: float) -> float:
    """Go from start to end along half a cosine."""
    return end + (start - end) * (1.0 + math.cos(math.pi * part)) / 2.0
