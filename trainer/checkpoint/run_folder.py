"""What a run leaves in its folder, run.json and checkpoints, and going on from those."""

import os
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from pydantic import ConfigDict, with_config

from shards.contract.documents import read_document, write_document
from shards.stream.shardset import ShardSet
from trainer.checkpoint import checkpoint as checkpoints
from trainer.checkpoint.checkpoint import SCHEMA_VERSION, State
from trainer.checkpoint.writing import naming
from trainer.config import Config, System, config_to_json, differences
from trainer.models.classifier import inputs_of
from trainer.train.logs import GitState, git_state, versions
from trainer.train.run_state import Job, Session, open_stream


@dataclass(frozen=True, kw_only=True, slots=True)
class Best:
    """The best validation so far; `epoch` is -1 before the first."""

    monitor: str
    value: float | None
    epoch: int


@with_config(ConfigDict(strict=True, extra="ignore", allow_inf_nan=False))
@dataclass(frozen=True, kw_only=True, slots=True)
class RunRecord:
    """`run.json`: what a run is, and how far it came."""

    schema_version: int
    recipe: str
    status: str  # running, stopped or finished
    config: Config
    system: System
    data_url: str
    manifest_sha256: str
    class_names: tuple[str, ...]
    view: str
    num_parameters: int
    train_counts: dict[str, int]
    memory_format: str
    world_size: int
    device: str
    threads: int
    versions: dict[str, str | int | None]
    git: GitState | None
    command: tuple[str, ...]
    best: Best
    ended: str | None  # why the run ended before its last epoch


def read_run(folder: Path) -> RunRecord:
    """Return what a run folder says of itself; a missing or altered run.json is a `ValueError`."""
    cure = "train it first, check the path, or give --data"
    return read_document(RunRecord, folder / "run.json", what="run", cure=cure)


def saved_state(job: Job, shards: ShardSet) -> State | None:
    """Return the state of the run's last checkpoint, None where there is none.

    One of other data or of another config is an error, and so are predictions without the
    checkpoint that made them.
    """
    if not checkpoints.has_checkpoint(job.checkpoints, "last"):
        if (job.out / "predictions").exists():
            raise ValueError(
                f"{job.out} holds predictions but no checkpoint: they are another model's; "
                "choose another --out, or delete them"
            )
        return None
    folder = job.checkpoints / "last"
    saved = checkpoints.load_state(folder)
    if saved.manifest_sha256 != shards.manifest_sha256:
        raise ValueError(
            f"{job.out} was trained on other data (manifest {saved.manifest_sha256[:12]}, but "
            f"{shards.url} has {shards.manifest_sha256[:12]}): cannot resume with other data; "
            "give the same --data or another --out"
        )
    if changed := differences(config_to_json(saved.config), config_to_json(job.config)):
        raise ValueError(
            f"{job.out} was trained with another config ({', '.join(changed)}); give the same "
            "values to continue it, or another --out to start anew"
        )
    return saved


def restore(session: Session, saved: State, name: str = "last") -> None:
    """Put moving average, optimiser and scaler back as they were saved beside `saved`."""
    folder = session.job.checkpoints / name
    if session.average is not None:
        tensors = checkpoints.load_tensors(folder, "average", saved)
        session.average.load(tensors, saved.average_steps)
    tensors = checkpoints.load_tensors(folder, "optimizer", saved)
    checkpoints.restore_optimizer(session.optimizer.optimizer, tensors)
    if session.accelerator.scaler is not None and saved.scaler:
        session.accelerator.scaler.load_state_dict(saved.scaler)


def roll_back(session: Session, name: str) -> None:
    """Go back to the checkpoint `name` and halve the rate from there on."""
    factor = session.progress.rate_factor / 2.0
    if not checkpoints.has_checkpoint(session.job.checkpoints, name):
        raise RuntimeError("the loss was not a number before the first checkpoint; lower --lr")
    folder = session.job.checkpoints / name
    saved = checkpoints.load_state(folder)
    session.net.load_state_dict(checkpoints.load_tensors(folder, "model", saved))
    session.progress = replace(saved.progress, rate_factor=factor)
    session.losses.clear()
    restore(session, saved, name)
    session.stream.close()
    session.stream = open_stream(session.job, session.accelerator, session.shards, session.progress)


def save_session(session: Session, names: list[str]) -> None:
    """Save a checkpoint under `names`; every rank calls this, rank 0 writes."""
    session.add_losses()
    if session.accelerator.is_main_process:
        optimizer = session.optimizer.optimizer.state_dict()
        scaler = session.accelerator.scaler
        state = State(
            schema_version=SCHEMA_VERSION,
            config=session.config,
            manifest_sha256=session.shards.manifest_sha256,
            inputs=inputs_of(session.shards.manifest),
            progress=session.progress,
            memory_format=session.memory_format,
            world_size=session.accelerator.num_processes,
            average_steps=session.average.steps if session.average else 0,
            scaler=None if scaler is None else scaler.state_dict(),
        )
        groups = {
            "model": session.net.state_dict(),
            "optimizer": checkpoints.flatten_optimizer(optimizer),
        }
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
    record = RunRecord(
        schema_version=SCHEMA_VERSION,
        recipe=session.job.recipe,
        status=status,
        config=session.config,
        system=session.job.system,
        data_url=absolute_url(session.shards.url),
        manifest_sha256=session.shards.manifest_sha256,
        class_names=manifest.class_names,
        view=manifest.image.view,
        num_parameters=sum(p.numel() for p in session.net.parameters()),
        train_counts=manifest.splits["train"].class_counts,
        memory_format=session.memory_format,
        world_size=session.accelerator.num_processes,
        device=_device_name(session.accelerator.device),
        threads=torch.get_num_threads(),
        versions=versions(),
        git=git_state(),
        command=session.job.command,
        best=_best(session),
        ended=session.progress.ended or None,
    )
    _write(session, record)


def complete_run(session: Session) -> None:
    """Say in run.json that a run is finished, if the process that ended it did not live to."""
    if not session.accelerator.is_main_process:
        return
    if not (session.job.out / "run.json").exists():
        write_run(session, "finished")
        return
    record = read_run(session.job.out)
    if record.status != "finished":
        ended = session.progress.ended or None
        _write(session, replace(record, status="finished", best=_best(session), ended=ended))


def _best(session: Session) -> Best:
    return Best(
        monitor=session.config.monitor,
        value=session.progress.best,
        epoch=session.progress.best_epoch,
    )


def _write(session: Session, record: RunRecord) -> None:
    path = session.job.out / "run.json"
    with naming(str(path)):
        write_document(path, record)


def absolute_url(url: str) -> str:
    """Return a shard set's URL so that it means the same from any folder."""
    return url if "://" in url else str(Path(url).resolve())


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {os.cpu_count()} cores"
