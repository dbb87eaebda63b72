"""Documents: JSON, YAML and TOML into frozen dataclasses, checked by pydantic while parsing.

A record of a document is a frozen dataclass under `@document`. Whatever a file holds, reading it
gives that record or a `ValueError` of one line that names file, key, value and cure.

A document that this project writes ends with its seal, the SHA-256 of the bytes before it:

    {"schema_version": 1, ..., "document_sha256": "9f86d081..."}

A reader refuses a document whose seal does not fit. One without a seal is read as it is: it was
written by another tool.
"""

import hashlib
import json
import re
from collections.abc import Hashable, Sequence
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config
from pydantic_core import ErrorDetails

from shards.storage.atomic import atomic_write

Record = TypeVar("Record")

# For `@document`, above `@dataclass(frozen=True, kw_only=True, slots=True)`, and for every record
# inside: numbers are numbers, text is text, and a key that no field is called is an error.
document = with_config(ConfigDict(strict=True, extra="forbid", allow_inf_nan=False))

SEAL = b'"document_sha256": "'
SEAL_PATTERN = re.compile(rb',\s*"document_sha256": "([0-9a-f]{64})"\s*\}\s*\Z')
MAX_DOCUMENT_BYTES = 256 << 20
SHOWN_ERRORS = 3
SHOWN_CHARACTERS = 60


def parse_json(record: type[Record], data: bytes, *, where: str, cure: str) -> Record:
    """Return the record in the JSON text `data`; anything else is a `ValueError`.

    `where` starts the error and `cure` ends it. A seal, if there is one, must fit.
    """
    try:
        return _adapter(record).validate_json(unsealed(data, where=where, cure=cure), strict=True)
    except ValidationError as error:
        raise ValueError(f"{where}: {explain(error, record)}; {cure}") from None


def parse_plain(record: type[Record], value: Any, *, where: str, cure: str) -> Record:
    """Return the record in what YAML or TOML gave; anything else is a `ValueError`.

    Keys of mappings are read as text: true, 1 and null as they stand there.
    """
    try:
        text = json.dumps(value, default=str)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{where}: not plain keys and values ({error}); {cure}") from None
    return parse_json(record, text.encode("utf-8", "surrogatepass"), where=where, cure=cure)


def to_plain(value: Any) -> Any:
    """Return a record as plain values, as JSON and YAML can hold them."""
    return _adapter(type(value)).dump_python(value, mode="json")


def dump_json(value: Any) -> bytes:
    """Return a record, or plain values, as indented JSON; NaN and infinity are a `ValueError`."""
    return (
        json.dumps(to_plain(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    ).encode()


def sealed_json(value: Any) -> bytes:
    """Return a record as indented JSON that ends with its seal."""
    body = dump_json(value).rstrip().removesuffix(b"}").rstrip()
    digest = hashlib.sha256(body).hexdigest()
    return body + b",\n  " + SEAL + digest.encode() + b'"\n}\n'


def unsealed(data: bytes, *, where: str, cure: str) -> bytes:
    """Return a document without its seal; one that does not fit is a `ValueError`."""
    if len(data) > MAX_DOCUMENT_BYTES:
        raise ValueError(
            f"{where}: {len(data)} bytes, more than the {MAX_DOCUMENT_BYTES} that a document may "
            f"have; {cure}"
        )
    if (match := SEAL_PATTERN.search(data, max(0, len(data) - 200))) is None:
        return data
    body = data[: match.start()]
    if hashlib.sha256(body).hexdigest().encode() != match[1]:
        raise ValueError(f"{where}: altered since it was written, its SHA-256 differs; {cure}")
    return body + b"}"


def read_document(record: type[Record], path: Path, *, what: str, cure: str) -> Record:
    """Return the record in the JSON file `path`; a missing or wrong one is a `ValueError`."""
    return parse_json(
        record, read_bytes(path, what=what, cure=cure), where=f"{path}: not a {what}", cure=cure
    )


def write_document(path: Path, value: Any) -> None:
    """Write a record atomically as sealed JSON."""
    with atomic_write(path) as file:
        file.write(sealed_json(value))


def read_bytes(path: Path, *, what: str, cure: str) -> bytes:
    """Return a document's bytes; a file that is missing or no document is a `ValueError`."""
    try:
        with path.open("rb") as file:
            return file.read(MAX_DOCUMENT_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"{path}: no such {what}; {cure}") from None
    except OSError as error:
        raise ValueError(f"{path}: the {what} cannot be read ({error.strerror}); {cure}") from None


def load_yaml(path: Path, *, what: str, cure: str) -> Any:
    """Return what a YAML file holds; a key that comes twice is a `ValueError`."""
    try:
        return yaml.load(read_bytes(path, what=what, cure=cure), _YamlLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        text = " ".join(str(error).split())
        raise ValueError(
            text if text.startswith(str(path)) else f"{path}: not readable as YAML: {text}; {cure}"
        ) from None


def explain(error: ValidationError, record: type | None = None) -> str:
    """Return pydantic's errors as one line: key, what was found, what was expected.

    Of an unknown key of `record` or of what it holds, also which keys are known.
    """
    errors = error.errors(include_url=False)
    more = f"; and {len(errors) - SHOWN_ERRORS} more" if len(errors) > SHOWN_ERRORS else ""
    return "; ".join(_explained(one, record) for one in errors[:SHOWN_ERRORS]) + more


def part_types(hint: Any) -> tuple[Any, ...]:
    """Return the types that a type hint is made of; None, of what is optional, is left out."""
    if get_origin(hint) in (Union, UnionType):
        return tuple(arg for arg in get_args(hint) if arg is not NoneType)
    return (hint,)


def _known_keys(record: Any, location: Sequence[int | str]) -> list[str]:
    """Return the keys of the record that lies there in `record`."""
    for part in location:
        (hint, *_) = part_types(record)
        if is_dataclass(hint):
            record = get_type_hints(hint).get(str(part))
        else:
            record = next(iter(get_args(hint)[-2 if get_origin(hint) is tuple else -1 :]), None)
    (hint, *_) = part_types(record)
    return [field.name for field in fields(hint)] if is_dataclass(hint) else []


def _unknown(key: str, known: list[str]) -> str:
    near = get_close_matches(key.rpartition(".")[2], known, n=1)
    meant = f", did you mean {near[0]}?" if near else ""
    return f"unknown key {key}{meant}" + (f" (known keys: {', '.join(known)})" if known else "")


def _explained(error: ErrorDetails, record: type | None) -> str:
    key = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in error["loc"]).lstrip(".")
    match error["type"]:
        case "json_invalid":
            return f"not readable as JSON ({error['msg'].removeprefix('Invalid JSON: ')})"
        case "missing" | "missing_argument":
            return f"key {key} is missing"
        case "unexpected_keyword_argument" | "extra_forbidden":
            return _unknown(key, [] if record is None else _known_keys(record, error["loc"][:-1]))
        case "value_error":
            return f"{key}: {error['ctx']['error']}" if key else str(error["ctx"]["error"])
    expected = error["msg"].removeprefix("Input should be ")
    return f"{key + ' is ' if key else 'found '}{_shown(error['input'])}, expected {expected}"


def _shown(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 3] + "..."


_ADAPTERS: dict[type, TypeAdapter[Any]] = {}


def _adapter(record: type[Record]) -> TypeAdapter[Record]:
    if record not in _ADAPTERS:
        _ADAPTERS[record] = TypeAdapter(record)
    return _ADAPTERS[record]


class _YamlLoader(yaml.SafeLoader):
    """YAML's safe loader, but a key that comes twice is an error, not the last one's value."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        if isinstance(node, yaml.MappingNode):
            seen = set[str]()
            for key, _ in node.value:
                name = str(getattr(key, "value", ""))
                if name in seen and name != "<<":
                    raise yaml.constructor.ConstructorError(
                        None, None, f"key {name} comes twice", key.start_mark
                    )
                seen.add(name)
        made: dict[Hashable, Any] = super().construct_mapping(node, deep)
        return made
