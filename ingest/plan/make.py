"""Tables into a plan: who is labelled, in which split, in which block, and what reading costs."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from ingest.dataset import (
    BLOCKS_A_ROW_GROUP,
    REJECT_COLUMNS,
    Layout,
    image_specs,
    plan_columns,
    write_table,
)
from ingest.job.job_config import JobConfig
from ingest.job.job_file import job_text
from ingest.plan.coordinates import check_positions, check_voxel_size
from ingest.plan.image_samples import with_images
from ingest.plan.labels import Funnel, labeller, of_few, shown_counts, tier_counts
from ingest.plan.plan_record import Plan, Prediction, read_plan
from ingest.plan.read_cost import predict, predict_files
from ingest.plan.select import OVERLAPS, choose
from ingest.plan.splits import check_no_class_empty, counts_by_split, neurons_by_split
from ingest.tables.complete_job import complete_job
from ingest.tables.identity import Source, source_of, table_identity
from ingest.tables.name_ids import key_of
from ingest.tables.synapse_tables import synapse_batches
from ingest.volume.geometry import Box, inside
from ingest.volume.masks import mask_scale
from ingest.volume.open import load_scale, stored_sizes, volume_identity
from ingest.volume.sample_boxes import boxes_of, centers_vx, points_nm
from ingest.volume.scale import Scale
from shards.contract.documents import to_plain, write_document
from shards.contract.parquet import part_hashes
from shards.contract.sample_store import create_store, file_hashes, remove_leftovers
from shards.contract.schema import SCHEMA_VERSION, SPLITS
from shards.storage.atomic import atomic_write
from shards.storage.locks import sole_writer

SIZE_PROBES = 16


@dataclass(frozen=True, slots=True)
class Draft:
    """A plan before it is written: its samples, rows of REJECT_COLUMNS, plan.json without files."""

    samples: pd.DataFrame
    rejects: pd.DataFrame
    plan: Plan


def plan_dataset(job: JobConfig, out: Path) -> tuple[Plan, bool]:
    """Write the plan of `job` to `out`; return plan.json and whether it was there already.

    A folder that holds another plan is refused.
    """
    layout, job = Layout(out), complete_job(job)
    local, cave_sources = with_local_tables(job)
    sources = (*job_sources(job), *cave_sources)
    if not layout.plan_json.exists():
        draft = make_plan(local, sources)  # before the folder is made: bad input leaves none
    with sole_writer(out):
        remove_leftovers(out)
        if layout.plan_json.exists():
            _check_same(layout, job, sources)
            return read_plan(layout), True
        plan = replace(draft.plan, config=job)
        group = BLOCKS_A_ROW_GROUP * job.samples_per_block
        write_table(layout.plan_table, draft.samples, plan_columns(job), row_group_size=group)
        write_table(layout.plan_rejects, draft.rejects, REJECT_COLUMNS)
        specs = image_specs(job, plan.voxel_size_nm)
        create_store(out, specs, plan.num_samples, job.samples_per_block, codec=job.samples.codec)
        with atomic_write(out / "config.yaml") as file:
            file.write(job_text(job).encode())
        files = file_hashes(out, specs, layout.plan_rejects.name)
        plan = replace(plan, files=files, table_parts=part_hashes(layout.plan_table))
        write_document(layout.plan_json, plan)
    return plan, False


def with_local_tables(job: JobConfig) -> tuple[JobConfig, list[Source]]:
    """Return the job with CAVE's tables as files, and what tells those from others."""
    if not job.uses_cave:
        return job, []
    from ingest.plan.cave_job import local_job  # here, as caveclient takes a second to import

    return local_job(job)


def make_plan(job: JobConfig, sources: tuple[Source, ...]) -> Draft:
    """Decide everything that `run` will execute."""
    scales = load_scales(job)
    funnel = Funnel()
    samples = labelled_samples(job, funnel)
    samples, unfit = (
        with_images(samples, job, funnel)
        if job.has_images
        else samples_inside(samples, job, scales, funnel)
    )
    samples, guarded = choose(samples, job, scales, funnel)
    rejects = pd.concat([unfit, guarded], ignore_index=True)
    samples = _order(samples, job, scales)
    counts = counts_by_split(
        samples.split.to_numpy(), samples.label.to_numpy(), job.labels.class_names
    )
    if not job.labels.unlabelled:
        dropped = funnel.dropped.get(OVERLAPS, 0)
        check_no_class_empty(counts, where=job.synapses.path, overlapping=dropped)
    samples = samples.assign(split=of_few(samples.split.to_numpy(), SPLITS))
    plan = Plan(
        schema_version=SCHEMA_VERSION,
        config=job,
        sources=sources,
        num_samples=len(samples),
        num_blocks=-(-len(samples) // job.samples_per_block),
        num_rejects=len(rejects),
        counts=counts,
        neurons=neurons_by_split(samples),
        funnel=funnel.steps(),
        notes=funnel.notes,
        tiers=tier_counts(samples),
        voxel_size_nm={
            name: scales[view.mip].voxel_size_nm for name, view in job.samples.views.items()
        },
        prediction=_prediction(samples, job, scales),
    )
    return Draft(samples, rejects, plan)


def load_scales(job: JobConfig) -> dict[int, Scale]:
    """Return what is known of each scale that a view is cut from, checked against the views."""
    mips = sorted({view.mip for view in job.samples.views.values()})
    scales = {mip: load_scale(job.volume, mip, saved=True) for mip in mips}
    for name, view in job.samples.views.items():
        check_voxel_size(view, scales[view.mip], name=name)
    return scales


def job_sources(job: JobConfig) -> list[Source]:
    """Return the files that a job reads, so that a change is noticed: hashes and sizes."""
    paths = [table.path for table in job.tables if table.source == "files"]
    identities = [table_identity(path) for path in dict.fromkeys(paths)]
    return [*identities, source_of(volume_identity(job.volume, saved=True))]


def _check_same(layout: Layout, job: JobConfig, sources: tuple[Source, ...]) -> None:
    cure = f"write to another folder with --out, or delete {layout.root} to start over"
    plan = read_plan(layout)
    old, new = to_plain(plan.config), to_plain(job)
    if changed := [key for key in new if old[key] != new[key]]:
        raise ValueError(
            f"{layout.root} holds another plan: its config differs in {', '.join(changed)}; {cure}"
        )
    if plan.sources != sources:
        raise ValueError(f"{layout.root} was planned from other data: a source changed; {cure}")


def labelled_samples(job: JobConfig, funnel: Funnel) -> pd.DataFrame:
    """Return the labelled synapses in the order of their ids, so that no table's order counts."""
    label = labeller(job.labels, has_roots=job.has_neurons, ids=job.ids)
    batches = synapse_batches(job, funnel.note)
    samples = pd.concat([label(batch, funnel) for batch in batches], ignore_index=True)
    if samples.empty:
        raise ValueError(
            f"{job.synapses.path}: none of {funnel.rows} synapses has a label "
            f"({', '.join(f'{k}: {v}' for k, v in funnel.dropped.items() if v)}"
            + (f", among them {shown_counts(funnel.without_class)}" if job.labels.column else "")
            + "); check that "
            "tables and labels are of one materialization version, and `classes`"
        )
    samples = samples.sort_values("synapse_id", ignore_index=True)
    ids = samples.synapse_id.to_numpy()
    repeated = np.flatnonzero(ids[1:] == ids[:-1])
    if len(repeated):
        first = samples.get("synapse_name", samples.synapse_id)[repeated[0]]
        raise ValueError(
            f"{job.synapses.path}: {len(repeated)} synapse ids come twice, first {first}; remove "
            "the repeated rows"
        )
    return _with_keys(samples, job) if job.ids == "names" else samples


def _with_keys(samples: pd.DataFrame, job: JobConfig) -> pd.DataFrame:
    """Add the keys of samples whose ids are names: the names, in the characters of a key."""
    names = samples.synapse_name
    keys = names.map(key_of)
    if (twice := keys.duplicated(keep=False)).any():
        first = " and ".join(map(repr, names[twice][keys == keys[twice].iloc[0]].head(2)))
        raise ValueError(
            f"{job.synapses.path}: {first} make the same key, {keys[twice].iloc[0]}; rename one"
        )
    return samples.assign(key=keys)


def samples_inside(
    samples: pd.DataFrame, job: JobConfig, scales: dict[int, Scale], funnel: Funnel
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the samples whose images lie in the volume, and the others, with a `reason`."""
    fits = np.ones(len(samples), dtype=bool)
    for view in job.samples.views.values():
        scale = scales[view.mip]
        check_positions(points_nm(samples), job, scale, view.size_zyx)
        voxels = centers_vx(samples, scale.voxel_size_nm)
        fits &= inside(voxels, view.size_zyx, scale.grid.bounds)
    funnel.drop("image would leave the volume", int((~fits).sum()))
    return samples[fits], samples[~fits].assign(reason="out_of_bounds")


def _order(samples: pd.DataFrame, job: JobConfig, scales: dict[int, Scale]) -> pd.DataFrame:
    """Put neighbours in space beside each other, and say which row and block each sample is.

    Images of their own lie in the order of their ids.
    """
    if not job.has_images:
        scale = scales[min(scales)]
        chunks = scale.grid.chunk_of(centers_vx(samples, scale.voxel_size_nm))
        order = np.lexsort((samples.synapse_id.to_numpy(), scale.grid.codes(chunks)))
        samples = samples.iloc[order]
    samples = samples.reset_index(drop=True)
    rows = np.arange(len(samples), dtype=np.int64)
    return samples.assign(row=rows, block=rows // job.samples_per_block)


def _prediction(samples: pd.DataFrame, job: JobConfig, scales: dict[int, Scale]) -> Prediction:
    if job.has_images:
        return predict_files(samples.file, job)
    few = samples.iloc[np.unique(np.linspace(0, len(samples) - 1, SIZE_PROBES).astype(int))]
    boxes = {mip: _boxes(few, job, mip, scale) for mip, scale in scales.items()}
    stored = {mip: stored_sizes(job.volume, mip, under) for mip, under in boxes.items()}
    known = {mip: sizes for mip, sizes in stored.items() if sizes is not None}
    segmentations = {}
    for mip, scale in scales.items() if job.samples.channels[1:] else ():
        of = mask_scale(job, scale.voxel_size_nm)
        segmentations[mip] = of, of.stored_sizes(boxes[mip], scale.voxel_size_nm)
    return predict(samples, job, scales, known, segmentations)


def _boxes(samples: pd.DataFrame, job: JobConfig, mip: int, scale: Scale) -> list[Box]:
    """Return the boxes of the images of one scale."""
    views = [view for view in job.samples.views.values() if view.mip == mip]
    return [box for view in views for box in boxes_of(samples, view, scale.voxel_size_nm)]
