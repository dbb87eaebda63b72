"""One split of one or several shard sets, as the stream reads it."""

import ast
from collections.abc import Sequence

import numpy as np

from shards.contract.schema import INDEX_COLUMNS
from shards.stream.order import OrderSpec, Samples
from shards.stream.section_view import Sections
from shards.stream.shardset import ShardSet

EXAMPLE = "label == 1 and size > 200"
FILTER_NODES = (
    ast.Expression, ast.Name, ast.Load, ast.Constant, ast.List, ast.Tuple, ast.Compare, ast.cmpop,
    ast.BoolOp, ast.boolop, ast.UnaryOp, ast.unaryop,
    ast.BinOp, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Mod, ast.BitAnd, ast.BitOr,
)  # fmt: skip


class Mixture:
    """The samples of `split` in all `sets`, one set after the other.

    `shape` and `dtype` are those of the images handed out: sections of cubes if asked for.
    """

    def __init__(
        self, sets: Sequence[ShardSet], split: str, sections: Sections | None = None
    ) -> None:
        self.sets, self.split, self._sections = tuple(sets), split, sections
        _require_alike(self.sets)
        image = self.sets[0].manifest.image
        self.shape = sections.shape(image.shape) if sections else image.shape
        self.dtype = image.dtype
        self._indices = [shards.index(split) for shards in self.sets]
        self._starts = np.cumsum([0, *(len(index) for index in self._indices)])
        self._first_shard = np.cumsum([0, *(len(index.shards) for index in self._indices)])
        self.samples = self._samples()

    @property
    def is_remote(self) -> bool:
        """True if any set is read over a network."""
        return any(shards.storage.is_remote for shards in self.sets)

    def eligible(self, spec: OrderSpec) -> np.ndarray | None:
        """Return the rows (m,) int64 that `spec.where` lets through; None for all of them."""
        if spec.weights is not None and len(spec.weights) != len(self.sets):
            raise ValueError(
                f"{len(spec.weights)} weights for {len(self.sets)} shard sets; give one for each"
            )
        if not spec.where:
            return None
        masks = [_holds(spec.where, shards, self.split) for shards in self.sets]
        rows = np.flatnonzero(np.concatenate(masks))
        if not len(rows):
            raise ValueError(f"no sample of {self.split} fulfils {spec.where!r}; widen the filter")
        return rows

    def read_into(self, rows: np.ndarray, out: np.ndarray) -> None:
        """Read the images of `rows` into `out` (b, *shape)."""
        if len(self.sets) == 1:
            self.sets[0].read_into(self.split, rows, out, self._sections)
            return
        source = np.searchsorted(self._starts, rows, side="right") - 1
        for item, row in enumerate(rows):
            shards, start = self.sets[source[item]], self._starts[source[item]]
            shards.read_into(self.split, row[None] - start, out[item : item + 1], self._sections)

    def expect(self, rows: np.ndarray) -> None:
        """Tell the storages which shards will be read next, in the order of these rows."""
        numbers, first = np.unique(self.samples.shard[rows], return_index=True)
        ordered = numbers[np.argsort(first)]
        for number, shards in enumerate(self.sets):
            start, stop = self._first_shard[number : number + 2]
            ours = ordered[(ordered >= start) & (ordered < stop)] - start
            infos = self._indices[number].shards
            shards.storage.expect([infos[shard].name for shard in ours])

    def _samples(self) -> Samples:
        if len(self.sets) == 1:
            index = self._indices[0]
            source = np.broadcast_to(np.int16(0), len(index))
            return Samples(
                label=index.label, neuron_id=index.neuron_id, shard=index.shard, source=source
            )
        counts = [len(index) for index in self._indices]
        shard = [
            i.shard + first for i, first in zip(self._indices, self._first_shard, strict=False)
        ]
        return Samples(
            label=np.concatenate([index.label for index in self._indices]),
            neuron_id=np.concatenate([index.neuron_id for index in self._indices]),
            shard=np.concatenate(shard),
            source=np.repeat(np.arange(len(counts), dtype=np.int16), counts),
        )


def _require_alike(sets: Sequence[ShardSet]) -> None:
    first = sets[0]
    for other in sets[1:]:
        for what in ("class_names", "image"):
            mine, theirs = getattr(first.manifest, what), getattr(other.manifest, what)
            if mine != theirs:
                raise ValueError(
                    f"{first.url} and {other.url} cannot be mixed: {what} {mine} against {theirs}"
                )


def _holds(where: str, shards: ShardSet, split: str) -> np.ndarray:
    import pandas as pd  # slow to import, and few runs have a filter

    index = shards.index(split)
    frame = pd.DataFrame({name: index.column(name) for name in _columns_of(where)})
    try:
        result = frame.eval(where)
    except (ValueError, SyntaxError, TypeError, KeyError, NameError, NotImplementedError) as error:
        raise ValueError(f"filter {where!r} cannot be evaluated: {error}") from None
    if not isinstance(result, pd.Series) or result.dtype != bool:
        raise ValueError(f"filter {where!r} is no condition on samples; write one as {EXAMPLE!r}")
    return result.to_numpy()


def _columns_of(where: str) -> list[str]:
    """Return the index columns that a filter names; anything but comparing them is an error."""
    try:
        nodes = list(ast.walk(ast.parse(where.strip(), mode="eval")))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"filter {where!r} cannot be read: {error}; write {EXAMPLE!r}") from None
    for node in nodes:
        text_sum = isinstance(node, ast.BinOp) and any(
            isinstance(side, ast.Constant) and isinstance(side.value, str)
            for side in (node.left, node.right)
        )
        if text_sum or not isinstance(node, FILTER_NODES):
            raise ValueError(
                f"filter {where!r} holds {type(node).__name__}; compare index columns with "
                f"values, as in {EXAMPLE!r}"
            )
    names = sorted({node.id for node in nodes if isinstance(node, ast.Name)})
    unknown = [name for name in names if name not in INDEX_COLUMNS]
    if unknown or not names:
        raise ValueError(
            f"filter {where!r} names {', '.join(unknown) or 'no column'}; index columns are "
            f"{', '.join(INDEX_COLUMNS)}"
        )
    return names
