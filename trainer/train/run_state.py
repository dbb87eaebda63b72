"""A run that is under way: what it holds, and where it reads from."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from shards.contract.documents import document
from shards.stream.order import OrderSpec, Position
from shards.stream.shardset import ShardSet
from shards.stream.stream import Stream
from trainer.config import Config, Layout, System
from trainer.models.classifier import Classifier
from trainer.train.ema import MovingAverage
from trainer.train.losses import Loss


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What to train, on what, and where to put it."""

    recipe: str
    config: Config
    system: System
    data: str
    out: Path
    command: tuple[str, ...] = ()  # as typed, for run.json

    @property
    def checkpoints(self) -> Path:
        """Where the run keeps its checkpoints."""
        return checkpoint_folder(self.out)


@document
@dataclass
class Progress:
    """How far a run is; saved with each checkpoint."""

    epoch: int = 0
    step: int = 0  # in the epoch: the next one
    best: float | None = None  # of the validation: the monitored number
    best_epoch: int = -1
    loss_sum: float = 0.0  # over the epoch's steps so far
    rate_factor: float = 1.0  # halved by each roll-back
    collapsed: int = 0  # validations in a row that knew one class only
    ended: str = ""  # why the run ended before its last epoch


@dataclass
class Session:
    """What a run holds while it trains."""

    job: Job
    accelerator: Accelerator
    shards: ShardSet
    net: Classifier  # the model itself
    model: nn.Module  # the same, as Accelerate prepared it
    optimizer: Any  # an Optimizer, as Accelerate prepared it
    stream: Stream
    memory_format: Layout
    loss: Loss
    average: MovingAverage | None
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
        """Whether every epoch is done, or the run ended early."""
        return bool(self.progress.ended) or self.progress.epoch >= self.config.epochs


def checkpoint_folder(out: Path) -> Path:
    """Return where a run keeps its checkpoints."""
    return out / "checkpoints"


def open_stream(job: Job, accelerator: Accelerator, shards: ShardSet, progress: Progress) -> Stream:
    """Return the stream of training batches, from where the run is."""
    config = job.config
    pinned = accelerator.device.type == "cuda"
    return Stream(
        shards,
        "train",
        batch_size=config.batch_size,
        order=OrderSpec(seed=config.seed, balance=config.balance),
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
        position=Position(epoch=progress.epoch, step=progress.step),
        epochs=config.epochs - progress.epoch,
        num_threads=job.system.readers,
        allocate=_pinned if pinned else None,
    )


def _pinned(shape: tuple[int, ...]) -> np.ndarray:
    memory: np.ndarray = torch.empty(shape, dtype=torch.uint8, pin_memory=True).numpy()
    return memory
