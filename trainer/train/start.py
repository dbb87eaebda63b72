"""The start of a run in an empty folder, or its going on in one that has a checkpoint."""

from collections.abc import Callable

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object

from shards.contract.documents import to_plain
from shards.stream.order import Position
from shards.stream.shardset import ShardSet
from shards.stream.stream import Stream, require_agreement
from trainer.checkpoint import checkpoint as checkpoints
from trainer.checkpoint.checkpoint import Progress, State
from trainer.config import Config, MemoryFormat
from trainer.models.classifier import (
    Classifier,
    build_classifier,
    inputs_of,
    sections_to_read,
    without_weights,
)
from trainer.models.memory_format import checkpoint_activations, to_memory_format
from trainer.setup.classes import check_classes, train_counts
from trainer.setup.preflight import cudnn_version, is_native, warnings_for
from trainer.train.losses import build_loss
from trainer.train.optim import build_optimizer, moving_average
from trainer.train.run_state import Job, Session
from trainer.train.saving import restore, saved_state
from trainer.train.trial import choose_memory_format, trial_step

TIMED_BATCH = 8  # images with which the memory format is chosen


def start_session(
    job: Job, accelerator: Accelerator, sets: list[ShardSet], say: Callable[[str], None]
) -> Session:
    """Start a run in `job.out`, or continue the one that is there.

    A run on other data, or with another config, is not continued: that is an error, as are
    unlabelled samples, training on one class, an unknown model, and images that do not fit it.
    """
    config = job.config
    _check(config, accelerator, sets, say)
    loss = build_loss(config, train_counts(sets, config.order).tolist())
    saved = saved_state(job, sets)
    progress = saved.progress if saved else Progress()
    stream = open_stream(job, accelerator, sets, progress)
    require_agreement(gather_object([{**stream.agreement(), "config": to_plain(config)}]))
    net, memory_format = _build_net(job, accelerator, sets[0], saved, say)
    average = moving_average(net, config.ema) if config.ema else None
    if job.system.checkpoint_activations:
        checkpoint_activations(net)
    if job.system.compile:
        net.compile()
    session = Session(
        job=job,
        accelerator=accelerator,
        sets=sets,
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
        if accelerator.is_main_process:
            checkpoints.complete_checkpoint(job.checkpoints, saved)
        restore(session, saved)
        say(f"continuing {job.out} at epoch {progress.epoch + 1}, step {progress.step}")
    return session


def _check(
    config: Config, accelerator: Accelerator, sets: list[ShardSet], say: Callable[[str], None]
) -> None:
    """Refuse, or warn of, classes, devices and versions that cannot be trained on well."""
    ranks = accelerator.num_processes
    warnings = check_classes(sets, config.order)
    if config.norm == "sync" and ranks > 1 and accelerator.device.type == "cpu":
        raise ValueError(f"--norm sync needs a GPU for each of the {ranks} ranks; use --norm group")
    native = is_native(config.precision)
    warnings += warnings_for(config, torch.__version__, cudnn_version(), native=native)
    for line in warnings:
        say(f"warning: {line}")


def _build_net(
    job: Job,
    accelerator: Accelerator,
    shards: ShardSet,
    saved: State | None,
    say: Callable[[str], None],
) -> tuple[Classifier, MemoryFormat]:
    """Return the net on its device, new or as `saved`, and its memory format."""
    config, inputs = job.config, inputs_of(shards.manifest)
    torch.manual_seed(config.seed)
    net, notes = build_classifier(without_weights(config) if saved else config, inputs)
    for line in notes:
        say(line)
    net.to(accelerator.device)
    if job.system.memory_format != "auto":
        memory_format = job.system.memory_format
    elif saved:
        memory_format = saved.memory_format
    else:
        size = min(TIMED_BATCH, config.batch_size // accelerator.num_processes)
        step = trial_step(config, accelerator, shards, size)
        faster, seconds = choose_memory_format(net, step, accelerator.device)
        memory_format = broadcast_object_list([faster])[0]  # rank 0's choice
        timing = ", ".join(f"{name} {value * 1e3:.0f} ms" for name, value in seconds.items())
        say(f"memory format {memory_format} ({timing} for {size} images)")
    to_memory_format(net, memory_format)
    if saved:
        net.load_state_dict(checkpoints.load_tensors(job.checkpoints / "last", "model"))
    return net, memory_format


def open_stream(
    job: Job, accelerator: Accelerator, sets: list[ShardSet], progress: Progress
) -> Stream:
    """Return the stream of training batches, from where the run is."""
    config = job.config
    return Stream(
        sets,
        "train",
        batch_size=config.batch_size,
        order=config.order,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
        position=Position(epoch=progress.epoch, step=progress.step),
        epochs=config.epochs - progress.epoch,
        num_threads=job.system.readers,
        allocate=_pinned if accelerator.device.type == "cuda" else None,
        sections=sections_to_read(config, sets[0].manifest.image),
    )


def _pinned(shape: tuple[int, ...]) -> np.ndarray:
    memory: np.ndarray = torch.empty(shape, dtype=torch.uint8, pin_memory=True).numpy()
    return memory
