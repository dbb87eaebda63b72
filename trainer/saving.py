"""What a run leaves in its folder, run.json and checkpoints, and going on from those."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from shards.files import write_json
from shards.shardset import ShardSet
from trainer import state as checkpoints
from trainer.config import config_from_json, config_to_json, differences
from trainer.logs import git_state, versions
from trainer.models import inputs_of
from trainer.session import Job, Progress, Session, open_stream


def saved_state(job: Job, shards: ShardSet) -> dict[str, Any] | None:
    """Return the state of the run's last checkpoint, None where there is none.

    One of other data or of another config is an error.
    """
    if not checkpoints.has_checkpoint(job.checkpoints, "last"):
        return None
    folder = job.checkpoints / "last"
    saved = checkpoints.load_state(folder)
    if saved["manifest_sha256"] != shards.manifest_sha256:
        raise ValueError(
            f"{job.out} was trained on other data (manifest {saved['manifest_sha256'][:12]}, but "
            f"{shards.url} has {shards.manifest_sha256[:12]}): cannot resume with other data; "
            "give the same --data or another --out"
        )
    config = config_from_json(saved["config"], where=str(folder / "state.json"))
    if changed := differences(config_to_json(config), config_to_json(job.config)):
        raise ValueError(
            f"{job.out} was trained with another config ({', '.join(changed)}); give the same "
            "values to continue it, or another --out to start anew"
        )
    return saved


def restore(session: Session, saved: dict[str, Any], name: str = "last") -> None:
    """Put moving average, optimiser and scaler back as they were saved beside `saved`."""
    folder = session.job.checkpoints / name
    if session.average is not None:
        session.average.load(checkpoints.load_tensors(folder, "average"), saved["average_steps"])
    tensors = checkpoints.load_tensors(folder, "optimizer")
    checkpoints.restore_optimizer(session.optimizer.optimizer, tensors, saved["optimizer"])
    if session.accelerator.scaler is not None and saved["scaler"]:
        session.accelerator.scaler.load_state_dict(saved["scaler"])


def roll_back(session: Session, name: str) -> None:
    """Go back to the checkpoint `name` and halve the rate from there on."""
    factor = session.progress.rate_factor / 2.0
    if not checkpoints.has_checkpoint(session.job.checkpoints, name):
        raise RuntimeError("the loss was not a number before the first checkpoint; lower --lr")
    folder = session.job.checkpoints / name
    saved = checkpoints.load_state(folder)
    session.net.load_state_dict(checkpoints.load_tensors(folder, "model"))
    session.progress = Progress(**{**saved["progress"], "rate_factor": factor})
    session.losses.clear()
    restore(session, saved, name)
    session.stream.close()
    session.stream = open_stream(session.job, session.accelerator, session.shards, session.progress)


def save_session(session: Session, names: list[str]) -> None:
    """Save a checkpoint under `names`; every rank calls this, rank 0 writes."""
    session.add_losses()
    if session.accelerator.is_main_process:
        tensors, plain = checkpoints.flatten_optimizer(session.optimizer.optimizer.state_dict())
        scaler = session.accelerator.scaler
        state = {
            "schema_version": checkpoints.SCHEMA_VERSION,
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
        "schema_version": checkpoints.SCHEMA_VERSION,
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


def _absolute(url: str) -> str:
    return url if "://" in url else str(Path(url).resolve())


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {os.cpu_count()} cores"
