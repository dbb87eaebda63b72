"""Voxel sizes and places in nm, from the attributes that CREMI, funlib, N5 and their kin write."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field, JsonValue

from ingest.volume.arrays.stored_array import AXES
from ingest.volume.geometry import Floats, Triple, TripleNm, int_triple
from ingest.volume.scale import NoVoxelSizeError
from ingest.volume.volume_info import info_record
from shards.contract.documents import parse_plain

Attributes = Mapping[str, JsonValue]
Numbers = tuple[float, ...]

UNITS_NM = {
    name: nm
    for nm, names in (
        (0.1, ("angstrom",)),
        (1.0, ("nanometer", "nanometers", "nm")),
        (1e3, ("micrometer", "micrometers", "micron", "um", "\N{MICRO SIGN}m")),
        (1e3, ("\N{GREEK SMALL LETTER MU}m",)),
        (1e6, ("millimeter", "mm")),
        (1e7, ("centimeter", "cm")),
        (1e9, ("meter", "m")),
    )
    for name in names
}
CURE = "correct these attributes of the array"
MOST_NM = 1e9
SAME_SIZE = 0.01  # sizes that differ by less are the same
FARTHEST_VX = 2**52


@dataclass(frozen=True, kw_only=True, slots=True)
class Placed:
    """Voxel size in nm, and the place of voxel 0 in such voxels, z, y, x.

    No size where none is stated, or in no known unit. `factor`: how many voxels of the finest
    scale one is, where that is stated.
    """

    size_nm: TripleNm | None = None
    corner_vx: TripleNm = (0.0, 0.0, 0.0)
    factor: TripleNm | None = None


@info_record
@dataclass(frozen=True, kw_only=True, slots=True)
class PixelResolution:
    """N5's voxel size."""

    dimensions: Numbers
    unit: str | None = None


@info_record
@dataclass(frozen=True, kw_only=True, slots=True)
class AxesTransform:
    """OpenOrganelle's voxel size and place of the first voxel's center, along `axes`."""

    axes: tuple[str, ...]
    scale: Numbers
    translate: Numbers
    units: tuple[str, ...]


@info_record
@dataclass(frozen=True, kw_only=True, slots=True)
class SizeAttributes:
    """What an array's attributes say of its voxels, one number per dimension.

    `resolution`, `voxel_size` and `offset` are in `units`, or else nm. With `downsampling_factors`
    a size is that of the finest scale.
    """

    resolution: Numbers | None = None
    voxel_size: Numbers | None = None
    element_size_um: Numbers | None = None
    pixel_resolution: Annotated[
        PixelResolution | Numbers | None, Field(alias="pixelResolution")
    ] = None
    offset: Numbers | None = None
    units: tuple[str, ...] | str | None = None
    downsampling_factors: Annotated[Numbers | None, Field(alias="downsamplingFactors")] = None
    transform: AxesTransform | None = None

    def size_and_units(self) -> tuple[Numbers | None, tuple[str, ...]]:
        """Return the stated size, and the unit of each of its numbers, or of all."""
        size = self.resolution or self.voxel_size
        if size is not None:
            units = (self.units,) if isinstance(self.units, str) else self.units
            return size, units or ("nm",)
        if self.element_size_um is not None:
            return self.element_size_um, ("um",)
        if isinstance(self.pixel_resolution, PixelResolution):
            return self.pixel_resolution.dimensions, (self.pixel_resolution.unit or "",)
        return None, ()


def placed_by_attributes(
    attributes: Attributes, axes: Triple, ndim: int, *, x_first: bool, where: str
) -> Placed:
    """Return what an array's attributes say; `x_first`: they list dimensions as N5 does."""
    stated = parse_plain(SizeAttributes, dict(attributes), where=where, cure=CURE)

    def zyx(numbers: Numbers) -> Floats:
        numbers = numbers[::-1] if x_first else numbers
        if len(numbers) == 3 < ndim:
            return np.array(numbers)
        if len(numbers) != ndim:
            raise ValueError(f"{where}: found {numbers}, expected {ndim} numbers; {CURE}")
        return np.array([numbers[axis] for axis in axes])

    if stated.transform is not None:
        return _by_transform(stated.transform, where=where)
    size, units = stated.size_and_units()
    factor = None if stated.downsampling_factors is None else zyx(stated.downsampling_factors)
    factor_zyx = None if factor is None else triple_nm(factor)
    nm = tuple(UNITS_NM.get(unit.lower(), 0.0) for unit in units)
    if size is None or 0.0 in nm:
        if stated.offset is not None and any(stated.offset):
            raise ValueError(
                f"{where}: offset {list(stated.offset)} without a resolution in a known unit; "
                "add `resolution` in nm to these attributes of the array"
            )
        return Placed(factor=factor_zyx)
    unit_nm = zyx(nm) if len(nm) > 1 else np.full(3, nm[0])
    size_nm = zyx(size) * unit_nm * (1.0 if factor is None else factor)
    check_size(size_nm, where=where)
    corner = np.zeros(3) if stated.offset is None else zyx(stated.offset) * unit_nm / size_nm
    return Placed(size_nm=triple_nm(size_nm), corner_vx=triple_nm(corner), factor=factor_zyx)


def _by_transform(stated: AxesTransform, *, where: str) -> Placed:
    numbers = zip(stated.axes, stated.scale, stated.translate, stated.units, strict=False)
    by_axis = {
        axis.lower(): (UNITS_NM.get(unit.lower(), 0.0), scale, shift)
        for axis, scale, shift, unit in numbers
    }
    if not by_axis.keys() >= set(AXES):
        raise ValueError(f"{where}: its transform lacks some of z, y and x; {CURE}")
    nm, scale, shift = (
        np.array(values) for values in zip(*(by_axis[axis] for axis in AXES), strict=True)
    )
    if not nm.all():
        return Placed()
    check_size(scale * nm, where=where)
    return Placed(size_nm=triple_nm(scale * nm), corner_vx=triple_nm(shift / scale))


def check_size(size_nm: Floats, *, where: str) -> None:
    """Refuse a voxel size that nothing has."""
    if not (np.isfinite(size_nm) & (size_nm > 0) & (size_nm < MOST_NM)).all():
        raise ValueError(
            f"{where}: voxels of {size_nm.tolist()} nm (z, y, x), expected sizes above 0 and below "
            f"{MOST_NM:g}; {CURE}"
        )


def triple_nm(values: Floats) -> TripleNm:
    """Return three plain numbers."""
    z, y, x = (float(value) for value in values)
    return z, y, x


def size_of(placed: Placed, stated_nm: TripleNm | None, *, is_finest: bool, where: str) -> TripleNm:
    """Return a scale's voxel size: its own, or by `stated_nm`, which is the finest scale's."""
    factor = placed.factor or ((1.0, 1.0, 1.0) if is_finest else None)
    if placed.size_nm is None and (stated_nm is None or factor is None):
        cure = "add `voxel_size_nm: [x, y, z]` under volume"
        if stated_nm is not None:
            cure = "name the array itself in the path, and its own voxel_size_nm"
        raise NoVoxelSizeError(f"{where}: its metadata has no voxel size in a known unit; {cure}")
    if stated_nm is None or factor is None:
        assert placed.size_nm is not None
        return placed.size_nm
    by_stated = triple_nm(np.multiply(stated_nm, factor))
    if placed.size_nm is not None and not np.allclose(placed.size_nm, by_stated, rtol=SAME_SIZE):
        both = placed.size_nm, by_stated
        own, other = (", ".join(f"{nm:g}" for nm in size[::-1]) for size in both)
        raise ValueError(
            f"{where}: its metadata says voxels of {own} nm (x, y, z), volume.voxel_size_nm "
            f"makes them {other}; remove voxel_size_nm, or correct the metadata"
        )
    return placed.size_nm or by_stated


def first_voxel(placed: Placed, *, where: str) -> Triple:
    """Return the place of voxel 0 in whole voxels; one that is no whole number is the nearest."""
    corner = np.round(placed.corner_vx)
    if not (np.abs(corner) < FARTHEST_VX).all():
        raise ValueError(f"{where}: begins at voxel {corner.tolist()} (z, y, x); {CURE}")
    return int_triple(corner.astype(np.int64))
