"""Meanings of a table's columns, in predictions that any tool may have written."""

import re
from collections.abc import Sequence

import pyarrow as pa

from shards.contract.schema import IDENTITY_COLUMNS, NAME_COLUMNS
from shards.tabular.table_files import Column, Kind

PREFIX = "probability_"
PROBABILITY, LABEL = "probability", "label"
FEW_VALUES = ("label_tier", "label_source", "qc_flags", "split", "tag")
ID_COLUMNS = tuple(name for name, kind in IDENTITY_COLUMNS.items() if kind == pa.int64())
NUMBERS = tuple(name for name, kind in IDENTITY_COLUMNS.items() if kind == pa.float64())
ALIASES = {"neuron_id": "neuron", "synapse_id": "id"}
NUMBERED = re.compile(r"[0-9]+")
KINDS: dict[str, Kind] = {
    **dict.fromkeys(ID_COLUMNS, "id"),
    **dict.fromkeys(NUMBERS, "number"),
    **dict.fromkeys(("key", *FEW_VALUES, *NAME_COLUMNS), "text"),
    LABEL: "value",
}

Columns = dict[str, Column]


def probability_columns(class_names: tuple[str, ...]) -> list[str]:
    """Return the columns that hold the probabilities of these classes."""
    if len(class_names) == 2:
        return [PROBABILITY]
    return [PREFIX + name for name in class_names]


def columns_of(names: Sequence[str], *, where: str) -> Columns:
    """Return the known columns of a table but for its probabilities, by our names for them."""
    result = {}
    for name, kind in KINDS.items():
        spelt = _spelt(names, name, where=where)
        if spelt is None and name in ALIASES:
            spelt = _spelt(names, ALIASES[name], where=where)
        if spelt is not None:
            result[name] = Column(spelt, kind)
    return result


def class_columns(
    names: Sequence[str],
    noted: tuple[str, ...] | None,
    default: tuple[str, ...],
    *,
    where: str,
) -> tuple[tuple[str, ...], Columns]:
    """Return the classes of a table and the columns of their probabilities.

    `noted` are the classes that the file itself states; else `default` names two, and the columns
    name more. `probability_0`, `probability_1`, … are classes by number.
    """
    single = _spelt(names, PROBABILITY, where=where)
    known = {name.casefold(): name for name in noted or default}
    spelt = [name for name in names if name.strip().lower().startswith(PREFIX)]
    found = [name.strip()[len(PREFIX) :] for name in spelt]
    each = {known.get(of.casefold(), of): name for of, name in zip(found, spelt, strict=True)}
    if len(each) < len(spelt):
        raise ValueError(f"{where}: several columns give the probability of one class; keep one")
    numbered = bool(each) and all(NUMBERED.fullmatch(name) for name in each)
    classes = noted or _classes(list(each), default, single is not None, numbered)
    if single is not None and len(classes) == 2:
        return classes, {PROBABILITY: Column(single, "number")}
    if numbered and not set(each) <= set(classes):
        each = _by_number(each, classes, where=where)
    if len(classes) == 2 and set(each) == {classes[1]}:
        return classes, {PROBABILITY: Column(each[classes[1]], "number")}
    if missing := [name for name in classes if name not in each]:
        raise ValueError(
            f"{where}: no probability of class {', '.join(missing)}; it has {', '.join(names)}; "
            f"give a column probability (of {default[1]}, or class 1), or {PREFIX}NAME for every "
            "class"
        )
    return classes, {PREFIX + name: Column(each[name], "number") for name in classes}


def _classes(
    found: list[str], default: tuple[str, ...], has_single: bool, numbered: bool
) -> tuple[str, ...]:
    if has_single or len(found) < 2 or set(found) == set(default):
        return default
    if numbered:
        return default if len(found) == 2 else tuple(str(n) for n in range(len(found)))
    return tuple(found)


def _by_number(each: dict[str, str], classes: tuple[str, ...], *, where: str) -> dict[str, str]:
    if max(int(number) for number in each) >= len(classes):
        raise ValueError(
            f"{where}: columns {', '.join(each.values())} number more classes than the "
            f"{len(classes)} known, {', '.join(classes)}; number them from 0, or name them"
        )
    return {classes[int(number)]: name for number, name in each.items()}


def _spelt(names: Sequence[str], wanted: str, *, where: str) -> str | None:
    """Return how a table spells a column's name, case and spaces around it aside."""
    spelt = [name for name in names if name.strip().lower() == wanted]
    if len(spelt) > 1:
        raise ValueError(
            f"{where}: several columns are called {wanted} ({', '.join(spelt)}); keep one of them"
        )
    return spelt[0] if spelt else None
