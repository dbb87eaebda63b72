"""A job completed by what it reads: the columns, classes and format that it does not name."""

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import pyarrow.compute as pc

from ingest.job.job_config import CAVE_NAMES, UNNAMED, Columns, JobConfig, LabelConfig
from ingest.tables.synapse_tables import open_table, position_columns
from ingest.volume.detect_format import with_format
from shards.tabular.table_files import Column, TableFile

POSITIONS = ("pre", "ctr", "post")
USUAL_CLASSES = ("inhibitory", "excitatory")  # in this order: class 1 is excitatory
MOST_CLASSES = 100


def complete_job(job: JobConfig) -> JobConfig:
    """Return the job with format, columns and classes named, by what volume and tables hold.

    A column that the job names and the table lacks is a `ValueError`; one that it does not name is
    CAVE's where the table has that, else none.
    """
    job = replace(job, volume=with_format(job.volume))
    if job.synapses.source == "cave":
        columns = replace(job.synapses.columns, **job.synapses.columns.unnamed)
        labels = replace(job.labels, class_names=_class_names(job.labels, None))
    else:
        table = open_table(job.synapses.path, job.synapses.header)
        columns = _columns(job, table)
        labels = replace(job.labels, class_names=_class_names(job.labels, table))
    return replace(job, synapses=replace(job.synapses, columns=columns), labels=labels)


def _columns(job: JobConfig, table: TableFile) -> Columns:
    columns = job.synapses.columns
    has = ", ".join(table.names)
    for item in fields(columns):
        name = getattr(columns, item.name)
        if name is None or name == UNNAMED:
            continue
        for one in position_columns(table.names, name) if item.name in POSITIONS else (name,):
            if one not in table.names:
                raise ValueError(
                    f"{table.path}: no column {one}, which synapses.columns.{item.name} names; it "
                    f"has {has}; name the right one, or null where there is none"
                )
    found: dict[str, Any] = {
        key: name if _is_there(table.names, key, name) else None
        for key, name in columns.unnamed.items()
    }
    needed = ["synapse_id"]
    needed += [] if job.has_images else [job.samples.center]
    needed += ["pre_root_id"] if job.labels.tables else []
    for key in needed:
        if key in found and found[key] is None:
            raise ValueError(
                f"{table.path}: no column {CAVE_NAMES[key]}; it has {has}; name the right one as "
                f"synapses.columns.{key}"
                + (", or choose another samples.center" if key in POSITIONS else "")
            )
    return replace(columns, **found)


def _is_there(names: Sequence[str], key: str, name: str) -> bool:
    if key not in POSITIONS:
        return name in names
    return any(one in names for one in position_columns(names, name))


def _class_names(labels: LabelConfig, table: TableFile | None) -> tuple[str, ...]:
    """Return the classes: as the job names them, else all that occur, sorted."""
    if labels.class_names:
        return labels.class_names
    names = labels.mapped
    if not names and table is not None and labels.column is not None:
        names = _values(table, labels.column)
    if names == set(USUAL_CLASSES):
        return USUAL_CLASSES
    if len(names) < 2:
        where = "labels" if table is None else table.path
        raise ValueError(
            f"{where}: {len(names)} classes ({', '.join(sorted(names))}), expected two or more; "
            "correct labels.column, or name the classes as labels.class_names"
        )
    return tuple(sorted(names))


def _values(table: TableFile, column: str) -> set[str]:
    values = set[str]()
    for batch in table.batches({"value": Column(column, "value")}):
        found = pc.unique(batch.column("value").dictionary_decode()).to_pylist()
        values |= {value for value in found if value is not None}
        if len(values) > MOST_CLASSES:
            raise ValueError(
                f"{table.path}: column {column} has more than {MOST_CLASSES} values; name another "
                "as labels.column, or the classes among them as labels.class_names"
            )
    return values
