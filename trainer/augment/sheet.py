"""A picture of what a recipe's augmentation does: each operation by itself, then all together."""

from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from shards.cli.contact_sheet import SheetRow, above_x_z_plane, write_sheet
from shards.images.channels import em_channels
from shards.stream.shardset import open_shards
from trainer.augment.spatial import augment_batch
from trainer.config import Augment, Config
from trainer.models.classifier import build_classifier, inputs_of

PLAIN = Augment(flip=False, turn=False)
TOGETHER = 3  # rows


def augmentation_sheet(
    config: Config, data: str, fold: int | None, out: Path, *, num_images: int, seed: int
) -> int:
    """Write a PNG with a column per image and a row per operation; return the number of rows.

    Images are training samples, cropped as the recipe crops them; a cube is shown by its middle
    section, and below by its middle plane across the sections, or by those that an operation of
    its own changed most. Operations of a probability are forced, and their titles say so.
    """
    with open_shards(data, fold=fold) as shards:
        build_classifier(replace(config, weights="none"), inputs_of(shards.manifest))
        index = shards.index("train")
        rows = np.random.default_rng(seed).permutation(len(index))[:num_images]
        x = torch.from_numpy(shards.read_images("train", rows))
        image = shards.manifest.image
    em = em_channels(image.channels)
    shown = em[0] if em else 0
    sheet = []
    plain = augment_batch(x, rows, PLAIN, crop=config.crop, seed=seed, epoch=0).float().numpy()
    for title, augment, epoch in _operations(config.augment):
        done = augment_batch(x, rows, augment, crop=config.crop, seed=seed, epoch=epoch, em=em)
        done = done.float()
        pairs = zip(done.numpy(), done.numpy() if augment == config.augment else plain, strict=True)
        pictures = [_view(one[shown], before[shown], image.stretch) for one, before in pairs]
        sheet.append(SheetRow(pictures, [title]))
    write_sheet(out, sheet)
    return len(sheet)


def _operations(augment: Augment) -> Iterator[tuple[str, Augment, int]]:
    """Yield a title, an augmentation and an epoch for each row."""
    yield "as it is", PLAIN, 0
    for item in fields(Augment):
        value = getattr(augment, item.name)
        if item.name == "misalign_vx" or not value:
            continue
        alone = replace(PLAIN, misalign_vx=augment.misalign_vx)
        title, shown = f"{item.name} {value}", value
        if item.name.endswith("_p") and value < 1.0:
            title, shown = f"{title}: forced in every image here", 1.0
        changed: dict[str, Any] = {item.name: shown}
        yield title, replace(alone, **changed), 0
    for epoch in range(TOGETHER):
        yield f"all together, epoch {epoch + 1}", augment, epoch


def _view(
    image: npt.NDArray[np.float32], before: npt.NDArray[np.float32], stretch: float
) -> Image.Image:
    """Return an image (y, x), or a section of a cube (z, y, x) with an x-z plane below."""
    gray = np.clip(np.rint(image), 0, 255).astype(np.uint8)
    if gray.ndim == 2:
        return Image.fromarray(gray)
    change = np.abs(image - before)
    z, y = (_place(change.mean(axis=axes)) for axes in ((1, 2), (0, 2)))
    return above_x_z_plane(Image.fromarray(gray[z]), Image.fromarray(gray[:, y]), stretch)


def _place(change: npt.NDArray[np.float32]) -> int:
    """Return the middle, or the place of the largest change where the middle has little of it."""
    middle, most = len(change) // 2, int(change.argmax())
    return most if change[most] > 2.0 * change[middle] else middle
