"""A job whose tables are CAVE's, as one whose tables are files."""

from dataclasses import replace
from typing import TypeVar

from ingest.job.job_config import JobConfig, LabelConfig, LabelTable, ProofreadTable
from ingest.plan.labels import neuron_labels
from ingest.tables.cave import Library
from ingest.tables.cave_client import CaveRetries
from ingest.tables.identity import Source

AnyTable = TypeVar("AnyTable", LabelTable, ProofreadTable)


def local_job(
    job: JobConfig, patience: CaveRetries | None = None
) -> tuple[JobConfig, list[Source]]:
    """Return `job` with its CAVE tables as files, and what tells each table from another.

    The files are in the cache; what it lacks is asked for.
    """
    assert job.cave is not None, "a job with CAVE tables has a cave section"
    library = Library(job.cave, patience)
    labels, synapses = _local_labels(job.labels, library), job.synapses
    if synapses.source == "cave":
        neurons = neuron_labels(labels)
        path = library.synapses(synapses, sorted(map(int, neurons.labels.index)))
        synapses = replace(synapses, source="files", path=str(path))
        library.sources[-1]["neurons_not_asked_for"] = {
            "more than one nucleus": len(neurons.multi_nucleus),
            "label tables in conflict": len(neurons.conflicts),
            "left out by the config": len(neurons.left_out),
        }
    return replace(job, labels=labels, synapses=synapses, cave=None), library.sources


def _local_labels(labels: LabelConfig, library: Library) -> LabelConfig:
    proofread = labels.proofread
    return replace(
        labels,
        tables=tuple(_local(table, library) for table in labels.tables),
        proofread=None if proofread is None else _local(proofread, library),
    )


def _local(table: AnyTable, library: Library) -> AnyTable:
    if table.source != "cave":
        return table
    return replace(table, source="files", path=str(library.table(table.path)))
