"""YAML into frozen dataclasses: unknown keys, missing keys and wrong types are named."""

import dataclasses
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

Record = TypeVar("Record")


def load_yaml(path: Path) -> Any:
    """Return what a YAML file holds."""
    try:
        return yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; pass the path of a job's YAML file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not readable as YAML: {error}") from None


def parse(record: type[Record], value: Any, *, where: str) -> Record:
    """Build the dataclass `record` from plain YAML values; `where` starts each error."""
    if not isinstance(value, Mapping):
        raise ValueError(f"{where}: expected keys and values, found {value!r}")  # noqa: TRY004
    known = {field.name: field for field in dataclasses.fields(record)}  # type: ignore[arg-type]
    if unknown := [str(key) for key in value if key not in known]:
        raise ValueError(
            f"{where}: unknown key {', '.join(unknown)}; known keys are {', '.join(known)}"
        )
    hints = get_type_hints(record)
    for name, field in known.items():
        if name not in value and _is_required(field):
            raise ValueError(f"{where}: key {name} is missing; add `{name}:`")
    parsed = {key: _value(hints[key], item, f"{where}: {key}") for key, item in value.items()}
    try:
        return record(**parsed)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def plain(value: Any) -> Any:
    """Return a record as values that YAML and JSON can hold."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    return value


def _is_required(field: dataclasses.Field[Any]) -> bool:
    missing = dataclasses.MISSING
    return field.default is missing and field.default_factory is missing


def _value(hint: Any, value: Any, where: str) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _optional(args, value, where)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return parse(hint, value, where=where)
    if origin is Literal:
        if value not in args:
            raise ValueError(f"{where} is {value!r}, expected one of {', '.join(map(str, args))}")
        return value
    if origin is tuple:
        return _tuple(args, value, where)
    if origin in (dict, Mapping):
        if not isinstance(value, Mapping):
            raise ValueError(f"{where}: expected keys and values, found {value!r}")
        return {_text(k): _value(args[1], v, f"{where}: {k}") for k, v in value.items()}
    return _scalar(hint, value, where)


def _optional(args: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in args:
        return None
    (inner,) = (arg for arg in args if arg is not type(None))
    return _value(inner, value, where)


def _tuple(args: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    items = value if isinstance(value, list | tuple) else [value]
    if args[-1] is Ellipsis:
        return tuple(_value(args[0], item, where) for item in items)
    if len(items) != len(args):
        raise ValueError(f"{where}: expected {len(args)} values, found {value!r}")
    return tuple(_value(arg, item, where) for arg, item in zip(args, items, strict=True))


def _scalar(hint: Any, value: Any, where: str) -> Any:
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is Any or (isinstance(value, hint) and (hint is bool or not isinstance(value, bool))):
        return value
    raise ValueError(f"{where} is {value!r}, expected {hint.__name__}")


def _text(key: Any) -> str:
    """YAML reads an unquoted `yes` or `1` as no string; as a key it is meant as written."""
    return str(key).lower() if isinstance(key, bool) else str(key)
