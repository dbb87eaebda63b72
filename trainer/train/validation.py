"""Between epochs: validation, the best checkpoint, and reasons to end early."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from eval.metrics.metrics import balanced_accuracy_of, confusion, predict, recalls
from trainer.models.classifier import sections_to_read
from trainer.models.infer import Floats, softmax_of, split_probabilities
from trainer.setup.classes import is_judged, val_counts
from trainer.train.logs import RunLog
from trainer.train.run_state import Session
from trainer.train.saving import save_session

COLLAPSES = 2  # validations in a row


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """Scores of the validation split at the most probable class."""

    loss: float
    accuracy: float
    balanced_accuracy: float
    recalls: dict[str, float]  # by class

    @property
    def one_class_only(self) -> bool:
        """True where all predictions are of one class."""
        *others, highest = sorted(self.recalls.values())
        return highest == 1.0 and not any(others)

    def numbers(self) -> dict[str, float]:
        """Return each score by its name in the log."""
        return {
            "loss": self.loss,
            "accuracy": self.accuracy,
            "balanced_accuracy": self.balanced_accuracy,
            **{f"recall_{name}": value for name, value in self.recalls.items()},
        }


def end_epoch(session: Session, log: RunLog) -> None:
    """Validate, log, and save as `last`, and as `best` when it is.

    With a moving average both are validated, and the average decides. Where the validation split
    holds one class alone, the last epoch is the best.
    """
    state, config, monitor = session.progress, session.config, session.config.monitor
    train_loss = state.loss_sum / session.stream.steps_per_epoch
    state.loss_sum = 0.0
    step, epoch = session.steps_done, state.epoch - 1
    result = validate(session, session.net)
    log.write("val", step, epoch, {**result.numbers(), "train_loss": train_loss})
    if session.average is not None:
        result = validate(session, session.average.module)
        log.write("val_average", step, epoch, result.numbers())
    session.say(
        f"epoch {state.epoch}/{config.epochs}: train loss {train_loss:.4f}, val loss "
        f"{result.loss:.4f}, val balanced accuracy {result.balanced_accuracy:.4f}"
    )
    judged = is_judged(val_counts(session.shards))
    value = result.loss if monitor == "loss" else result.balanced_accuracy
    better = state.best is None or (value < state.best if monitor == "loss" else value > state.best)
    if better or not judged:
        state.best, state.best_epoch = value, epoch
    if judged:
        _consider_ending(session, result)
    save_session(session, ["last", "best"] if state.best_epoch == epoch else ["last"])


def validate(session: Session, model: nn.Module) -> Scores:
    """Return the scores of the validation split by `model`: the net or its moving average."""
    accelerator, shards = session.accelerator, session.shards
    if accelerator.num_processes > 1:
        for buffer in model.buffers():  # rank 0's are saved
            torch.distributed.broadcast(buffer, 0)
    model.eval()
    with accelerator.autocast():
        probabilities = split_probabilities(
            accelerator,
            softmax_of(model),
            shards,
            "val",
            batch_size=max(1, session.config.batch_size // accelerator.num_processes),
            readers=session.job.system.readers,
            sections=sections_to_read(session.config, shards.manifest.image),
        )
    return scores(shards.index("val").label, probabilities, shards.manifest.class_names)


def scores(
    labels: npt.NDArray[np.integer], probabilities: Floats, class_names: tuple[str, ...]
) -> Scores:
    """Return the scores of probabilities (n, k) for labels (n,)."""
    labels = labels.astype(np.int64)
    predicted = predict(probabilities, None)
    counts = confusion(labels, predicted, len(class_names)).astype(np.float64)
    of_label = probabilities[np.arange(len(labels)), labels]
    return Scores(
        loss=float(-np.log(np.maximum(of_label, 1e-12)).mean()),
        accuracy=float((predicted == labels).mean()),
        balanced_accuracy=float(balanced_accuracy_of(counts)),
        recalls=dict(zip(class_names, recalls(counts).tolist(), strict=True)),
    )


def _consider_ending(session: Session, result: Scores) -> None:
    state, config = session.progress, session.config
    state.collapsed = state.collapsed + 1 if state.epoch > 1 and result.one_class_only else 0
    if state.collapsed >= COLLAPSES:
        text = f"the model calls everything one class, {state.collapsed} epochs in a row"
        session.say(f"warning: {text}; lower --lr, or use --class-weights inverse")
        if config.on_collapse == "stop":
            state.ended = text
    waited = state.epoch - 1 - state.best_epoch
    if config.patience and waited >= config.patience:
        state.ended = f"no better validation in {waited} epochs"
