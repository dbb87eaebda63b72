"""YAML with a comment behind any key, and `# ?` where a value is still to be filled in."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

WIDE = 10_000
LONG_LINE = 80  # characters


@dataclass(frozen=True, slots=True)
class Unknown:
    """A value that is to be filled in, and what it should be."""

    wanted: str


@dataclass(frozen=True, slots=True)
class Said:
    """A value, and a comment on it."""

    value: Any
    comment: str


def yaml_lines(value: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    """Yield the lines of a mapping; mappings in it and lists of mappings go on below their key."""
    for key, said in value.items():
        item, comment = said, ""
        if isinstance(said, Said):
            item, comment = said.value, f"  # {said.comment}"
        if isinstance(item, Unknown):
            yield f"{indent}{key}:  # ? {item.wanted}"
        elif isinstance(item, Mapping) and (not indent or _is_deep(item)):
            yield f"{indent}{key}:{comment}"
            yield from yaml_lines(item, indent + "  ")
        elif isinstance(item, list) and item and isinstance(item[0], Mapping):
            yield f"{indent}{key}:{comment}"
            for one in item:
                first, *others = yaml_lines(one, indent + "    ")
                yield f"{indent}  - {first.strip()}"
                yield from others
        else:
            yield f"{indent}{key}: {_flow(item)}{comment}"


def unknowns(value: Any, key: str = "") -> Iterator[str]:
    """Yield the keys of all that is to be filled in, with what it should be."""
    if isinstance(value, Said):
        yield from unknowns(value.value, key)
    elif isinstance(value, Unknown):
        yield f"{key} ({value.wanted})"
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield from unknowns(item, f"{key}.{name}".lstrip("."))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from unknowns(item, f"{key}[{number}]")


def _is_deep(value: Mapping[str, Any]) -> bool:
    """Return whether a mapping holds comments, unknowns or further mappings, or is a long line."""
    if any(isinstance(item, Said | Unknown | Mapping) for item in value.values()):
        return True
    return len(_flow(dict(value))) > LONG_LINE


def _flow(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=WIDE)
    return text.strip().removesuffix("...").strip()
