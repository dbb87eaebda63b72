"""`multiscales` of OME-Zarr 0.4, 0.5 and older: dimensions, and each scale's voxels in nm.

https://ngff.openmicroscopy.org/0.5/#multiscale-md
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, JsonValue

from ingest.volume.arrays.metadata.voxel_sizes import (
    UNITS_NM,
    Attributes,
    Numbers,
    Placed,
    check_size,
    triple_nm,
)
from ingest.volume.geometry import Floats, Triple
from ingest.volume.volume_info import info_record
from shards.contract.documents import parse_plain

CURE = "expected axes and datasets with scale and translation, as OME-Zarr 0.4 and 0.5 have them"
OLD_AXES = ("t", "c", "z", "y", "x")  # of versions that name none


@info_record
@dataclass(frozen=True, kw_only=True, slots=True)
class Axis:
    """A dimension."""

    name: str
    unit: str | None = None


@info_record
@dataclass(frozen=True, kw_only=True, slots=True)
class Transform:
    """A step from voxels to the axes' units, whose origin is a voxel's center."""

    type: Literal["scale", "translation", "identity"]
    scale: Numbers | None = None
    translation: Numbers | None = None


@info_record
@dataclass(frozen=True, kw_only=True, slots=True)
class OmeDataset:
    """One scale: the path of its array."""

    path: str
    transforms: Annotated[tuple[Transform, ...], Field(alias="coordinateTransformations")] = ()


@info_record
@dataclass(frozen=True, kw_only=True, slots=True)
class OmeImage:
    """One image at several scales, the finest first."""

    datasets: Annotated[tuple[OmeDataset, ...], Field(min_length=1)]
    axes: tuple[Axis | str, ...] = OLD_AXES
    transforms: Annotated[tuple[Transform, ...], Field(alias="coordinateTransformations")] = ()

    @property
    def names(self) -> list[str]:
        """The names of the dimensions."""
        return [axis if isinstance(axis, str) else axis.name for axis in self.axes]

    def placed(self, level: int, axes: Triple, *, where: str) -> Placed:
        """Return the voxels of a scale, of which `axes` are z, y, x.

        A voxel of the finest scale begins where it would if its center were its corner; of others,
        half the difference of their sizes before.
        """
        size, shift = self._affine(level, where=where)
        finest, _ = self._affine(0, where=where)
        if size is None or finest is None:
            return Placed()
        size, finest, shift = (values[list(axes)] for values in (size, finest, shift))
        check_size(size, where=where)
        factor = triple_nm(size / finest)
        corner = triple_nm((shift + (finest - size) / 2) / size)
        units = [axis.unit if isinstance(axis, Axis) else None for axis in self.axes]
        nm = np.array([UNITS_NM.get(str(units[axis]).lower(), 0.0) for axis in axes])
        size_nm = triple_nm(size * nm) if nm.all() else None
        return Placed(size_nm=size_nm, corner_vx=corner, factor=factor)

    def _affine(self, level: int, *, where: str) -> tuple[Floats | None, Floats]:
        """Return scale, None where none is stated, and translation along all dimensions."""
        scale, shift, stated = np.ones(len(self.axes)), np.zeros(len(self.axes)), False
        for transform in (*self.datasets[level].transforms, *self.transforms):
            factors = _numbers(transform.scale, len(scale), 1.0, where=where)
            scale, shift = scale * factors, shift * factors
            shift = shift + _numbers(transform.translation, len(scale), 0.0, where=where)
            stated |= transform.scale is not None
        return scale if stated else None, shift


def parse_multiscales(attributes: Attributes, *, where: str) -> OmeImage | None:
    """Return the first image of an OME-Zarr group, None where it is none."""
    holder = attributes.get("ome", attributes)
    images: JsonValue = holder.get("multiscales") if isinstance(holder, dict) else None
    if not isinstance(images, list) or not images:
        return None
    return parse_plain(OmeImage, images[0], where=f"{where}: multiscales", cure=CURE)


def _numbers(values: Sequence[float] | None, count: int, default: float, *, where: str) -> Floats:
    if values is None:
        return np.full(count, default)
    if len(values) != count:
        raise ValueError(f"{where}: multiscales state {values} for {count} axes; {CURE}")
    return np.array(values)
