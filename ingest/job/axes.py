"""The border of a job: its file says x, y, z throughout, records and arrays behind it are z, y, x.

A field that holds one value per axis in the order of arrays is annotated with `ZYX`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from shards.contract.documents import part_types


@dataclass(frozen=True, slots=True)
class Turned:
    """Marks a field that is turned between a job's file and its record."""


ZYX = Turned()
SizeZyx = Annotated[tuple[int, ...], ZYX]  # of a patch y, x
NmZyx = Annotated[tuple[float, float, float], ZYX]


def turned(record: Any, value: Any) -> Any:
    """Return plain values of `record`, turned from x, y, z to z, y, x, or back."""
    lists = {path for path, _ in turned_lists(record, value)}
    return _with_turned(value, lists, ())


def turned_lists(record: Any, value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[Any, Any]]:
    """Yield the path of keys and the value of each list in `value` that is turned."""
    for hint in part_types(record):
        if get_origin(hint) is Annotated and ZYX in hint.__metadata__ and isinstance(value, list):
            yield path, value
        elif is_dataclass(hint) and isinstance(value, dict):
            hints = get_type_hints(hint, include_extras=True)
            for field in fields(hint):
                yield from turned_lists(
                    hints[field.name], value.get(field.name), (*path, field.name)
                )
        elif get_origin(hint) is dict and isinstance(value, dict):
            for key, item in value.items():
                yield from turned_lists(get_args(hint)[1], item, (*path, str(key)))


def _with_turned(value: Any, lists: set[tuple[str, ...]], path: tuple[str, ...]) -> Any:
    if path in lists:
        return value[::-1]
    if isinstance(value, dict):
        return {key: _with_turned(item, lists, (*path, str(key))) for key, item in value.items()}
    return value
