"""The file of a job: YAML, with paths relative to it, and x, y, z for all that it holds."""

from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import yaml

from ingest.job.axes import turned, turned_lists
from ingest.job.job_config import JobConfig
from shards.contract.documents import document, load_yaml, parse_plain, part_types, to_plain
from shards.storage.urls import public_url

Record = TypeVar("Record")
CURE = "correct the job"


@document
@dataclass(frozen=True, kw_only=True, slots=True)
class JobFile(JobConfig):
    """A job as its file has it: everything that has axes is x, y, z (a patch: x, y)."""

    axes: Literal["xyz"]
    """the order of all that has axes in this file: sizes, voxel sizes, resolutions. Example:
    `xyz`."""


def load_job(path: Path) -> JobConfig:
    """Return the job that a YAML file describes, its paths made absolute, its axes z, y, x.

    A single value stands for a list of one. URLs lose their passwords (see shards.urls).
    """
    value = with_lists(JobFile, load_yaml(path, what="job", cure="pass the path of a job's YAML"))
    if isinstance(value, dict) and value.get("axes") != "xyz":
        raise ValueError(f"{path}: {_without_axes(value)}")
    parse_plain(JobFile, value, where=str(path), cure=CURE)  # errors show values as they stand
    value = {key: item for key, item in value.items() if key != "axes"}
    job = parse_plain(JobConfig, turned(JobConfig, value), where=str(path), cure=CURE)
    return _resolve(job, path.resolve().parent)


def job_text(job: JobConfig) -> str:
    """Return a job as `load_job` reads it."""
    value = {"axes": "xyz", **turned(JobConfig, to_plain(job))}
    return yaml.safe_dump(value, sort_keys=False)


def _without_axes(value: dict[str, object]) -> str:
    """Return what to change in a job that does not state its axes, or other ones."""
    wrong = f"axes is {value['axes']!r}, expected xyz" if "axes" in value else "key axes is missing"
    reversed_values = [
        f"`{'.'.join(path)}: [{', '.join(map(str, items[::-1]))}]`"
        for path, items in turned_lists(JobConfig, value)
        if items != items[::-1]
    ]
    more = f", and reverse what is z, y, x: {', '.join(reversed_values)}" if reversed_values else ""
    return f"{wrong}: whatever has axes in a job is x, y, z; write `axes: xyz` at its top{more}"


def with_lists(hint: Any, value: Any) -> Any:
    """Return what YAML gave for a field of type `hint`, with lists wherever a list is meant."""
    (hint, *_) = part_types(hint)
    if value is not None and get_origin(hint) is tuple:
        items = value if isinstance(value, list) else [value]
        return [with_lists(get_args(hint)[0], item) for item in items]
    if isinstance(value, dict) and is_dataclass(hint):
        hints = get_type_hints(hint)
        return {key: with_lists(hints.get(str(key)), item) for key, item in value.items()}
    if isinstance(value, dict) and get_origin(hint) is dict:
        return {key: with_lists(get_args(hint)[1], item) for key, item in value.items()}
    return value


def _resolve(record: Record, folder: Path) -> Record:
    """Make the local paths in `record` and in what it holds absolute."""
    changes: dict[str, Any] = {}
    for item in fields(record):  # type: ignore[arg-type]
        value = getattr(record, item.name)
        if getattr(record, "source", "files") == "cave" and item.name == "path":
            continue
        if item.name in ("path", "info", "header", "cache", "segmentation") and isinstance(
            value, str
        ):
            changes[item.name] = _absolute(value, folder)
        elif is_dataclass(value):
            changes[item.name] = _resolve(value, folder)
        elif isinstance(value, tuple) and value and is_dataclass(value[0]):
            changes[item.name] = tuple(_resolve(entry, folder) for entry in value)
    return replace(record, **changes)  # type: ignore[type-var]


def _absolute(path: str, folder: Path) -> str:
    prefix = "precomputed://" if path.startswith("precomputed://") else ""
    rest = path.removeprefix(prefix)
    if "://" in rest and not rest.startswith("file://"):
        return public_url(path)
    local = Path(rest.removeprefix("file://")).expanduser()
    return prefix + ("file://" if rest.startswith("file://") else "") + str(folder / local)
