"""Ranks: how many threads each gets, and what they must agree on."""

import os

import joblib
import torch
from accelerate import Accelerator
from accelerate.utils import GradientAccumulationPlugin, TorchDynamoPlugin
from torch import Tensor

from trainer.config import Config, System
from trainer.setup.launcher import check_launcher


def make_accelerator(config: Config, system: System) -> Accelerator:
    """Return the accelerator, after giving this rank its share of the machine's cores.

    `accelerate launch` exports OMP_NUM_THREADS=1 whatever the machine, so 1 counts as not set.
    Where it asks for what config and system do not, that is a `ValueError`.
    """
    check_launcher(config, system, os.environ)
    if config.precision == "fp16" and not torch.cuda.is_available():
        raise ValueError("precision fp16 needs a GPU and there is none; use --precision bf16 or no")
    threads = system.threads or _threads_from_environment() or _fair_share()
    torch.set_num_threads(threads)
    return Accelerator(
        mixed_precision=config.precision,
        # Given, so that Accelerate does not read them from the environment.
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
        dynamo_plugin=TorchDynamoPlugin(backend="no"),
    )


def sum_over_ranks(accelerator: Accelerator, values: Tensor) -> Tensor:
    """Return the sum of every rank's tensor, on the CPU."""
    if accelerator.num_processes == 1:
        return values.cpu()
    total: Tensor = accelerator.reduce(values.to(accelerator.device), reduction="sum")
    return total.cpu()


def any_rank(accelerator: Accelerator, *flags: bool) -> tuple[bool, ...]:
    """Return for each flag whether any rank raised it."""
    if accelerator.num_processes == 1:
        return flags
    totals = sum_over_ranks(accelerator, torch.tensor(flags, dtype=torch.int32))
    return tuple(bool(total) for total in totals)


def _threads_from_environment() -> int:
    value = os.environ.get("OMP_NUM_THREADS", "")
    return int(value) if value.isdigit() and int(value) > 1 else 0


def _fair_share() -> int:
    """Return this rank's part of the cores that affinity and the container's quota grant."""
    ranks_here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    cores: int = joblib.cpu_count()
    return max(1, cores // ranks_here)
