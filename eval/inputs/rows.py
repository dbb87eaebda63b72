"""The rows of a table of predictions that are scored, and tables of all splits."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from shards.contract.schema import SPLIT_NAMES, SPLITS

ALL = "all"
PACKED = (".gz", ".zst", ".bz2")
Images = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True, slots=True)
class Tables:
    """Labelled rows of each split; `val` may be empty. Columns as the shards' index."""

    train: pd.DataFrame
    val: pd.DataFrame
    test: pd.DataFrame
    num_classes: int


def name_of(path: Path) -> str:
    """Return a table's name without the endings that say what kind of file it is."""
    return Path(path.stem).stem if path.suffix.lower() in PACKED else path.stem


def split_codes(column: pd.Series) -> pd.Series:
    """Return our names of splits, whatever a table calls them; null where it names no split."""
    return column.astype("string").str.strip().str.lower().map(SPLIT_NAMES)


def rows_of_split(
    frame: pd.DataFrame, split: str, *, where: str
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Return the rows that are scored, and what the reader must know of the choice.

    `split` is one of `SPLITS`, or `ALL`. A table without splits is taken whole; one with splits,
    none of whose rows are of `split`, is a `ValueError`.
    """
    if "split" not in frame or frame["split"].isna().all():
        return frame, (
            f"The table names no splits: all {len(frame):,} rows are scored as {split}.",
        )
    if split == ALL:
        return frame, ("All rows are scored, of whatever split they are, as was asked for.",)
    codes = split_codes(frame["split"])
    counts = frame["split"].astype("string").fillna("(empty)").value_counts(sort=False)
    found = ", ".join(f"{name} ({count})" for name, count in counts.items() if count)
    if codes.isna().all():
        raise ValueError(
            f"{where}: column split names no split that is known, found {found}; expected "
            f"{', '.join(SPLIT_NAMES)}, or score every row with --split {ALL}"
        )
    rows = frame[codes == split].reset_index(drop=True)
    if not len(rows):
        raise ValueError(
            f"{where}: no row of split {split}, found {found}; predict {split}, or name what to "
            f"score with --split ({', '.join(SPLITS)} or {ALL})"
        )
    notes = []
    if unknown := int(codes.isna().sum()):
        notes.append(f"{unknown:,} rows name no known split and are left out (found {found}).")
    if split != SPLITS[-1]:
        notes.append(f"The scores are of split {split}, as requested, not of test.")
    return rows, tuple(notes)
