"""Contact sheets of a data set's samples: some of each split and class, and the worst of all."""

from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import zarr
from PIL import Image as Picture
from PIL import ImageDraw

from ingest.job.image_config import QcConfig
from ingest.qc.measure import FLAGS
from shards.cli.describe_shards import middle_section
from shards.contract.schema import ImageSpec
from shards.storage.atomic import atomic_write

Image = npt.NDArray[np.uint8]

COLUMNS, ROWS, GAP_PX = 8, 4, 2
LINE_PX, NARROWEST_PX = 12, 124  # a caption's line, and a tile that holds an id of 18 digits
ACROSS_SECTIONS = ("missing_sections", "shifted", "blurred")
TINTS = {"pre": (255, 70, 50), "post": (40, 140, 255)}


def sheet_of_some(
    path: Path, array: "zarr.Array[Any]", spec: ImageSpec, samples: pd.DataFrame, title: str
) -> None:
    """Draw the middle sections of samples (`key`, `row`) under their keys, masks in colour."""
    tiles = [
        _captioned(_tinted(np.asarray(array[int(sample.row)]), spec), (str(sample.key),), spec)
        for _, sample in samples.iterrows()
    ]
    _save(path, tiles, title, spec)


def sheet_of_worst(
    path: Path, array: "zarr.Array[Any]", spec: ImageSpec, samples: pd.DataFrame, config: QcConfig
) -> None:
    """Draw the samples that quality control thinks the least of, the worst first.

    `samples` have `key`, `row` and the fields of `Quality`. Each shows its middle section, and a
    cube its middle plane across the sections below; above are its key, the measurement that is the
    worst of those that such an image has, and the flag if it has one.
    """
    flags = {name: of for name, of in FLAGS.items() if _is_measured(name, spec)}
    severity = pd.DataFrame(
        {name: of(samples[field], config) for name, (field, of) in flags.items()}
    )
    order = np.argsort(-severity.max(axis=1).to_numpy(), kind="stable")[: COLUMNS * ROWS]
    tiles = []
    for name, worst, (_, sample) in zip(
        severity.iloc[order].idxmax(axis=1), severity.max(axis=1).iloc[order],
        samples.iloc[order].iterrows(), strict=True,
    ):  # fmt: skip
        field = FLAGS[str(name)][0]
        picture = _both_sides(np.asarray(array[int(sample.row)]), spec)
        lines = (
            str(sample.key),
            f"{field.replace('_', ' ')} {sample[field]:.3g}",
            f"flagged {name}" if worst > 1 else "",
        )
        tiles.append(_captioned(picture, lines, spec))
    flagged = int((severity.max(axis=1) > 1).sum())
    _save(path, tiles, f"{spec.view}: the worst first; {flagged} of {len(samples)} flagged", spec)


def _is_measured(flag: str, spec: ImageSpec) -> bool:
    """Return whether such images can have a flag: a patch has one section, and many no masks."""
    if flag in ACROSS_SECTIONS:
        return spec.view == "cube"
    return flag != "empty_mask" or len(spec.channels) > 1


def _tinted(image: Image, spec: ImageSpec) -> Picture.Image:
    """Return the middle section, grey, with its masks in colour."""
    return _colored(np.stack([middle_section(channel[None]) for channel in image]), spec)


def _both_sides(image: Image, spec: ImageSpec) -> Picture.Image:
    """Return the middle section, and below it, for a cube, the middle plane across sections."""
    upper = _tinted(image, spec)
    if spec.view == "patch":
        return upper
    z_nm, _, x_nm = spec.size_nm
    lower = _colored(image[:, :, image.shape[2] // 2], spec)
    lower = lower.resize(
        (lower.width, round(lower.height * z_nm / x_nm)), Picture.Resampling.NEAREST
    )
    both = Picture.new(upper.mode, (upper.width, upper.height + GAP_PX + lower.height), "white")
    both.paste(upper, (0, 0))
    both.paste(lower, (0, upper.height + GAP_PX))
    return both


def _colored(planes: Image, spec: ImageSpec) -> Picture.Image:
    """Return channels (c, y, x) as one picture: the first grey, masks as tints of it."""
    if len(planes) == 1:
        return Picture.fromarray(planes[0])
    rgb = np.repeat(planes[0][..., None], 3, axis=2)
    for name, mask in zip(spec.channels[1:], planes[1:], strict=True):
        rgb[mask > 0] = rgb[mask > 0] // 2 + np.array(TINTS[name], dtype=np.uint8) // 2
    return Picture.fromarray(rgb)


def _captioned(picture: Picture.Image, lines: Sequence[str], spec: ImageSpec) -> Picture.Image:
    """Return a picture with lines above it and a scale bar in it."""
    size = max(picture.width, NARROWEST_PX), picture.height + LINE_PX * len(lines)
    tile = Picture.new(picture.mode, size, "white")
    tile.paste(picture, (0, LINE_PX * len(lines)))
    draw = ImageDraw.Draw(tile)
    for number, line in enumerate(lines):
        draw.text((1, LINE_PX * number), line, fill="black")
    bar = round(scale_bar_nm(spec) / spec.size_nm[2])
    bottom = LINE_PX * len(lines) + spec.shape[-2] - 4
    draw.rectangle((3, bottom - 4, 4 + bar, bottom), fill="black")
    draw.rectangle((4, bottom - 3, 3 + bar, bottom - 1), fill="white")
    return tile


def scale_bar_nm(spec: ImageSpec) -> float:
    """Return a scale bar's length, at most a third of the width: 1, 2 or 5 times a power of 10."""
    most = spec.shape[-1] * spec.size_nm[2] / 3
    power = 10.0 ** np.floor(np.log10(most))
    return float(max(step * power for step in (1, 2, 5) if step * power <= most))


def _save(path: Path, tiles: Sequence[Picture.Image], title: str, spec: ImageSpec) -> None:
    """Lay tiles of one size out as rows of a page, under a title and the scale bar's length."""
    width, height = tiles[0].width + GAP_PX, tiles[0].height + GAP_PX
    lines = (title, f"white bar: {scale_bar_nm(spec):g} nm")
    top = LINE_PX * len(lines) + GAP_PX
    needed = max(8 + ceil(ImageDraw.Draw(tiles[0]).textlength(line)) for line in lines)
    size = (
        max(needed, width * min(len(tiles), COLUMNS)),
        top + height * -(-len(tiles) // COLUMNS),
    )
    page = Picture.new(tiles[0].mode, size, "white")
    for number, line in enumerate(lines):
        ImageDraw.Draw(page).text((1, LINE_PX * number), line, fill="black")
    for place, tile in enumerate(tiles):
        row, column = divmod(place, COLUMNS)
        page.paste(tile, (column * width, top + row * height))
    with atomic_write(path) as file:
        page.save(file, format="PNG")
