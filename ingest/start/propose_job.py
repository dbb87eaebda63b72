"""A job proposed by looking at a volume and its tables, in commented YAML.

What looking does not tell is asked for, where somebody can be asked, or left as `# ?`.
"""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ingest.job.image_config import VolumeConfig
from ingest.job.job_config import CAVE_NAMES
from ingest.start.column_roles import FILE, NUCLEUS, Roles, classes_of, label_of, roles_of, roots_of
from ingest.start.commented_yaml import Said, Unknown
from ingest.start.sample_sizes import Views, image_view, share_outside, views_in
from ingest.start.table_facts import Points, TableFacts, look_at_table
from ingest.start.volume_facts import (
    Fit,
    VolumeFacts,
    fits,
    format_of,
    look_at_volume,
    states_voxel_size,
    with_window,
)
from ingest.volume.files.image_folder import is_image
from ingest.volume.files.voxel_size_of_tiff import voxel_size_of_tiff
from ingest.volume.geometry import TripleNm

Ask = Callable[[str], str]  # a question; "" for an answer that is not known
NO_VOXEL_SIZE: TripleNm = (1.0, 1.0, 1.0)  # to look with, until it is known
MOST_REJECTS = 0.2
CUTS = (0.6, 0.8)


@dataclass(frozen=True, kw_only=True, slots=True)
class Given:
    """What is to be looked at, and what the user says of it."""

    volume: str
    synapses: str
    labels: str | None
    voxel_size_nm: TripleNm | None
    resolution_nm: TripleNm | None
    folder: Path  # of the job


@dataclass(frozen=True, slots=True)
class Proposal:
    """The values of a job, x, y, z, and lines on what was seen."""

    values: dict[str, Any]
    seen: list[str]


def propose(given: Given, ask: Ask) -> Proposal:
    """Return the job of a volume and its tables."""
    table = look_at_table(given.synapses)
    roles = roles_of(table)
    seen = [f"{given.synapses}, {table.rows} rows looked at:"]
    seen += [f"  {column}" for column in table.columns.values()]
    kind = format_of(given.volume, _names_of_files(table))
    voxel_size, states_it = _voxel_size(given, kind, ask)
    values: dict[str, Any] = {"axes": "xyz"}
    values["volume"] = {"path": _written(given.volume, given.folder)}
    values["volume"] |= {"format": kind} if kind is not None else {}
    if states_it:
        values["volume"]["voxel_size_nm"] = (
            Unknown("x, y, z of a voxel in nm") if voxel_size is None else _numbers(voxel_size)
        )
    columns = _columns(roles)
    values["synapses"] = {"path": _written(given.synapses, given.folder), "columns": columns}
    points: Points | None = None
    volume: VolumeFacts | None = None
    if kind == "images":
        columns |= _file_column(given.volume, table)
        view, shown = image_view(given.volume, _names_of_files(table))
        views: Views = {view: shown}
    else:
        config = with_window(_config(given.volume, kind, voxel_size or NO_VOXEL_SIZE, states_it))
        if config.intensity is not None:
            said = "these become black and white: 99% of what a look found lies between them"
            values["volume"]["intensity"] = Said(_numbers(config.intensity), said)
        volume = look_at_volume(config)
        lines = volume.lines if voxel_size or not states_it else ["voxels of unknown size"]
        seen += [f"{given.volume}:", *(f"  {line}" for line in lines)]
        if voxel_size is None and states_it:
            resolution: Any = Unknown("the same, where positions count voxels; [1, 1, 1] for nm")
        else:
            points, resolution = _placed(given, table, roles, volume, ask)
        values["synapses"]["position_resolution_nm"] = resolution
        views = views_in(volume, points)
    if not columns:
        del values["synapses"]["columns"]
    values["labels"] = _labels(given, table, roles, seen)
    values["splits"] = _splits(table, roles, volume, points)
    center = {"center": next(iter(_centers(roles)))} if roles.positions else {}
    values["samples"] = {**center, "views": {name: {"size": size} for name, size in views.items()}}
    if volume is not None and points is not None:
        values |= _quality(volume, points, views)
    if _has_names(given, table, roles):
        values["ids"] = Said("names", "ids are text; they are found again in all that is written")
    return Proposal(values, seen)


def _voxel_size(given: Given, kind: str | None, ask: Ask) -> tuple[TripleNm | None, bool]:
    """Return a voxel's size, None where unknown, and whether the job must state it."""
    if kind is None and states_voxel_size(given.volume):
        return None, False
    known = given.voxel_size_nm
    if known is None and kind is not None:
        known = voxel_size_of_tiff(given.volume)
    if known is None:
        known = _three(ask("voxel size of the images in nm, as x y z"))
    return known, True


def _config(path: str, kind: str | None, voxel_size: TripleNm, states_it: bool) -> VolumeConfig:
    stated = voxel_size[::-1] if states_it else None
    return VolumeConfig(path=path, format="tiff" if kind == "tiff" else None, voxel_size_nm=stated)


def _columns(roles: Roles) -> dict[str, object]:
    """Return the names of columns, where they are not those that a job takes without naming."""
    named: dict[str, object] = {
        "synapse_id": roles.synapse_id or Unknown("the column of ids, each once"),
        "pre_root_id": roles.pre_root_id,
        "post_root_id": roles.post_root_id,
        **_centers(roles),
    }
    usual = {
        key: (name, ", ".join(f"{name}_{axis}" for axis in "xyz"))
        for key, name in CAVE_NAMES.items()
    }
    return {key: name for key, name in named.items() if name is not None and name not in usual[key]}


def _centers(roles: Roles) -> dict[str, str]:
    """Return the positions, that on which samples are centered first."""
    there = [name for name in ("ctr", "pre", "post") if name in roles.positions]
    return {name: roles.positions[name] for name in there}


def _names_of_files(table: TableFacts) -> list[str]:
    """Return texts in a table that may name image files."""
    column = table.named(FILE, lambda one: one.is_unique)
    return [] if column is None else [str(text) for text in table.columns[column].texts]


def _file_column(folder: str, table: TableFacts) -> dict[str, str]:
    """Return the column that names the images of samples by their files, if one does."""
    root = Path(folder.removeprefix("file://"))
    for one in table.columns.values():
        some = [str(text) for text in one.texts.head()]
        if some and all(is_image(Path(name)) and (root / name).is_file() for name in some):
            return {"file": one.name}
    return {}


def _placed(
    given: Given, table: TableFacts, roles: Roles, volume: VolumeFacts, ask: Ask
) -> tuple[Points | None, Any]:
    """Return the positions, x, y, z in nm, and their resolution as the job has it."""
    wanted = "x, y, z of the unit of positions in nm"
    if not roles.positions:
        return None, Unknown(f"{wanted}; and name columns of positions under columns")
    name = next(iter(_centers(roles).values()))
    raw = table.points(name)
    if given.resolution_nm is not None:
        return raw * given.resolution_nm, _numbers(given.resolution_nm)
    found = fits(volume, raw, _likely_first(name, volume))
    if not found:
        low, high = np.nanmin(raw, axis=0), np.nanmax(raw, axis=0)
        wanted += f": none that was tried puts {_numbers(low)} to {_numbers(high)} inside"
        answer = _three(ask("resolution of the positions in nm, as x y z"))
        return (None, Unknown(wanted)) if answer is None else (raw * answer, _numbers(answer))
    best = found[0]
    if len(found) > 1:
        others = "; ".join(fit.shown for fit in found[1:])
        question = f"resolution of the positions in nm, as x y z; {best.shown} and {others} fit"
        answer = _three(ask(question))
        if answer is not None:
            return raw * answer, _numbers(answer)
    return raw * best.resolution_nm, Said(_numbers(best.resolution_nm), _why(best, found[1:]))


def _likely_first(name: str, volume: VolumeFacts) -> list[TripleNm]:
    """Return the resolutions that the name of a position speaks for."""
    low = name.lower()
    if "_nm" in low:
        return [(1.0, 1.0, 1.0)]
    if "_um" in low:
        return [(1000.0, 1000.0, 1000.0)]
    if re.search(r"_(vx|vox|voxels?|px)\b", low):
        return volume.voxel_sizes_xyz
    return [(4.0, 4.0, 40.0)] if "pt_position" in low else []


def _why(best: Fit, others: list[Fit]) -> str:
    shown = f"puts {best.inside:.0%} inside, {best.on_tissue:.0%} of those looked at on tissue"
    if not others:
        return f"{shown}; nothing else that was tried does"
    also = ", ".join(fit.shown for fit in others)
    return f"{shown}; {also} would too: look at the picture of `check`"


def _labels(given: Given, table: TableFacts, roles: Roles, seen: list[str]) -> dict[str, object]:
    if given.labels is None:
        if roles.label is None:
            return {"column": Unknown("the column that says a synapse's class, or give --labels")}
        classes = classes_of(table.columns[roles.label])
        said = {value: name for value, name in classes.items() if value != name}
        return {"column": roles.label} | ({"classes": classes} if said else {})
    cells = look_at_table(given.labels)
    seen += [f"{given.labels}, {cells.rows} rows looked at:"]
    seen += [f"  {column}" for column in cells.columns.values()]
    root, share = (
        roots_of(cells, table.columns[roles.pre_root_id]) if roles.pre_root_id else (None, 0.0)
    )
    column = label_of(cells, [root] if root else [])
    nucleus = cells.named(NUCLEUS, lambda one: one.kind == "id", [root] if root else [])
    entry: dict[str, object] = {"path": _written(given.labels, given.folder)}
    entry["root_column"] = (
        Said(root, f"has {share:.0%} of the synapses' neurons")
        if root
        else Unknown("the column of neurons, as synapses.columns.pre_root_id")
    )
    entry |= {"nucleus_column": nucleus} if nucleus else {}
    entry["column"] = column or Unknown("the column that says a neuron's class")
    classes = classes_of(cells.columns[column]) if column else {}
    left = sorted(set(cells.columns[column].texts.dropna()) - set(classes)) if column else []
    entry["classes"] = (
        (Said(classes, f"no label: {', '.join(left)}") if left else classes)
        if classes
        else Unknown("class of each value, as {E: excitatory, I: inhibitory}")
    )
    return {"tables": [entry]}


def _splits(
    table: TableFacts, roles: Roles, volume: VolumeFacts | None, points: Points | None
) -> dict[str, object]:
    if roles.split is not None:
        return {"by": "column", "column": roles.split}
    if roles.pre_root_id is not None:
        return {"by": "neuron"}
    if volume is None or points is None or roles.label is None:
        return {"by": Said("neuron", "neurons are unknown: each sample by itself")}
    bounds, size = volume.scales[0].grid.bounds, volume.scales[0].voxel_size_nm
    labels = table.columns[roles.label].texts.to_numpy()
    for axis in np.argsort(-np.array(bounds.shape[::-1]) * np.array(size[::-1])):
        low = bounds.start[2 - axis] * size[2 - axis]
        length = bounds.shape[2 - axis] * size[2 - axis]
        part = np.searchsorted(CUTS, (points[:, axis] - low) / length, side="right")
        counts = [np.sum((part == k) & (labels == name)) for k in range(3) for name in set(labels)]
        if min(counts) >= 3:
            said = Said("position", "neurons are unknown: by place, so that splits lie apart")
            return {"by": said, "axis": "xyz"[axis], "cuts": list(CUTS)}
    return {"by": Said("neuron", "neurons are unknown, places too few: each sample by itself")}


def _quality(volume: VolumeFacts, points: Points, views: Views) -> dict[str, object]:
    outside = share_outside(volume, points, views)
    if outside <= MOST_REJECTS:
        return {}
    comment = f"images of {outside:.0%} of the positions would leave the volume"
    return {"qc": {"max_reject_fraction": Said(min(1.0, round(outside + 0.1, 1)), comment)}}


def _has_names(given: Given, table: TableFacts, roles: Roles) -> bool:
    used = (roles.synapse_id, roles.pre_root_id, roles.post_root_id)
    return any(name is not None and table.columns[name].is_name for name in used)


def _written(path: str, folder: Path) -> str:
    """Return a path as a job in `folder` has it."""
    if "://" in path or Path(path).is_absolute():
        return path
    return os.path.relpath(path, folder)


def _three(answer: str) -> TripleNm | None:
    """Return three numbers above 0 that somebody typed, None for nothing."""
    parts = answer.replace(",", " ").strip("[] ").split()
    if not parts:
        return None
    try:
        x, y, z = (float(part) for part in parts)
    except ValueError:
        x = y = z = 0.0
    if min(x, y, z) <= 0:
        raise ValueError(f"found {answer!r}, expected three numbers above 0, as 8 8 40")
    return x, y, z


def _numbers(values: Any) -> list[float]:
    return [int(value) if float(value).is_integer() else float(value) for value in values]
