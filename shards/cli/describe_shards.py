"""What a shard set holds: counts as text, and a contact sheet of examples."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from shards.contract.schema import Manifest
from shards.storage.atomic import atomic_write
from shards.stream.shardset import ShardSet

TILE, MARGIN, TITLE = 128, 4, 16
COLUMNS = 8


def describe(shards: ShardSet) -> str:
    """Return lines that say what the set holds: image, splits, classes, neurons, sizes, tiers."""
    return "\n".join([*_head(shards), "", *_split_table(shards.manifest), "", *_tail(shards)])


def contact_sheet(
    shards: ShardSet, path: Path, *, per_class: int = COLUMNS, seed: int = 42
) -> None:
    """Write a PNG: a row for each split and class of `per_class` examples, cubes by mid-section."""
    rows = list(_sheet_rows(shards, per_class, seed))
    width = per_class * (TILE + MARGIN) + MARGIN
    sheet = Image.new("L", (width, len(rows) * (TILE + TITLE + MARGIN)), 255)
    draw = ImageDraw.Draw(sheet)
    for number, (title, images) in enumerate(rows):
        top = number * (TILE + TITLE + MARGIN)
        draw.text((MARGIN, top + 2), title, fill=0)
        for column, image in enumerate(images):
            tile = Image.fromarray(middle_section(image)).resize((TILE, TILE))
            sheet.paste(tile, (MARGIN + column * (TILE + MARGIN), top + TITLE))
    with atomic_write(path) as file:
        sheet.save(file, format="PNG")


def middle_section(image: np.ndarray) -> np.ndarray:
    """Return the first channel (y, x) of an image (c, y, x), or of a cube's middle section."""
    section: np.ndarray = image[0] if image.ndim == 3 else image[0, image.shape[1] // 2]
    return section


def _sheet_rows(shards: ShardSet, per_class: int, seed: int) -> Iterator[tuple[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    for split in shards.manifest.splits:
        labels = shards.index(split).label
        for label, name in enumerate(shards.manifest.class_names):
            rows = np.flatnonzero(labels == label)
            chosen = np.sort(rng.permutation(rows)[:per_class])
            if len(chosen):
                yield f"{split}, {name} ({len(rows)})", shards.read_images(split, chosen)


def _head(shards: ShardSet) -> Iterator[str]:
    manifest, image = shards.manifest, shards.manifest.image
    yield f"{shards.url}: {image.view} images {image.shape} ({', '.join(image.axes)}) {image.dtype}"
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
