"""Sizes of images that fit a volume and the positions in it, or that image files have."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ingest.start.table_facts import Points
from ingest.start.volume_facts import PROBES, VolumeFacts
from ingest.volume.files.image_folder import SUFFIXES, is_image
from ingest.volume.geometry import inside, int_triple
from shards.contract.overlap import voxels_of
from shards.images.decode import read_image_file

Views = dict[str, list[int]]  # sizes x, y of a patch, x, y, z of a cube
PATCH, CUBE = (256, 256), (128, 128, 32)
SMALLEST = 4
ENOUGH = 0.8  # of the positions whose images should lie inside


def views_in(volume: VolumeFacts, points: Points | None) -> Views:
    """Return a patch and a cube, halved along x and y, or z, until most images lie inside."""
    bounds = volume.scales[0].grid.bounds.shape[::-1]
    patch, cube = list(PATCH), list(CUBE)
    for view in (patch, cube):
        for axis, most in zip(range(len(view)), bounds, strict=False):
            while view[axis] > max(most, SMALLEST):
                view[axis] //= 2
        side = min(view[:2])
        view[:2] = [side, side]
        while points is not None and share_outside(volume, points, {"": view}) > 1 - ENOUGH:
            options = [(share_outside(volume, points, {"": one}), one) for one in _smaller(view)]
            if not options:
                break
            view[:] = min(options, key=lambda option: (option[0], -math.prod(option[1])))[1]
    return {"patch": patch, "cube": cube}


def share_outside(volume: VolumeFacts, points: Points, views: Views) -> float:
    """Return the part of the positions, x, y, z in nm, of which an image leaves the volume."""
    scale = volume.scales[0]
    voxels = voxels_of(points[:, ::-1], scale.voxel_size_nm)
    fits = np.ones(len(points), dtype=bool)
    for size in views.values():
        size_zyx = int_triple([*([1] if len(size) == 2 else []), *size[::-1]])
        fits &= inside(voxels, size_zyx, scale.grid.bounds)
    return 1 - float(fits.mean())


def image_view(folder: str, names: Sequence[str]) -> tuple[str, list[int]]:
    """Return the view that image files are, and their size, by the first of them."""
    root = Path(folder.removeprefix("file://"))
    named = [root / name for name in names[:PROBES] if (root / name).is_file()]
    found = named or sorted(file for file in root.rglob("*") if is_image(file))
    if not found:
        raise ValueError(f"{folder}: 0 images ({', '.join(SUFFIXES)}) in it; correct --volume")
    try:
        z, y, x = read_image_file(found[0], gray=True).shape[1:]
    except ValueError as error:
        raise ValueError(f"{found[0]}: {error}") from None
    return ("patch", [x, y]) if z == 1 else ("cube", [x, y, z])


def _smaller(view: list[int]) -> list[list[int]]:
    """Return a size halved along x and y, and one halved along z, where they are not too small."""
    flat = [view[0] // 2, view[1] // 2, *view[2:]]
    options = [flat] if min(flat[:2]) >= SMALLEST else []
    if len(view) == 3 and view[2] // 2 >= SMALLEST:
        options.append([view[0], view[1], view[2] // 2])
    return options
