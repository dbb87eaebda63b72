"""What a table's columns hold, and what each may mean: only their first rows are looked at."""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from ingest.tables.synapse_tables import open_table
from shards.tabular.table_files import points_of
from shards.tabular.table_values import Kind, convert

ROWS = 100_000
KINDS: tuple[Kind, ...] = ("position", "id", "number", "text", "value")
AXIS = re.compile(r"(?<![A-Za-z])[xX](?![A-Za-z])|(?<=[a-z])X$")

Points = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ColumnFacts:
    """A column: the narrowest kind that it fits, and its first values, as such and as text."""

    name: str
    kind: Kind
    values: pd.Series
    texts: pd.Series
    points: Points | None = None  # (n, 3), of positions

    @property
    def distinct(self) -> int:
        """Number of values, empty cells not counted."""
        return int(self.texts.nunique())

    @property
    def is_unique(self) -> bool:
        """True if no value is empty and none comes twice."""
        return bool(self.texts.notna().all()) and self.distinct == len(self.texts)

    @property
    def is_name(self) -> bool:
        """True if ids in it are names: text, or digits that begin with 0."""
        if self.kind != "id":
            return True
        return bool((self.texts.dropna() != self.values.dropna().astype(str)).any())

    def __str__(self) -> str:
        some = self.values.dropna()
        if self.kind == "position":
            return f"{self.name}: positions"
        if self.kind in ("id", "number"):
            return f"{self.name}: {some.min()} to {some.max()}" if len(some) else f"{self.name}: -"
        shown = ", ".join(str(value)[:20] for value in some.unique()[:4])
        return f"{self.name}: {shown}{', …' if self.distinct > 4 else ''}"


@dataclass(frozen=True, slots=True)
class TableFacts:
    """A table's path, its columns by name, and how many of its first rows were looked at."""

    path: str
    columns: Mapping[str, ColumnFacts]
    rows: int

    def named(
        self,
        patterns: Sequence[str],
        fits: Callable[[ColumnFacts], bool],
        besides: Collection[str] = (),
    ) -> str | None:
        """Return the first column that fits, by the first of the patterns that its name is."""
        for pattern in patterns:
            for one in self.columns.values():
                name = re.sub(r"[\s-]+", "_", one.name.strip())
                is_so_named = re.fullmatch(pattern, name, re.IGNORECASE)
                if is_so_named and one.name not in besides and fits(one):
                    return one.name
        return None

    def points(self, position: str) -> Points:
        """Return positions (n, 3) as the table has them: a column of lists, or three by commas."""
        names = [part.strip() for part in position.split(",")]
        if len(names) == 1:
            points = self.columns[names[0]].points
            assert points is not None
            return points
        return np.stack([self.columns[name].values.to_numpy(np.float64) for name in names], axis=1)

    def positions(self) -> list[str]:
        """Return the names of positions, as a job names them."""
        found = [one.name for one in self.columns.values() if one.kind == "position"]
        for name in self.columns:
            for match in AXIS.finditer(name):
                letters = "xyz" if match[0] == "x" else "XYZ"
                axes = [name[: match.start()] + at + name[match.end() :] for at in letters]
                of = [self.columns[axis] for axis in axes if axis in self.columns]
                if len(of) == len(axes) and all(one.kind in ("id", "number") for one in of):
                    found.append(", ".join(axes))
        return found


def look_at_table(path: str) -> TableFacts:
    """Return what the first rows of a table hold."""
    table = open_table(path)
    batch = next(iter(table.raw(range(len(table.names)))), None)
    if batch is None or not len(batch):
        raise ValueError(f"{path}: a table without rows; export it again")
    batch = batch.slice(0, ROWS)
    columns = {}
    for name, column in zip(table.names, batch.columns, strict=True):
        found = {}
        for kind in KINDS:
            try:
                found[kind] = convert(column, kind, where=path)
            except ValueError:
                continue
        if not found:
            continue
        kind = next(iter(found))
        points = points_of(found[kind]) if kind == "position" else None
        texts = found.get("text", found.get("value", found[kind]))
        columns[name] = ColumnFacts(
            name, kind, found[kind].to_pandas(), texts.to_pandas().astype(object), points
        )
    return TableFacts(path, columns, len(batch))
