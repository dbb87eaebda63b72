"""Description of a shard set: counts as text, and a contact sheet of examples."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from shards.cli.contact_sheet import SheetRow, middle_section, write_sheet
from shards.contract.schema import Manifest
from shards.stream.shardset import ShardSet

EXAMPLES, TILE_PX = 8, (128, 128)


def describe(shards: ShardSet) -> str:
    """Return lines that say what the set holds: image, splits, classes, neurons, sizes, tiers."""
    return "\n".join([*_head(shards), "", *_split_table(shards.manifest), "", *_tail(shards)])


def examples_sheet(
    shards: ShardSet, path: Path, *, per_class: int = EXAMPLES, seed: int = 42
) -> None:
    """Write a contact sheet: a row of examples per split and class, cubes by middle section."""
    rng, channels = np.random.default_rng(seed), shards.manifest.image.channels
    sheet = []
    for split in shards.manifest.splits:
        labels = shards.index(split).label
        for label, name in enumerate(shards.manifest.class_names):
            rows = np.flatnonzero(labels == label)
            chosen = np.sort(rng.permutation(rows)[:per_class])
            if len(chosen):
                images = shards.read_images(split, chosen)
                tiles = [middle_section(image, channels).resize(TILE_PX) for image in images]
                sheet.append(SheetRow(tiles, [f"{split}, {name} ({len(rows)})"]))
    write_sheet(path, sheet)


def _head(shards: ShardSet) -> Iterator[str]:
    manifest, image = shards.manifest, shards.manifest.image
    yield f"{shards.url}: {image.view} images {image.shape} ({', '.join(image.axes)}) {image.dtype}"
    if manifest.pack.fold is not None:
        yield f"fold {manifest.pack.fold} of {manifest.pack.num_folds}, numbered from 0"
    yield f"voxels {image.voxels}; channels {', '.join(image.channels)}"
    mean, std = (", ".join(f"{v:.3f}" for v in values) for values in (manifest.mean, manifest.std))
    yield f"mean {mean}; standard deviation {std}"
    yield f"manifest sha256 {shards.manifest_sha256}"


def _split_table(manifest: Manifest) -> Iterator[str]:
    classes = list(dict.fromkeys(c for info in manifest.splits.values() for c in info.class_counts))
    yield _line(["split", "samples", "neurons", *classes, "shards", "MB"])
    for split, info in manifest.splits.items():
        counts = [info.class_counts.get(name, 0) for name in classes]
        megabytes = sum(shard.bytes for shard in info.shards) / 1e6
        neurons = info.num_neurons or "unknown"
        cells = [split, info.num_samples, neurons, *counts, len(info.shards)]
        yield _line([*cells, f"{megabytes:.1f}"])


def _tail(shards: ShardSet) -> Iterator[str]:
    ids = {split: shards.index(split).neuron_id for split in shards.manifest.splits}
    neurons = {split: set(found[found != 0].tolist()) for split, found in ids.items()}
    for split, members in neurons.items():
        sizes = np.unique(ids[split][ids[split] != 0], return_counts=True)[1]
        spread = "neurons unknown"
        if len(sizes):
            spread = f"{np.median(sizes):g} samples a neuron in the middle, {sizes.max()} at most"
        tiers = _tiers(shards.index(split).column("label_tier"))
        yield f"{split}: {spread}; {tiers}"
        shared = sum(len(members & others) for name, others in neurons.items() if name != split)
        if shared:
            yield f"{split}: shares {shared} neurons with other splits"
    left_out = shards.manifest.pack.left_out
    yield "left out: " + (", ".join(f"{n} {why}" for why, n in left_out.items()) or "nothing")


def _tiers(tiers: np.ndarray) -> str:
    names, counts = np.unique(tiers.astype(str), return_counts=True)
    return "tiers " + ", ".join(f"{n or 'none'} {c}" for n, c in zip(names, counts, strict=True))


def _line(cells: list[object]) -> str:
    return "".join(f"{cell!s:>14}" for cell in cells)
