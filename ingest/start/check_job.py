"""All that `plan` would refuse of a job, at once."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import ParamSpec, TypeVar

import pandas as pd

from ingest.job.job_config import JobConfig
from ingest.job.job_file import load_job
from ingest.plan.coordinates import check_positions, check_voxel_size
from ingest.plan.labels import Funnel, neuron_labels
from ingest.plan.make import labelled_samples, make_plan, with_local_tables
from ingest.qc.describe_dataset import plan_lines
from ingest.start.twelve_samples import draw_twelve
from ingest.tables.complete_job import complete_job
from ingest.volume.open import load_scale
from ingest.volume.sample_boxes import points_nm
from ingest.volume.scale import Scale

Inputs = ParamSpec("Inputs")
Result = TypeVar("Result")
Scales = dict[int, Scale]


class Problems:
    """What several steps refused, in their order, each once."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def tried(
        self, step: Callable[Inputs, Result], *args: Inputs.args, **kwargs: Inputs.kwargs
    ) -> Result | None:
        """Return what a step returns, None where it refuses its input."""
        try:
            return step(*args, **kwargs)
        except ValueError as error:
            if str(error) not in self.found:
                self.found.append(str(error))
            return None


def check_job(path: Path, sheet: Path | None) -> tuple[list[str], list[str]]:
    """Return lines that describe a job's plan, and all that is wrong with it; draw its samples.

    One problem hides another only where it keeps the other from being looked for.
    """
    problems = Problems()
    job = problems.tried(load_job, path)
    lines = [] if job is None else _checked(job, sheet, problems)
    return lines, problems.found


def _checked(job: JobConfig, sheet: Path | None, problems: Problems) -> list[str]:
    scales = _scales(job, problems)
    complete = problems.tried(complete_job, job)
    local = None if complete is None else problems.tried(with_local_tables, complete)
    if local is None:
        _look_at_label_tables(job, problems)
        return []
    job, _ = local
    samples = problems.tried(labelled_samples, job, Funnel())
    if samples is None or scales is None:
        return []
    if not job.has_images:
        problems.tried(_check_views, job, samples, scales)
    drawn = None if sheet is None else problems.tried(draw_twelve, job, samples, scales, sheet)
    if problems.found:
        return drawn or []
    draft = problems.tried(make_plan, job, ())
    return [*([] if draft is None else plan_lines(draft.plan)), *(drawn or [])]


def _check_views(job: JobConfig, samples: pd.DataFrame, scales: Scales) -> None:
    """Refuse positions whose images leave the volume; the first view that does stands for all."""
    for view in job.samples.views.values():
        check_positions(points_nm(samples), job, scales[view.mip], view.size_zyx)


def _scales(job: JobConfig, problems: Problems) -> Scales | None:
    """Return the scales of all views, None where one is refused."""
    scales: Scales = {}
    for name, view in job.samples.views.items():
        scale = problems.tried(load_scale, job.volume, view.mip, saved=True)
        if scale is not None:
            scales[view.mip] = scale
            problems.tried(check_voxel_size, view, scale, name=name)
    return scales if all(view.mip in scales for view in job.samples.views.values()) else None


def _look_at_label_tables(job: JobConfig, problems: Problems) -> None:
    """Look for what is wrong with each label table, where the synapses' own is wrong."""
    for table in () if job.uses_cave else job.labels.tables:
        names = job.labels.class_names or tuple(sorted(job.labels.mapped))
        alone = replace(
            job.labels, class_names=names, tables=(table,), neurons_per_class=None, proofread=None
        )
        problems.tried(neuron_labels, alone, job.ids)
