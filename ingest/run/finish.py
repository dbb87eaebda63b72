"""Blocks into a data set: merged, checked for completeness, described; dataset.json last."""

from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import pyarrow as pa

from ingest.dataset import (
    REJECT_COLUMNS,
    Layout,
    image_specs,
    read_table,
    write_table,
)
from ingest.plan.labels import tier_counts
from ingest.plan.plan_record import Plan, Rules, read_plan
from ingest.plan.splits import check_no_class_empty, neurons_by_split
from ingest.qc.plots import draw_all
from shards.contract.documents import to_plain
from shards.contract.parquet import read_sealed
from shards.contract.sample_store import (
    SAMPLES,
    check_metadata,
    file_hashes,
    open_for_write,
    remove_leftovers,
    shard_path,
    write_dataset,
)
from shards.contract.schema import (
    SAMPLE_COLUMNS,
    SCHEMA_VERSION,
    SPLITS,
    Dataset,
    with_names,
)
from shards.pack.make_manifest import class_counts
from shards.storage.locks import sole_writer


def finish_dataset(root: Path) -> Dataset:
    """Merge the blocks of a plan that has run to its end; may be repeated."""
    layout = Layout(root)
    plan = read_plan(layout)
    with sole_writer(root):
        records = _records(layout, plan)
        remove_leftovers(root)
        kept = records[records.reason == ""]
        rejects = pd.concat(
            [
                plan_rejects(layout, plan),
                records.loc[records.reason != "", [*with_names(REJECT_COLUMNS, records)]],
            ],
            ignore_index=True,
        )
        _check_rejects(records, plan, root)
        dataset = describe(plan, kept, len(rejects))
        check_metadata(root, plan.files)
        if not plan.job.labels.unlabelled:
            check_no_class_empty(dataset.counts, where=str(root))
        _check_shards(layout, plan, kept)
        write_table(root / SAMPLES, kept, SAMPLE_COLUMNS)
        write_table(root / "rejects.parquet", rejects, REJECT_COLUMNS)
        files = file_hashes(root, dataset.views, SAMPLES, "rejects.parquet")
        dataset = replace(dataset, files=files)
        draw_all(root, dataset, kept, rejects)
        write_dataset(root, dataset)
    return dataset


def describe(plan: Plan, kept: pd.DataFrame, num_rejects: int) -> Dataset:
    """Return dataset.json for the samples that were kept."""
    job = plan.job
    return Dataset(
        schema_version=SCHEMA_VERSION,
        class_names=job.labels.class_names,
        views=image_specs(job, plan.voxel_size_nm),
        num_samples=len(kept),
        num_rejects=num_rejects,
        counts=_counts(kept, job.labels.class_names),
        config=to_plain(job),
        sources=[to_plain(source) for source in plan.sources],
        rules=to_plain(_rules(plan, kept)),
        code_version=version("synshards"),
    )


def _rules(plan: Plan, kept: pd.DataFrame) -> Rules:
    flags = kept.qc_flags[kept.qc_flags != ""].str.split(",").explode().value_counts()
    return Rules(
        funnel=plan.funnel,
        notes=plan.notes,
        tiers=tier_counts(kept),
        neurons=neurons_by_split(kept),
        qc_flags={str(flag): int(count) for flag, count in flags.items()},
        center=plan.job.samples.center,
        prediction=plan.prediction,
    )


def plan_rejects(layout: Layout, plan: Plan) -> pd.DataFrame:
    """Return what the plan left out, and why."""
    return read_table(layout.plan_rejects, plan.files.get(layout.plan_rejects.name))


def _records(layout: Layout, plan: Plan) -> pd.DataFrame:
    missing = [b for b in range(plan.num_blocks) if not layout.block(b).exists()]
    if missing:
        raise ValueError(
            f"{layout.root}: {len(missing)} of {plan.num_blocks} blocks are not done (first: "
            f"{missing[0]}); run `python -m ingest run {layout.root}` to do them"
        )
    parts = [block_record(layout, plan, block) for block in range(plan.num_blocks)]
    records: pd.DataFrame = pa.concat_tables(parts).to_pandas()
    if records.row.tolist() != list(range(plan.num_samples)):
        raise ValueError(
            f"{layout.root}: the blocks hold {len(records)} rows, planned were "
            f"{plan.num_samples}; delete its folder blocks/ and run again"
        )
    return records


def block_record(layout: Layout, plan: Plan, block: int) -> pa.Table:
    """Return what was done of a block."""
    path = layout.block(block)
    cure = f"delete it and run `python -m ingest run {layout.root}` again"
    return read_sealed(path, required=bool(plan.files), cure=cure)


def _check_rejects(records: pd.DataFrame, plan: Plan, root: Path) -> None:
    reasons = records.reason[records.reason != ""].value_counts()
    share = reasons.sum() / len(records)
    if share > plan.job.qc.max_reject_fraction:
        first = records.loc[records.reason != "", "synapse_id"].head(5).tolist()
        raise ValueError(
            f"{root}: {share:.0%} of {len(records)} samples were rejected "
            f"({', '.join(f'{k}: {v}' for k, v in reasons.items())}; first synapses {first}); "
            "check resolution and positions, or raise qc.max_reject_fraction and plan again"
        )


def _check_shards(layout: Layout, plan: Plan, kept: pd.DataFrame) -> None:
    for name in plan.job.samples.views:
        array = open_for_write(layout.root, name)
        for block in kept.block.unique().tolist():
            path = shard_path(array, block)
            if not path.exists():
                raise ValueError(
                    f"{path}: the zarr shard of block {block} is gone; delete "
                    f"{layout.block(block)} and run again"
                )


def _counts(kept: pd.DataFrame, class_names: tuple[str, ...]) -> dict[str, dict[str, int]]:
    return {
        split: class_counts(kept.label[kept.split == split].to_numpy(), class_names)
        for split in SPLITS
    }
