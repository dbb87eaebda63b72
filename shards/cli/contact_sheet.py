"""Contact sheets: rows of pictures under lines of text, and an image as one such picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image as Picture
from PIL import ImageDraw

from shards.storage.atomic import atomic_write

Image = npt.NDArray[np.uint8]

GAP_PX, LINE_PX = 4, 12
MASK_TINTS = {"pre": (255, 70, 50), "post": (40, 140, 255)}


@dataclass(frozen=True, slots=True)
class SheetRow:
    """Pictures side by side, under lines of text."""

    pictures: Sequence[Picture.Image]
    lines: Sequence[str] = ()

    @property
    def text_px(self) -> int:
        """Height of the text with the gap below it."""
        return LINE_PX * len(self.lines) + GAP_PX if self.lines else 0


def write_sheet(path: Path, rows: Sequence[SheetRow]) -> None:
    """Write rows of pictures, all of one size, as a PNG."""
    (width, height), mode = rows[0].pictures[0].size, rows[0].pictures[0].mode
    columns = max(len(row.pictures) for row in rows)
    size = (
        max(columns * (width + GAP_PX), *(_text_width(row.lines) for row in rows)) + GAP_PX,
        sum(row.text_px + height + GAP_PX for row in rows) + GAP_PX,
    )
    page = Picture.new(mode, size, "white")
    top = GAP_PX
    for row in rows:
        write_lines(page, row.lines, left=GAP_PX, top=top)
        for column, picture in enumerate(row.pictures):
            page.paste(picture, (GAP_PX + column * (width + GAP_PX), top + row.text_px))
        top += row.text_px + height + GAP_PX
    with atomic_write(path) as file:
        page.save(file, format="PNG")


def write_lines(page: Picture.Image, lines: Sequence[str], *, left: int, top: int) -> None:
    """Draw lines of black text on a page."""
    draw = ImageDraw.Draw(page)
    for number, line in enumerate(lines):
        draw.text((left, top + LINE_PX * number), line, fill="black")


def middle_section(image: Image, channels: Sequence[str]) -> Picture.Image:
    """Return an image (c, [z], y, x) as a picture of its middle section; see `tinted`."""
    return tinted(image if image.ndim == 3 else image[:, image.shape[1] // 2], channels)


def tinted(planes_cyx: Image, channels: Sequence[str]) -> Picture.Image:
    """Return a plane's first channel in gray, with its masks of synaptic partners in color."""
    masks = [
        (MASK_TINTS[name], mask)
        for name, mask in zip(channels[1:], planes_cyx[1:], strict=True)
        if name in MASK_TINTS
    ]
    if not masks:
        return Picture.fromarray(planes_cyx[0])
    rgb = np.repeat(planes_cyx[0][..., None], 3, axis=2)
    for tint, mask in masks:
        rgb[mask > 0] = rgb[mask > 0] // 2 + np.array(tint, dtype=np.uint8) // 2
    return Picture.fromarray(rgb)


def above_x_z_plane(section: Picture.Image, plane: Picture.Image, stretch: float) -> Picture.Image:
    """Return a section above a plane (z, x) across the sections, its z `stretch` times as tall."""
    size = plane.width, round(plane.height * stretch)
    both = Picture.new(section.mode, (section.width, section.height + 2 + size[1]), "white")
    both.paste(section, (0, 0))
    both.paste(plane.resize(size, Picture.Resampling.NEAREST), (0, section.height + 2))
    return both


def _text_width(lines: Sequence[str]) -> int:
    draw = ImageDraw.Draw(Picture.new("L", (1, 1)))
    return max((ceil(draw.textlength(line)) + GAP_PX for line in lines), default=0)
