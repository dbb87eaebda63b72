"""A data set or a plan described in lines of text."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from ingest.dataset import Layout, read_finished
from ingest.plan.labels import ROWS
from ingest.plan.plan_record import Plan, Rules, read_plan
from shards.contract.documents import parse_plain
from shards.contract.sample_store import read_dataset
from shards.contract.schema import SPLITS, Dataset


def inspect_lines(root: Path) -> Iterator[str]:
    """Yield the lines that describe a data set, finished or only planned."""
    layout = Layout(root)
    plan = read_plan(layout)
    done = sum(layout.block(block).exists() for block in range(plan.num_blocks))
    yield f"{root}: {done} of {plan.num_blocks} blocks done"
    if not layout.dataset_json.exists():
        yield from plan_lines(plan)
        return
    dataset = read_dataset(root)
    for name, view in dataset.views.items():
        z, y, x = view.size_nm
        yield f"{name}: {dataset.num_samples} × {view.shape} {view.dtype}, {z:g}×{y:g}×{x:g} nm"
    rules = rules_of(dataset, root)
    yield from _label_lines(rules, dataset.counts)
    yield f"flagged: {_pairs(rules.qc_flags)}"
    reasons = read_finished(layout, "rejects.parquet", dataset).reason.value_counts()
    yield f"rejected {dataset.num_rejects}: {_pairs(dict(reasons))}"
    yield f"pictures: {root / 'qc'}, the worst samples in worst-VIEW.png"


def rules_of(dataset: Dataset, root: Path) -> Rules:
    """Return the rules of a finished data set of ours."""
    cure = f"run `python -m ingest finish {root}` again"
    return parse_plain(Rules, dataset.rules, where=f"{root}: the rules in dataset.json", cure=cure)


def plan_lines(plan: Plan) -> Iterator[str]:
    """Yield the lines that describe a plan."""
    names = plan.job.labels.class_names
    yield f"classes: {', '.join(f'{number} {name}' for number, name in enumerate(names))}"
    yield from _label_lines(plan, plan.counts)
    if (window := plan.config.volume.intensity) is not None:
        yield (
            f"intensity: values up to {window[0]:g} become black, from {window[1]:g} white, and "
            "those between 8-bit gray in proportion"
        )
    predicted = plan.prediction
    readings = [(f"mip {mip}", reading) for mip, reading in predicted.by_mip.items()]
    readings += [(f"masks of mip {mip}", reading) for mip, reading in predicted.masks.items()]
    for name, reading in readings:
        yield (
            f"{name}: {reading.touches} chunk touches, {reading.distinct_chunks} distinct "
            f"chunks ({reading.chunk_reads} reads), {reading.minishards} minishards, "
            f"{reading.shards} shards; {reading.ranges} ranges joined over gaps of "
            f"{reading.gap}, {reading.carried_chunks} chunks in them"
        )
    yield (
        f"predicted: {predicted.requests} requests, {predicted.bytes / 1e9:.2f} GB to read, "
        f"{predicted.seconds:.0f} s at the stated bandwidth and latency, "
        f"{predicted.store_bytes / 1e9:.2f} GB to store in {plan.num_blocks} blocks"
    )


def _label_lines(record: Plan | Rules, counts: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
    """Yield the labelling: rows that each step dropped and left, notes, samples by split, tiers."""
    yield f"{'dropped':>12}{'left':>12}"
    for step in record.funnel:
        if step.dropped or step.step == ROWS:
            yield f"{step.dropped or '':>12}{step.kept:>12}  {step.step}"
    for note, count in record.notes.items():
        yield f"note: {count} {note}"
    yield from count_lines(counts, record.neurons)
    yield f"label tiers: {_pairs(record.tiers)}"


def count_lines(
    counts: Mapping[str, Mapping[str, int]], neurons: Mapping[str, int]
) -> Iterator[str]:
    """Yield samples of each class and neurons, by split."""
    for split in SPLITS:
        who = f"{neurons[split]} neurons" if any(neurons.values()) else "unknown neurons"
        yield f"{split:>6}: {_pairs(counts.get(split, {}))} of {who}"


def _pairs(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items()) or "none"
