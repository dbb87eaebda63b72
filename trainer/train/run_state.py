"""A run that is under way: what it holds."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from shards.stream.shardset import ShardSet
from shards.stream.stream import Stream
from trainer.checkpoint.checkpoint import Progress, checkpoint_folder
from trainer.config import Config, MemoryFormat, System
from trainer.models.classifier import Classifier
from trainer.train.losses import Loss


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """A training job: recipe, data, and output folder."""

    recipe: str
    config: Config
    system: System
    data: tuple[str, ...]  # the first validates, and gives classes, mean and std
    out: Path
    fold: int | None = None  # of a cross-validation
    command: tuple[str, ...] = ()  # as typed, for run.json

    @property
    def checkpoints(self) -> Path:
        """The folder of the run's checkpoints."""
        return checkpoint_folder(self.out)


@dataclass
class Session:
    """State of a run while it trains."""

    job: Job
    accelerator: Accelerator
    sets: list[ShardSet]  # of training samples
    net: Classifier  # the model itself
    model: nn.Module  # the same, as Accelerate prepared it
    optimizer: AcceleratedOptimizer
    stream: Stream
    memory_format: MemoryFormat
    loss: Loss
    average: AveragedModel | None
    progress: Progress
    say: Callable[[str], None]
    losses: list[Tensor] = field(default_factory=list)  # of steps, still on the device
    copied: torch.cuda.Event | None = None  # when the last upload has left its host memory

    def upload(self, images: np.ndarray) -> Tensor:
        """Return a batch on the device, copied while the device works.

        The stream reads into the host memory again once the batch is dropped, so the copy before
        this one is waited for; that leaves the device one step of work ahead.
        """
        if self.copied is not None:
            self.copied.synchronize()
        x = torch.from_numpy(images).to(self.accelerator.device, non_blocking=True)
        if x.is_cuda:
            self.copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self.copied.record()
        return x

    def add_losses(self) -> None:
        """Add the steps' losses to the epoch's sum; waits for the device."""
        if self.losses:
            self.progress.loss_sum += float(torch.stack(self.losses).double().sum())
            self.losses.clear()

    @property
    def shards(self) -> ShardSet:
        """The shard set that validates, and that says what the model's inputs are."""
        return self.sets[0]

    @property
    def config(self) -> Config:
        """The run's config."""
        return self.job.config

    @property
    def steps_done(self) -> int:
        """Steps over all epochs so far."""
        return self.progress.epoch * self.stream.steps_per_epoch + self.progress.step

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        return self.config.epochs * self.stream.steps_per_epoch

    @property
    def finished(self) -> bool:
        """True when every epoch is done, or the run ended early."""
        return bool(self.progress.ended) or self.progress.epoch >= self.config.epochs
