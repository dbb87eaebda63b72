"""The reference page of a job's file, made of the records that read it."""

from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import yaml

from ingest.job.axes import turned
from ingest.job.field_docs import field_docs
from ingest.job.job_file import JobFile
from shards.contract.documents import part_types, to_plain

TOP = """\
# The job file

What `python -m ingest plan` reads: where a volume and its tables are, what is cut out, how samples
are labeled and split. `python -m ingest init` writes one by looking at your data,
`python -m ingest check` says all that is wrong with it. Editors that know YAML complete and check
it by [its JSON schema](job.schema.json). This page is what `python -m ingest schema --page` prints.

- **Axes**: everything in the file is x, y, z (of a patch x, y); the key `axes: xyz` says so.
- **Paths** are relative to the file. Passwords in URLs are not stored.
- **Lists** of one item may be written as the item.
- **Keys** that are not in these tables are errors.
- **Columns** that a job does not name are CAVE's, where the table has them (`auto`).

"""
UNITS = {
    "_nm": "nm",
    "_um": "µm",
    "_ms": "ms",
    "_mb_s": "MB/s",
    "_px": "pixels",
    "fraction": "from 0 to 1",
    "fractions": "from 0 to 1",
    "cuts": "from 0 to 1",
}
NAMES = {str: "text", int: "whole number", float: "number", bool: "true or false"}


def job_reference() -> str:
    """Return the page as Markdown: a table for each part of a job, in the order of the file."""
    return TOP + "\n".join(_sections(JobFile, ""))


def _sections(record: type, key: str) -> Iterator[str]:
    """Yield the lines of a record's section, then those of the records in it."""
    hints, docs = get_type_hints(record), field_docs(record)
    ordered = sorted(fields(record), key=lambda item: item.name != "axes")
    yield f"{'###' if '.' in key else '##'} {f'`{key}`' if key else 'Keys'}\n"
    yield f"{' '.join((record.__doc__ or '').split())}\n"
    yield "| key | type | default | meaning | example |\n|---|---|---|---|---|"
    for item in ordered:
        about = docs[item.name]
        unit = next((f"; {unit}" for end, unit in UNITS.items() if item.name.endswith(end)), "")
        cells = (
            f"`{item.name}`",
            _type_name(hints[item.name]),
            _default(record, item),
            about.meaning + unit,
            f"`{about.example}`",
        )
        yield f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"
    yield ""
    for item in ordered:
        inner, ending = _record_in(hints[item.name])
        if inner is not None:
            yield from _sections(inner, f"{key}.{item.name}{ending}".lstrip("."))


def _record_in(hint: Any) -> tuple[type | None, str]:
    """Return the record that a field holds, one or several, and how its key goes on."""
    (hint, *_) = part_types(hint)
    if is_dataclass(hint) and isinstance(hint, type):
        return hint, ""
    if get_origin(hint) in (tuple, dict):
        inner, _ = _record_in(get_args(hint)[1 if get_origin(hint) is dict else 0])
        return inner, "[]" if get_origin(hint) is tuple else ".NAME"
    return None, ""


def _type_name(hint: Any) -> str:
    parts = part_types(hint)
    null = " or null" if NoneType in get_args(hint) else ""
    return " or ".join(_part_name(part) for part in parts) + null


def _part_name(hint: Any) -> str:
    arguments = get_args(hint)
    if get_origin(hint) is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if get_origin(hint) is tuple and Ellipsis not in arguments:
        return f"{len(arguments)} {_type_name(arguments[0])}s"
    if get_origin(hint) is tuple:
        return f"list of {_type_name(arguments[0])}"
    if get_origin(hint) is dict:
        return f"{_type_name(arguments[0])} → {_type_name(arguments[1])}"
    return "keys below" if is_dataclass(hint) else NAMES[hint]


def _default(record: type, item: Field[Any]) -> str:
    if item.default is not MISSING:
        value = item.default
    elif item.default_factory is not MISSING:
        value = item.default_factory()
    else:
        return "**required**"
    if is_dataclass(value):
        return "as below"
    if isinstance(value, Mapping):
        value = {key: _plain(one) for key, one in value.items()}
    value = turned(record, {item.name: _plain(value)})[item.name]
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=1000)
    return f"`{text.strip().removesuffix('...').strip()}`"


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return {key: one for key, one in to_plain(value).items() if one not in (None, 0)}
    return list(value) if isinstance(value, tuple) else value
