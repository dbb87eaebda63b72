"""A training run's folder beside its predictions: run.json and metrics.jsonl."""

import math
from dataclasses import dataclass
from pathlib import Path

from pydantic import ConfigDict, with_config

from shards.contract.documents import parse_json, read_bytes

# Of a document of the trainer only these keys are read; the others are the trainer's own.
partial = with_config(ConfigDict(strict=True, extra="ignore"))
CURE = "give a run's folder or a predictions file"
LEARNING = "metrics.jsonl"
Curves = dict[str, list[tuple[float, float]]]  # of (epoch, value)


@partial
@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """The part of a run's config that the report shows."""

    model: str | None = None
    crop: tuple[int, ...] | None = None
    weights: str | None = None
    epochs: int | None = None
    batch_size: int | None = None
    optimizer: str | None = None
    lr: float = 0.0
    schedule: str | None = None
    loss: str | None = None


@partial
@dataclass(frozen=True, kw_only=True, slots=True)
class Best:
    """The epoch whose checkpoint is the best, from 0."""

    epoch: int


@partial
@dataclass(frozen=True, kw_only=True, slots=True)
class RunInfo:
    """The part of run.json that evaluation reads."""

    recipe: str | None = None
    config: TrainConfig | None = None
    num_parameters: int | None = None
    best: Best | None = None
    data_url: str | None = None
    fold: int | None = None
    manifest_sha256: str | None = None


@partial
@dataclass(frozen=True, kw_only=True, slots=True)
class LearningRow:
    """A line of metrics.jsonl, as far as it is drawn."""

    kind: str
    epoch: int = 0
    train_loss: float | None = None
    balanced_accuracy: float | None = None


def read_run(folder: Path) -> tuple[RunInfo, str]:
    """Return a run's description and its text."""
    path = folder / "run.json"
    data = read_bytes(path, what="run description", cure=CURE)
    info = parse_json(RunInfo, data, where=f"{path}: not a run description", cure=CURE)
    return info, data.decode()


def read_learning(folder: Path) -> tuple[Curves, int]:
    """Return training loss and validation balanced accuracy by epoch, and how many lines are bad.

    A line that is no JSON object of the right types, as a killed run may leave, is left out.
    """
    path = folder / LEARNING
    lines = path.read_bytes().splitlines() if path.is_file() else []
    rows = [row for line in lines if line.strip() for row in [_row(line)]]
    val = [row for row in rows if row is not None and row.kind == "val"]
    curves = {
        "training loss": [(row.epoch + 1.0, row.train_loss) for row in val],
        "validation balanced accuracy": [(row.epoch + 1.0, row.balanced_accuracy) for row in val],
    }
    return {
        name: [
            (epoch, value) for epoch, value in points if value is not None and math.isfinite(value)
        ]
        for name, points in curves.items()
    }, rows.count(None)


def _row(line: bytes) -> LearningRow | None:
    try:
        return parse_json(LearningRow, line, where=LEARNING, cure="")
    except ValueError:
        return None
