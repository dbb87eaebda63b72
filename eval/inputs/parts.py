"""Predictions in parts: a folder that `trainer predict` fills from a planned data set.

    parts.json              a `Parts`
    part-000000.parquet     predictions of some blocks of the plan, a table of `eval.inputs`
    rejects-000000.parquet  the samples of these blocks without a usable image, and the reason
A part that is there is complete: its rejects are written before it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from eval.inputs.predictions import PredictionsInfo, read_predictions
from shards.contract.documents import document, read_document

PARTS = "parts.json"
CURE = "predict into another folder, or copy it again"


@document
@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """`parts.json`: what all parts are of; parts of anything else do not go beside them."""

    predictions: PredictionsInfo
    num_parts: int
    plan_sha256: str
    models: tuple[str, ...]  # SHA-256 of each model's state.json
    splits: tuple[str, ...]
    raw: bool
    in_plane: bool
    embed: bool

    def __post_init__(self) -> None:
        if self.num_parts < 1:
            raise ValueError(f"num_parts must be positive, got {self.num_parts}")


def has_parts(folder: Path) -> bool:
    """Tell whether a folder holds predictions in parts."""
    return (folder / PARTS).is_file()


def read_parts_info(folder: Path) -> Parts:
    """Return what a folder's parts are of."""
    return read_document(Parts, folder / PARTS, what="predictions in parts", cure=CURE)


def part_path(folder: Path, number: int) -> Path:
    """Return where the predictions of a part are."""
    return folder / f"part-{number:06d}.parquet"


def rejects_path(folder: Path, number: int) -> Path:
    """Return where the rejects of a part are; a part without any has no such file."""
    return folder / f"rejects-{number:06d}.parquet"


def missing_parts(folder: Path, parts: Parts) -> list[int]:
    """Return the numbers of the parts that are not there."""
    return [n for n in range(parts.num_parts) if not part_path(folder, n).is_file()]


def read_parts(
    folder: Path, keep: Callable[[pd.DataFrame], pd.DataFrame] = lambda frame: frame
) -> tuple[pd.DataFrame, PredictionsInfo]:
    """Return the predictions of all parts, of each what `keep` leaves of it, and what made them.

    One part at a time is in memory, beside what was kept.
    """
    info = read_parts_info(folder).predictions
    kept = [keep(part) for part in each_part(folder)]
    if not sum(map(len, kept)):
        raise ValueError(f"{folder}: no predictions of what is asked for; predict such a split")
    return pd.concat(kept, ignore_index=True), info


def each_part(folder: Path) -> Iterator[pd.DataFrame]:
    """Yield the checked table of every part with rows; a part that is missing is an error."""
    parts = read_parts_info(folder)
    if missing := missing_parts(folder, parts):
        raise ValueError(
            f"{folder}: {len(missing)} of {parts.num_parts} parts are missing, first "
            f"{part_path(folder, missing[0]).name}; run the same `trainer predict` again, parts "
            "that are there are kept"
        )
    for number in range(parts.num_parts):
        path = part_path(folder, number)
        frame, info = read_predictions(path, may_be_empty=True)
        if info != parts.predictions:
            raise ValueError(f"{path}: not a part of what {PARTS} beside it says; {CURE}")
        if len(frame):
            yield frame
