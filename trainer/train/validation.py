"""What happens between epochs: validation, the best checkpoint, and reasons to end early."""

from contextlib import nullcontext

import torch

from trainer.checkpoint.run_folder import save_session
from trainer.models.infer import scores, softmax_of, split_probabilities
from trainer.setup.classes import class_counts, is_judged
from trainer.train.logs import RunLog
from trainer.train.run_state import Session

COLLAPSES = 2  # validations in a row


def end_epoch(session: Session, log: RunLog, *, rollback: bool) -> bool:
    """Validate, log, and save as `last`, and as `best` when it is.

    With a moving average both are validated, and the average decides. Where the validation split
    holds one class alone, the last epoch is the best. Returns whether to go back to the best
    checkpoint, which nothing is saved before; it never says so without `rollback`.
    """
    state, epoch = session.progress, session.progress.epoch
    raw = validate(session, averaged=False)
    raw["train_loss"] = state.loss_sum / session.stream.steps_per_epoch
    log.write("val", session.steps_done, epoch - 1, raw)
    found = raw
    if session.average is not None:
        found = validate(session, averaged=True)
        log.write("val_average", session.steps_done, epoch - 1, found)
    session.say(
        f"epoch {epoch}/{session.config.epochs}: train loss {raw['train_loss']:.4f}, val loss "
        f"{found['loss']:.4f}, val balanced accuracy {found['balanced_accuracy']:.4f}"
    )
    state.loss_sum = 0.0
    names = ["last"]
    value = found[session.config.monitor]
    judged = is_judged(class_counts(session.shards, "val"))
    if not judged or state.best is None or _better(value, state.best, session.config.monitor):
        state.best, state.best_epoch = value, epoch - 1
        names.append("best")
    if judged and _consider_ending(session, found, rollback=rollback):
        return True
    save_session(session, names)
    return False


def validate(session: Session, *, averaged: bool) -> dict[str, float]:
    """Return the scores of the validation split, by the raw or the averaged weights."""
    _share_buffers(session)
    session.net.eval()
    accelerator, average = session.accelerator, session.average
    weights = average.applied(session.net) if averaged and average is not None else nullcontext()
    with weights, accelerator.autocast():
        probabilities = split_probabilities(
            accelerator,
            softmax_of(session.net),
            session.shards,
            "val",
            batch_size=max(1, session.config.batch_size // accelerator.num_processes),
            readers=session.job.system.readers,
        )
    names = session.shards.manifest.class_names
    return scores(session.shards.index("val").label, probabilities, names)


def one_class_only(found: dict[str, float]) -> bool:
    """Say whether these scores are of predictions that are all of one class."""
    recalls = sorted(value for name, value in found.items() if name.startswith("recall_"))
    return recalls[-1] == 1.0 and not any(recalls[:-1])


def _consider_ending(session: Session, found: dict[str, float], *, rollback: bool) -> bool:
    state, config = session.progress, session.config
    one = state.epoch > 1 and one_class_only(found)
    state.collapsed = state.collapsed + 1 if one else 0
    if state.collapsed >= COLLAPSES:
        text = f"the model calls everything one class, {state.collapsed} epochs in a row"
        session.say(f"warning: {text}; lower --lr, or use --class-weights inverse")
        if config.on_collapse == "rollback" and rollback:
            return True
        if config.on_collapse != "say":
            state.ended = text
    waited = state.epoch - 1 - state.best_epoch
    if config.patience and waited >= config.patience:
        state.ended = f"no better validation in {waited} epochs"
    return False


def _better(value: float, best: float, monitor: str) -> bool:
    return value < best if monitor == "loss" else value > best


def _share_buffers(session: Session) -> None:
    """Give every rank rank 0's buffers, which are the ones that are saved."""
    if session.accelerator.num_processes > 1:
        for buffer in session.net.buffers():
            torch.distributed.broadcast(buffer, 0)
