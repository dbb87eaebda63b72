"""What a data set or a plan holds, in lines of text."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ingest.layout import Layout, read_dataset, read_plan, read_table
from shards.schema import SPLITS


def inspect_lines(root: Path) -> Iterator[str]:
    """Yield the lines that describe a data set, finished or only planned."""
    layout = Layout(root)
    plan = read_plan(layout)
    done = sum(layout.block(block).exists() for block in range(plan.num_blocks))
    yield f"{root}: {done} of {plan.num_blocks} blocks done"
    if not layout.dataset_json.exists():
        yield from plan_lines(plan.document)
        return
    dataset = read_dataset(layout)
    for name, view in dataset.views.items():
        z, y, x = view.voxel_size_nm
        yield f"{name}: {dataset.num_samples} × {view.shape} {view.dtype}, {z:g}×{y:g}×{x:g} nm"
    yield from funnel_lines(dataset.rules["funnel"])
    yield from note_lines(dataset.rules["notes"])
    yield from count_lines(dataset.counts, dataset.rules["neurons"])
    yield f"label tiers: {_pairs(dataset.rules['tiers'])}"
    yield f"flagged: {_pairs(dataset.rules['qc_flags'])}"
    reasons = read_table(root / "rejects.parquet").reason.value_counts()
    yield f"rejected {dataset.num_rejects}: {_pairs(dict(reasons))}"
    yield f"pictures: {root / 'qc'}, the worst samples in worst-VIEW.png"


def plan_lines(document: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines that describe a plan."""
    yield from funnel_lines(document["funnel"])
    yield from note_lines(document["notes"])
    yield from count_lines(document["counts"], document["neurons"])
    yield f"label tiers: {_pairs(document['tiers'])}"
    predicted = document["prediction"]
    readings = [(f"mip {mip}", reading) for mip, reading in predicted["by_mip"].items()]
    readings += [(f"masks of mip {mip}", reading) for mip, reading in predicted["masks"].items()]
    for name, reading in readings:
        yield (
            f"{name}: {reading['touches']} chunk touches, {reading['distinct_chunks']} distinct "
            f"chunks ({reading['chunk_reads']} reads), {reading['minishards']} minishards, "
            f"{reading['shards']} shards; {reading['ranges']} ranges joined over gaps of "
            f"{reading['gap']}, {reading['carried_chunks']} chunks in them"
        )
    yield (
        f"predicted: {predicted['requests']} requests, {predicted['bytes'] / 1e9:.2f} GB to read, "
        f"{predicted['seconds']:.0f} s at the stated bandwidth and latency, "
        f"{predicted['store_bytes'] / 1e9:.2f} GB to store in {document['num_blocks']} blocks"
    )


def note_lines(notes: Mapping[str, int]) -> Iterator[str]:
    """Yield what is worth knowing of samples that were kept."""
    for what, count in notes.items():
        yield f"{count:>12}  {what}"


def funnel_lines(funnel: list[dict[str, Any]]) -> Iterator[str]:
    """Yield how many rows each step kept."""
    for row in funnel:
        yield f"{row['kept']:>12}  {row['step']}" + (
            f" (-{row['dropped']})" if row["dropped"] else ""
        )


def count_lines(
    counts: Mapping[str, Mapping[str, int]], neurons: Mapping[str, int]
) -> Iterator[str]:
    """Yield samples of each class and neurons, by split."""
    for split in SPLITS:
        of = f"{neurons[split]} neurons" if any(neurons.values()) else "unknown neurons"
        yield f"{split:>6}: {_pairs(counts[split])} of {of}"


def _pairs(counts: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items()) or "none"


def run_lines(done: Mapping[str, float]) -> Iterator[str]:
    """Yield what a run did."""
    if not done["blocks_run"]:
        yield f"all {done['blocks']:.0f} blocks were done already"
        return
    yield (
        f"{done['blocks_run']:.0f} of {done['blocks']:.0f} blocks run in {done['seconds']:.1f} s: "
        f"{done['kept']:.0f} samples kept, {done['rejected']:.0f} rejected, "
        f"{done['bytes'] / 1e6:.0f} MB written, {done['samples_per_s']:.1f} samples/s"
    )
