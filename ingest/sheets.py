"""Contact sheets of a data set's samples: some of each split and class, and the worst of all."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import zarr
from PIL import Image as Picture
from PIL import ImageDraw

from ingest.image_config import QcConfig
from ingest.qc import FLAGS
from shards.inspect import middle_section
from shards.schema import ImageSpec

Image = npt.NDArray[np.uint8]

COLUMNS, ROWS, GAP_PX = 8, 4, 2
LINE_PX, NARROWEST_PX = 12, 124  # a caption's line, and a tile that holds an id of 18 digits
TINTS = {"pre": (255, 70, 50), "post": (40, 140, 255)}


def sheet_of_some(
    path: Path, array: "zarr.Array[Any]", spec: ImageSpec, rows: Sequence[int]
) -> None:
    """Draw the middle sections of samples, masks in colour."""
    _sheet([_tinted(np.asarray(array[row]), spec) for row in rows]).save(path)


def sheet_of_worst(
    path: Path, array: "zarr.Array[Any]", spec: ImageSpec, samples: pd.DataFrame, config: QcConfig
) -> None:
    """Draw the samples that quality control thinks the least of, the worst first.

    `samples` have `key`, `row` and the fields of `Quality`. Each shows its middle section, and a
    cube its middle plane across the sections below; above are its key and what is worst.
    """
    severity = pd.DataFrame(
        {name: of(samples[field], config) for name, (field, of) in FLAGS.items()}
    )
    order = np.argsort(-severity.max(axis=1).to_numpy(), kind="stable")[: COLUMNS * ROWS]
    tiles = []
    for name, (_, sample) in zip(
        severity.iloc[order].idxmax(axis=1), samples.iloc[order].iterrows(), strict=True
    ):
        value = sample[FLAGS[str(name)][0]]
        picture = _both_sides(np.asarray(array[int(sample.row)]), spec)
        tiles.append(_captioned(picture, (str(sample.key), f"{name} {value:.3g}")))
    _sheet(tiles).save(path)


def _tinted(image: Image, spec: ImageSpec) -> Picture.Image:
    """Return the middle section, grey, with its masks in colour."""
    return _colored(np.stack([middle_section(channel[None]) for channel in image]), spec)


def _both_sides(image: Image, spec: ImageSpec) -> Picture.Image:
    """Return the middle section, and below it, for a cube, the middle plane across sections."""
    upper = _tinted(image, spec)
    if spec.view == "patch":
        return upper
    z_nm, _, x_nm = spec.voxel_size_nm
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


def _captioned(picture: Picture.Image, lines: Sequence[str]) -> Picture.Image:
    size = max(picture.width, NARROWEST_PX), picture.height + LINE_PX * len(lines)
    tile = Picture.new(picture.mode, size, "white")
    tile.paste(picture, (0, LINE_PX * len(lines)))
    draw = ImageDraw.Draw(tile)
    for number, line in enumerate(lines):
        draw.text((1, LINE_PX * number), line, fill="black")
    return tile


def _sheet(tiles: Sequence[Picture.Image]) -> Picture.Image:
    """Lay tiles of one size out as rows of a page."""
    width, height = tiles[0].width + GAP_PX, tiles[0].height + GAP_PX
    size = width * min(len(tiles), COLUMNS), height * -(-len(tiles) // COLUMNS)
    page = Picture.new(tiles[0].mode, size, "white")
    for place, tile in enumerate(tiles):
        row, column = divmod(place, COLUMNS)
        page.paste(tile, (column * width, row * height))
    return page
