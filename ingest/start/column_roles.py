"""Which column of a table is what, by its name and what it holds."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from ingest.start.table_facts import ColumnFacts, TableFacts
from shards.contract.schema import SPLIT_NAMES

FEW = 50  # values of a column that says a class
WHO = r"(synaptic)?_?(pt_)?(root|neuron|cell|seg(ment)?|axon|body)?_?(id|name)?"
SYNAPSE = (
    "id",
    r"syn(apse)?_?(id|name)?",
    r"(file|image)_?(name|id|path)?|path",
    r"name|key|sample(_?id)?",
)
PRE = (f"pre{WHO}", r"(neuron|axon|root|cell|body)(_?(id|name))?", "source(_id)?")
POST = (f"post{WHO}", "target(_id)?")
LABEL = (
    r"label|class(_?name)?|ei",
    r"classification_system",
    r"(cell_?|synapse_?)?type",
    r"(neuro)?transmitter|nt(_type)?|kind|category|polarity|sign",
)
SPLIT = (r"split|subset|set|partition|fold",)
FILE = (r"(file|image)_?(name|path)?|path|id|name|key",)
NUCLEUS = (r"target_id|nucleus(_?id)?",)
EXCITATORY = re.compile(r"(.*[^a-z])?(e|exc|excit\w*|glut\w*|asym\w*)([^a-z].*)?")
INHIBITORY = re.compile(r"(.*[^a-z])?(i|inh|inhib\w*|gaba\w*|sym\w*)([^a-z].*)?")


@dataclass(frozen=True, slots=True)
class Roles:
    """Names of columns: None where a table has none. `positions` by `pre`, `ctr`, `post`."""

    synapse_id: str | None
    pre_root_id: str | None
    post_root_id: str | None
    positions: dict[str, str] = field(default_factory=dict)
    label: str | None = None
    split: str | None = None


def roles_of(table: TableFacts) -> Roles:
    """Return which columns of a synapse table are what."""
    positions: dict[str, str] = {}
    for name in table.positions():
        low = name.lower()
        role = "pre" if low.startswith("pre") else "post" if low.startswith("post") else "ctr"
        positions.setdefault(role, name)
    used = {part.strip() for name in positions.values() for part in name.split(",")}
    label = label_of(table, used)
    used |= {label} if label else set()
    synapse = table.named(SYNAPSE, _is_unique_id, used)
    if synapse is None:
        unique = (one.name for one in table.columns.values() if _is_unique_id(one))
        synapse = next((name for name in unique if name not in used), None)
    used |= {synapse} if synapse else set()
    pre = table.named(PRE, _is_id, used)
    post = table.named(POST, _is_id, used | ({pre} if pre else set()))
    return Roles(synapse, pre, post, positions, label, table.named(SPLIT, _is_split, used))


def label_of(table: TableFacts, used: Iterable[str] = ()) -> str | None:
    """Return the column that says a class."""
    return table.named(LABEL, lambda one: 2 <= one.distinct <= FEW, [*used])


def classes_of(column: ColumnFacts) -> dict[str, str]:
    """Return the class of each value: excitatory and inhibitory where values say so, else itself.

    Values that say neither, where others do, have no class.
    """
    values = sorted({str(value).strip() for value in column.texts.dropna()})
    found = {
        value: name
        for value in values
        for name, pattern in (("excitatory", EXCITATORY), ("inhibitory", INHIBITORY))
        if pattern.fullmatch(value.lower())
    }
    if len(set(found.values())) == 2 and 2 * len(found) >= len(values):
        return found
    return {value: value for value in values}


def roots_of(labels: TableFacts, pre: ColumnFacts) -> tuple[str | None, float]:
    """Return the column of a label table that holds neurons of `pre`, and which part of them."""
    wanted = set(pre.texts.dropna())
    shares = {
        one.name: len(wanted.intersection(one.texts.dropna())) / max(len(wanted), 1)
        for one in labels.columns.values()
        if one.kind in ("id", "text")
    }
    best = max(shares, key=lambda name: shares[name], default=None)
    return (best, shares[best]) if best is not None and shares[best] else (None, 0.0)


def _is_id(column: ColumnFacts) -> bool:
    return column.kind in ("id", "text")


def _is_unique_id(column: ColumnFacts) -> bool:
    return _is_id(column) and column.is_unique


def _is_split(column: ColumnFacts) -> bool:
    return bool(column.texts.astype(str).str.lower().isin(SPLIT_NAMES).all())
