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

from ingest.job.image_config import QcConfig
from ingest.qc.measure import FLAGS
from shards.cli.contact_sheet import (
    LINE_PX,
    SheetRow,
    above_x_z_plane,
    middle_section,
    tinted,
    write_lines,
    write_sheet,
)
from shards.contract.schema import ImageSpec

Array = zarr.Array[Any]

COLUMNS, ROWS = 8, 4
NARROWEST_PX = 124  # a tile that holds an id of 18 digits
ACROSS_SECTIONS = ("missing_sections", "shifted", "blurred")


def sheet_of_some(
    path: Path, array: Array, spec: ImageSpec, samples: pd.DataFrame, title: str
) -> None:
    """Draw the middle sections of samples (`key`, `row`) under their keys, masks in color."""
    images = (np.asarray(array[int(row)]) for row in samples.row)
    tiles = [
        captioned(middle_section(image, spec.channels), [str(key)], spec)
        for image, key in zip(images, samples.key, strict=True)
    ]
    write_tiles(path, tiles, title, spec)


def sheet_of_worst(
    path: Path, array: Array, spec: ImageSpec, samples: pd.DataFrame, config: QcConfig
) -> None:
    """Draw the samples that quality control thinks the least of, the worst first.

    `samples` have `key`, `row` and the fields of `Quality`. Each shows its middle section, and a
    cube its middle plane across the sections below; above are its key, the measurement that is the
    worst of those that such an image has, and the flag if it has one.
    """
    severity = pd.DataFrame(
        {
            name: severity_of(samples[field], config)
            for name, (field, severity_of) in FLAGS.items()
            if _is_measured(name, spec)
        }
    )
    worst, flag = severity.max(axis=1).to_numpy(), severity.idxmax(axis=1).to_numpy()
    tiles = []
    for place in np.argsort(-worst, kind="stable")[: COLUMNS * ROWS]:
        sample, field = samples.iloc[place], FLAGS[flag[place]][0]
        lines = [
            str(sample.key),
            f"{field.replace('_', ' ')} {sample[field]:.3g}",
            f"flagged {flag[place]}" if worst[place] > 1 else "",
        ]
        tiles.append(captioned(_both_sides(np.asarray(array[int(sample.row)]), spec), lines, spec))
    flagged = int((worst > 1).sum())
    write_tiles(
        path, tiles, f"{spec.view}: the worst first; {flagged} of {len(samples)} flagged", spec
    )


def scale_bar_nm(spec: ImageSpec) -> float:
    """Return a scale bar's length, at most a third of the width: 1, 2 or 5 times a power of 10."""
    most = spec.shape[-1] * spec.size_nm[2] / 3
    power = 10.0 ** np.floor(np.log10(most))
    return float(max(step * power for step in (1, 2, 5) if step * power <= most))


def _is_measured(flag: str, spec: ImageSpec) -> bool:
    """Return whether such images can have a flag: a patch has one section, and many no masks."""
    if flag in ACROSS_SECTIONS:
        return spec.view == "cube"
    return flag != "empty_mask" or len(spec.channels) > 1


def _both_sides(image: npt.NDArray[np.uint8], spec: ImageSpec) -> Picture.Image:
    """Return the middle section, and below it, for a cube, the middle plane across sections."""
    section = middle_section(image, spec.channels)
    if spec.view == "patch":
        return section
    plane = tinted(image[:, :, image.shape[2] // 2], spec.channels)
    return above_x_z_plane(section, plane, spec.stretch)


def captioned(picture: Picture.Image, lines: Sequence[str], spec: ImageSpec) -> Picture.Image:
    """Return a picture with lines above it and a scale bar in it."""
    top = LINE_PX * len(lines)
    tile = Picture.new(
        picture.mode, (max(picture.width, NARROWEST_PX), picture.height + top), "white"
    )
    tile.paste(picture, (0, top))
    write_lines(tile, lines, left=1, top=0)
    draw, bar = ImageDraw.Draw(tile), round(scale_bar_nm(spec) / spec.size_nm[2])
    bottom = top + spec.shape[-2] - 4
    draw.rectangle((3, bottom - 4, 4 + bar, bottom), fill="black")
    draw.rectangle((4, bottom - 3, 3 + bar, bottom - 1), fill="white")
    return tile


def write_tiles(path: Path, tiles: Sequence[Picture.Image], title: str, spec: ImageSpec) -> None:
    titles = (title, f"white bar: {scale_bar_nm(spec):g} nm")
    rows = [tiles[start : start + COLUMNS] for start in range(0, len(tiles), COLUMNS)]
    write_sheet(path, [SheetRow(row, () if place else titles) for place, row in enumerate(rows)])
