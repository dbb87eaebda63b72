"""A run's files, run.json and checkpoints: written, and gone on from."""

import os

import torch

from shards.contract.documents import write_document
from shards.stream.shardset import ShardSet
from trainer.checkpoint import checkpoint as checkpoints
from trainer.checkpoint.checkpoint import SCHEMA_VERSION, State, naming
from trainer.checkpoint.run_folder import (
    Best,
    RunRecord,
    Status,
    absolute_url,
    git_state,
    read_run,
    versions,
)
from trainer.config import differences
from trainer.models.classifier import inputs_of
from trainer.setup.classes import train_counts
from trainer.train.run_state import Job, Session


def saved_state(job: Job, sets: list[ShardSet]) -> State | None:
    """Return the state of the run's last checkpoint, None where there is none.

    One of other data or of another config is an error, and so are predictions without the
    checkpoint that made them.
    """
    folder = job.checkpoints / "last"
    if not folder.is_symlink() and not folder.exists():
        if (job.out / "predictions").exists():
            raise ValueError(
                f"{job.out} holds predictions but no checkpoint: they are another model's; "
                "choose another --out, or delete them"
            )
        return None
    saved = checkpoints.load_state(folder)
    before = [saved.manifest_sha256, *saved.mixed_sha256]
    if before != [shards.manifest_sha256 for shards in sets]:
        given = ", ".join(f"{shards.url} has {shards.manifest_sha256[:12]}" for shards in sets)
        raise ValueError(
            f"{job.out} was trained on other data (manifest "
            f"{', '.join(digest[:12] for digest in before)}, but {given}): cannot resume with "
            "other data; give the same --data or another --out"
        )
    if changed := differences(saved.config, job.config):
        raise ValueError(
            f"{job.out} was trained with another config ({', '.join(changed)}); give the same "
            "values to continue it, or another --out to start anew"
        )
    return saved


def restore(session: Session, saved: State) -> None:
    """Put moving average, optimizer and scaler back as they were saved beside `saved`."""
    folder = session.job.checkpoints / "last"
    if session.average is not None:
        session.average.module.load_state_dict(checkpoints.load_tensors(folder, "average"))
        session.average.n_averaged.fill_(saved.average_steps + 1)
    tensors = checkpoints.load_tensors(folder, "optimizer")
    checkpoints.restore_optimizer(session.optimizer.optimizer, tensors)
    if session.accelerator.scaler is not None and saved.scaler:
        session.accelerator.scaler.load_state_dict(saved.scaler)


def save_session(session: Session, names: list[str]) -> None:
    """Save a checkpoint under `names`; every rank calls this, rank 0 writes."""
    session.add_losses()
    if session.accelerator.is_main_process:
        scaler, average = session.accelerator.scaler, session.average
        state = State(
            schema_version=SCHEMA_VERSION,
            config=session.config,
            manifest_sha256=session.shards.manifest_sha256,
            mixed_sha256=tuple(shards.manifest_sha256 for shards in session.sets[1:]),
            inputs=inputs_of(session.shards.manifest),
            progress=session.progress,
            memory_format=session.memory_format,
            world_size=session.accelerator.num_processes,
            average_steps=0 if average is None else int(average.n_averaged) - 1,
            scaler=None if scaler is None else scaler.state_dict(),
        )
        groups = {
            "model": session.net.state_dict(),
            "optimizer": checkpoints.flatten_optimizer(session.optimizer.optimizer),
        }
        if average is not None:
            groups["average"] = average.module.state_dict()
        folder = session.job.checkpoints
        checkpoints.save_checkpoint(folder, session.steps_done, groups, state, names)
    session.accelerator.wait_for_everyone()


def write_run(session: Session, status: Status) -> None:
    """Write run.json; rank 0 alone."""
    if not session.accelerator.is_main_process:
        return
    manifest, state = session.shards.manifest, session.progress
    counts = train_counts(session.sets, session.config.order)
    record = RunRecord(
        schema_version=SCHEMA_VERSION,
        recipe=session.job.recipe,
        status=status,
        config=session.config,
        system=session.job.system,
        data_url=absolute_url(session.shards.url),
        fold=session.shards.fold,
        mixed_urls=tuple(absolute_url(shards.url) for shards in session.sets[1:]),
        manifest_sha256=session.shards.manifest_sha256,
        class_names=manifest.class_names,
        view=manifest.image.view,
        num_parameters=sum(p.numel() for p in session.net.parameters()),
        train_counts=dict(zip(manifest.class_names, counts.tolist(), strict=True)),
        memory_format=session.memory_format,
        world_size=session.accelerator.num_processes,
        device=_device_name(session.accelerator.device),
        threads=torch.get_num_threads(),
        versions=versions(),
        git=git_state(),
        command=session.job.command,
        best=Best(monitor=session.config.monitor, value=state.best, epoch=state.best_epoch),
        ended=state.ended or None,
    )
    path = session.job.out / "run.json"
    with naming(str(path)):
        write_document(path, record)


def complete_run(session: Session) -> None:
    """Say in run.json that a run is finished, if the process that ended it did not live to."""
    path = session.job.out / "run.json"
    if not path.exists() or read_run(session.job.out).status != "finished":
        write_run(session, "finished")


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {os.cpu_count()} cores"
