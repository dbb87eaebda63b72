"""The JSON schema of a job's YAML, by which editors complete and check it."""

import json
from collections.abc import Iterator
from dataclasses import is_dataclass
from typing import Any, get_args, get_type_hints

from pydantic import TypeAdapter

from ingest.job.field_docs import field_docs
from ingest.job.job_file import JobFile


def job_schema() -> str:
    """Return the schema as JSON text; where a list is meant, a single value may stand for it."""
    schema = TypeAdapter(JobFile).json_schema()
    keys = schema["properties"]
    schema["properties"] = {"axes": keys.pop("axes"), **keys}  # of a subclass, it comes last
    for record in records_of(JobFile):
        properties = schema["$defs"].get(record.__name__, schema)["properties"]
        for name, about in field_docs(record).items():
            properties[name]["description"] = about.meaning
    return json.dumps(_with_single_values(schema), indent=1, ensure_ascii=False) + "\n"


def records_of(hint: Any) -> Iterator[type]:
    """Yield the records that a type hint is made of: itself, then those that it holds."""
    if is_dataclass(hint) and isinstance(hint, type):
        yield hint
        hint = tuple(get_type_hints(hint).values())
    for part in hint if isinstance(hint, tuple) else get_args(hint):
        yield from records_of(part)


def _with_single_values(node: Any) -> Any:
    if isinstance(node, list):
        return [_with_single_values(item) for item in node]
    if not isinstance(node, dict):
        return node
    node = {key: _with_single_values(value) for key, value in node.items()}
    if node.get("type") != "array" or "items" not in node:
        return node
    about = {key: node.pop(key) for key in ("title", "default", "description") if key in node}
    return {**about, "anyOf": [node, node["items"]]}
