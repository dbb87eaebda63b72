"""Optimisers, and the learning rate as a pure function of the step."""

import math
from typing import Any

import torch
from torch import nn

from trainer.config import Config

ONE_CYCLE_START, ONE_CYCLE_END = 1 / 25, 1e-4  # as parts of the peak (Smith and Topin 2018)


def build_optimizer(
    config: Config, model: nn.Module, device: torch.device | None = None
) -> torch.optim.Optimizer:
    """Return the optimiser; biases, norms and other vectors are not decayed. Fused on CUDA."""
    fused = True if device is not None and device.type == "cuda" else None
    decayed = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    others = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
    if config.optimizer == "sgd":
        return torch.optim.SGD(
            groups,
            lr=config.lr,
            momentum=0.9,
            nesterov=True,
            weight_decay=config.weight_decay,
            fused=fused,
        )
    kind = torch.optim.Adam if config.optimizer == "adam" else torch.optim.AdamW
    return kind(groups, lr=config.lr, weight_decay=config.weight_decay, fused=fused)


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


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the rate of every parameter group."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def _between(start: float, end: float, part: float) -> float:
    """Go from start to end along half a cosine."""
    return end + (start - end) * (1.0 + math.cos(math.pi * part)) / 2.0
