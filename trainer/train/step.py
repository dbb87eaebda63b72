"""One optimizer step on a rank's part of a global batch.

Nothing random outlives a step: augmentation is a function of (seed, epoch, sample) and dropout of
(seed, epoch, step, rank). So a checkpoint needs no generator's state to be exact.
"""

from contextlib import nullcontext

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from shards.images.channels import em_channels
from shards.stream.stream import Batch
from trainer.augment.keyed_random import seed_for
from trainer.augment.mixing import mix
from trainer.augment.spatial import augment_batch
from trainer.models.classifier import as_stored
from trainer.train.optim import learning_rate
from trainer.train.run_state import Session


def train_step(session: Session, batch: Batch) -> Tensor:
    """Do one optimizer step; return this rank's mean loss, detached."""
    config, accelerator = session.config, session.accelerator
    torch.manual_seed(
        seed_for("step", config.seed, batch.epoch, batch.step, accelerator.process_index)
    )
    rate = learning_rate(config, session.steps_done, session.total_steps)
    for group in session.optimizer.param_groups:
        group["lr"] = rate
    x, targets = prepared(session, batch)
    session.model.train()
    total = torch.zeros((), device=x.device)
    parts = list(zip(x.chunk(config.accumulate), targets.chunk(config.accumulate), strict=True))
    for number, (x_part, targets_part) in enumerate(parts, start=1):
        last = number == len(parts)
        with nullcontext() if last else accelerator.no_sync(session.model):
            # Divided by the whole batch, so that parts of unequal size add up to its mean.
            loss = session.loss(session.model(x_part), targets_part).sum() / len(x)
            accelerator.backward(loss)
        total += loss.detach()
    if config.clip_norm:
        accelerator.clip_grad_norm_(session.model.parameters(), config.clip_norm)
    session.optimizer.step()
    session.optimizer.zero_grad()
    if session.average is not None:
        session.average.update_parameters(session.net)
    return total


def prepared(session: Session, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return a batch on the device, augmented and mixed: images and targets (b, k)."""
    config, manifest = session.config, session.shards.manifest
    x = as_stored(session.upload(batch.images), manifest.image)
    labels = torch.from_numpy(batch.labels).to(x.device)
    targets = one_hot(labels, len(manifest.class_names)).float()
    x = augment_batch(
        x,
        batch.rows,
        config.augment,
        crop=config.crop,
        seed=config.seed,
        epoch=batch.epoch,
        em=em_channels(manifest.image.channels),
    )
    if config.mixup or config.cutmix:
        x, targets = mix(
            x,
            targets,
            batch.rows,
            mixup=config.mixup,
            cutmix=config.cutmix,
            seed=config.seed,
            epoch=batch.epoch,
        )
    return x, targets
