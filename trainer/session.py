"""A run that is under way: what it holds, how it starts, continues and is saved."""

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn

from shards.files import write_json
from shards.order import OrderSpec, Position
from shards.schema import UNLABELLED
from shards.shardset import ShardSet
from shards.stream import Stream
from trainer import state as checkpoints
from trainer.config import Config, System, config_to_json, differences
from trainer.distributed import check_agreement
from trainer.ema import MovingAverage
from trainer.logs import git_state, versions
from trainer.losses import Loss, build_loss, cross_entropy, one_hot_targets
from trainer.memory_format import (
    checkpoint_activations,
    choose_memory_format,
    to_memory_format,
)
from trainer.models import (
    Classifier,
    build_classifier,
    center_crop,
    inputs_of,
    without_weights,
)
from trainer.optim import build_optimizer
from trainer.preflight import cudnn_version, warnings_for

SCHEMA_VERSION = 1
TIMED_BATCH = 8  # images with which the memory format is chosen


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
    memory_format: str
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


def start_session(
    job: Job, accelerator: Accelerator, shards: ShardSet, say: Callable[[str], None]
) -> Session:
    """Start a run in `job.out`, or continue the one that is there.

    A run on other data, or with another config, is not continued: that is an error, as are
    unlabelled samples, an unknown model, and images that do not fit it.
    """
    _check_labels(shards)
    config = job.config
    for line in warnings_for(config, torch.__version__, cudnn_version()):
        say(f"warning: {line}")
    counts = shards.manifest.splits["train"].class_counts
    loss = build_loss(config, [counts[name] for name in shards.manifest.class_names])
    saved = _saved_state(job, shards)
    torch.manual_seed(config.seed)
    net, notes = build_classifier(
        without_weights(config) if saved else config, inputs_of(shards.manifest)
    )
    for line in notes:
        say(line)
    progress = Progress(**saved["progress"]) if saved else Progress()
    stream = open_stream(job, accelerator, shards, progress)
    check_agreement(accelerator, {**stream.agreement(), "config": config_to_json(config)})
    net.to(accelerator.device)
    if saved and job.system.memory_format == "auto":
        memory_format: str = saved["memory_format"]
    else:
        memory_format = _memory_format(job, net, accelerator, shards, say)
    to_memory_format(net, memory_format)
    if saved:
        net.load_state_dict(checkpoints.load_tensors(job.checkpoints / "last", "model"))
    if job.system.checkpoint_activations:
        checkpoint_activations(net)
    average = MovingAverage(net, config.ema) if config.ema else None
    if job.system.compile:
        net.compile()
    session = Session(
        job=job,
        accelerator=accelerator,
        shards=shards,
        net=net,
        model=accelerator.prepare(net),
        optimizer=accelerator.prepare(build_optimizer(config, net, accelerator.device)),
        stream=stream,
        memory_format=memory_format,
        loss=loss,
        average=average,
        progress=progress,
        say=say,
    )
    if saved:
        _restore(session, saved)
        say(f"continuing {job.out} at epoch {progress.epoch + 1}, step {progress.step}")
    return session


def roll_back(session: Session) -> None:
    """Go back to the last checkpoint and halve the rate from there on."""
    factor = session.progress.rate_factor / 2.0
    folder = session.job.checkpoints / "last"
    if not checkpoints.has_checkpoint(folder.parent, "last"):
        raise RuntimeError("the loss was not a number before the first checkpoint; lower --lr")
    saved = checkpoints.load_state(folder)
    session.net.load_state_dict(checkpoints.load_tensors(folder, "model"))
    session.progress = Progress(**{**saved["progress"], "rate_factor": factor})
    session.losses.clear()
    _restore(session, saved)
    session.stream.close()
    session.stream = open_stream(session.job, session.accelerator, session.shards, session.progress)


def _restore(session: Session, saved: dict[str, Any]) -> None:
    folder = session.job.checkpoints / "last"
    if session.average is not None:
        session.average.load(checkpoints.load_tensors(folder, "average"), saved["average_steps"])
    tensors = checkpoints.load_tensors(folder, "optimizer")
    checkpoints.restore_optimizer(session.optimizer.optimizer, tensors, saved["optimizer"])
    if session.accelerator.scaler is not None and saved["scaler"]:
        session.accelerator.scaler.load_state_dict(saved["scaler"])


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


def save_session(session: Session, names: list[str]) -> None:
    """Save a checkpoint under `names`; every rank calls this, rank 0 writes."""
    session.add_losses()
    if session.accelerator.is_main_process:
        tensors, plain = checkpoints.flatten_optimizer(session.optimizer.optimizer.state_dict())
        scaler = session.accelerator.scaler
        state = {
            "schema_version": SCHEMA_VERSION,
            "config": config_to_json(session.config),
            "manifest_sha256": session.shards.manifest_sha256,
            "inputs": asdict(inputs_of(session.shards.manifest)),
            "progress": asdict(session.progress),
            "memory_format": session.memory_format,
            "world_size": session.accelerator.num_processes,
            "optimizer": plain,
            "average_steps": session.average.steps if session.average else 0,
            "scaler": None if scaler is None else scaler.state_dict(),
        }
        groups = {"model": session.net.state_dict(), "optimizer": tensors}
        if session.average is not None:
            groups["average"] = session.average.tensors
        folder = session.job.checkpoints
        checkpoints.save_checkpoint(folder, session.steps_done, groups, state, names)
    session.accelerator.wait_for_everyone()


def write_run(session: Session, status: str) -> None:
    """Write run.json; rank 0 alone. `status` is running, stopped or finished."""
    if not session.accelerator.is_main_process:
        return
    manifest = session.shards.manifest
    document = {
        "schema_version": SCHEMA_VERSION,
        "recipe": session.job.recipe,
        "status": status,
        "config": config_to_json(session.config),
        "system": asdict(session.job.system),
        "data_url": _absolute(session.shards.url),
        "manifest_sha256": session.shards.manifest_sha256,
        "class_names": list(manifest.class_names),
        "view": manifest.image.view,
        "num_parameters": sum(p.numel() for p in session.net.parameters()),
        "train_counts": manifest.splits["train"].class_counts,
        "memory_format": session.memory_format,
        "world_size": session.accelerator.num_processes,
        "device": _device_name(session.accelerator.device),
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "git": git_state(),
        "command": list(session.job.command),
        "best": {"monitor": session.config.monitor, "value": session.progress.best}
        | {"epoch": session.progress.best_epoch},
        "ended": session.progress.ended or None,
    }
    write_json(session.job.out / "run.json", document)


def _check_labels(shards: ShardSet) -> None:
    for split in ("train", "val"):
        labels = shards.index(split).label
        if not len(labels):
            raise ValueError(f"{shards.url}: split {split} has no samples; pack one that has some")
        if (labels == UNLABELLED).any():
            raise ValueError(
                f"{shards.url}: {int((labels == UNLABELLED).sum())} samples of {split} have no "
                "label; pack labelled samples alone to train on them"
            )


def _saved_state(job: Job, shards: ShardSet) -> dict[str, Any] | None:
    """Return the state of the run's last checkpoint, None where there is none."""
    if not checkpoints.has_checkpoint(job.checkpoints, "last"):
        return None
    saved = checkpoints.load_state(job.checkpoints / "last")
    if saved["manifest_sha256"] != shards.manifest_sha256:
        raise ValueError(
            f"{job.out} was trained on other data (manifest {saved['manifest_sha256'][:12]}, but "
            f"{shards.url} has {shards.manifest_sha256[:12]}): cannot resume with other data; "
            "give the same --data or another --out"
        )
    if changed := differences(saved["config"], config_to_json(job.config)):
        raise ValueError(
            f"{job.out} was trained with another config ({', '.join(changed)}); give the same "
            "values to continue it, or another --out to start anew"
        )
    return saved


def _memory_format(
    job: Job,
    net: Classifier,
    accelerator: Accelerator,
    shards: ShardSet,
    say: Callable[[str], None],
) -> str:
    config = job.config
    if job.system.memory_format != "auto":
        return job.system.memory_format
    count = min(TIMED_BATCH, config.batch_size // accelerator.num_processes)
    images = shards.read_images("train", np.arange(min(count, len(shards.index("train")))))
    x = center_crop(torch.from_numpy(images), config.crop).to(accelerator.device)
    labels = torch.zeros(len(x), dtype=torch.long, device=x.device)
    targets = one_hot_targets(labels, len(shards.manifest.class_names))

    def step(model: nn.Module) -> Tensor:
        with accelerator.autocast():
            return cross_entropy(model(x), targets).mean()

    chosen, seconds = choose_memory_format(net, step, accelerator.device)
    answer: list[str] = broadcast_object_list([chosen])
    timing = ", ".join(f"{name} {value * 1e3:.0f} ms" for name, value in seconds.items())
    say(f"memory format {answer[0]} ({timing} for {len(x)} images)")
    return answer[0]


def _pinned(shape: tuple[int, ...]) -> np.ndarray:
    memory: np.ndarray = torch.empty(shape, dtype=torch.uint8, pin_memory=True).numpy()
    return memory


def _absolute(url: str) -> str:
    return url if "://" in url else str(Path(url).resolve())


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {os.cpu_count()} cores"
