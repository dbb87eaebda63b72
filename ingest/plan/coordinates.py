"""Coordinates proven before anything is planned on them: voxel sizes, axis order, resolution."""

import math
from dataclasses import dataclass
from itertools import permutations, product

import numpy as np

from ingest.job.image_config import ViewConfig
from ingest.job.job_config import JobConfig
from ingest.volume.geometry import Floats, Triple, inside
from ingest.volume.scale import Scale
from shards.contract.overlap import voxels_of

SCALES = (0.25, 0.5, 1.0, 2.0, 4.0)
BETTER, AS_GOOD = 0.05, 0.25  # a reading's share inside: above what is, below the best
SHOWN_READINGS = 6


def check_voxel_size(view: ViewConfig, scale: Scale, *, name: str) -> None:
    """Refuse a view whose stated voxel size is not what the volume's info says."""
    stated = view.voxel_size_nm
    if stated is not None and not np.allclose(stated, scale.voxel_size_nm):
        raise ValueError(
            f"samples.views.{name} states voxels of {list(stated[::-1])} nm, but mip {view.mip} of "
            f"the volume has {list(scale.voxel_size_nm[::-1])}; correct voxel_size_nm or choose "
            "another mip"
        )


def check_positions(points: Floats, job: JobConfig, scale: Scale, size: Triple) -> None:
    """Refuse a job of which more positions lie outside the volume than it may reject.

    The error lists the orders of axes and resolutions that would have put them inside.
    """
    within = inside(voxels_of(points, scale.voxel_size_nm), size, scale.grid.bounds)
    outside = 1 - float(within.mean())
    if outside <= job.qc.max_reject_fraction:
        return
    voxels = voxels_of(points, scale.voxel_size_nm)
    low, high = voxels.min(axis=0)[::-1], voxels.max(axis=0)[::-1]
    bounds = scale.grid.bounds
    raise ValueError(
        f"{outside:.0%} of {len(points)} boxes around {job.samples.center} positions of "
        f"{job.synapses.path} lie outside the volume (positions, x y z: {low.tolist()} to "
        f"{high.tolist()}; volume: {list(bounds.start[::-1])} to {list(bounds.stop[::-1])}, "
        f"voxels of {scale.voxel_size_nm[::-1]} nm); "
        + _advice(_readings(points, job, scale, size, float(within.mean())))
        + _lower_demands(outside, job, scale, size)
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """Another order of axes, or x and y resolution, and the share of boxes that it puts inside."""

    order: str
    what: str  # is taken in that order
    factor: float
    share: float
    resolution_nm: tuple[float, ...]  # x, y, z, if the order of axes is right

    @property
    def changes(self) -> tuple[bool, float]:
        """The size of the change; readings are sorted by it, the smallest first."""
        return self.order != "xyz", abs(math.log2(self.factor))

    def __str__(self) -> str:
        what = [] if self.order == "xyz" else [f"{self.what} taken as {self.order} in place of xyz"]
        if self.factor != 1:
            resolution = f"[{', '.join(f'{nm:g}' for nm in self.resolution_nm)}]"
            stated = f", position_resolution_nm {resolution}" if self.order == "xyz" else ""
            what.append(f"x and y resolution times {self.factor:g}{stated}")
        return f"{self.share:.0%} with {' and '.join(what)}"


def _readings(
    points: Floats, job: JobConfig, scale: Scale, size: Triple, now: float
) -> list[Reading]:
    """Return the readings that put about as many boxes inside as any does, least change first.

    One of an order of axes and a factor counts only where neither alone is enough.
    """
    x_nm, y_nm, z_nm = job.synapses.position_resolution_nm
    resolution_zyx = np.array((z_nm, y_nm, x_nm))
    counted, readings = points / resolution_zyx, []  # as the table has them
    for order, factor, both in product(permutations(range(3)), SCALES, (False, True)):
        same = bool((resolution_zyx[list(order)] == resolution_zyx).all())
        if both and same:
            continue
        nm = (points if both else counted)[:, order] * (1.0 if both else resolution_zyx)
        voxels = voxels_of(nm * [1.0, factor, factor], scale.voxel_size_nm)
        reading = Reading(
            order="".join("zyx"[axis] for axis in order)[::-1],
            what="columns and position_resolution_nm" if both else "columns",
            factor=factor,
            share=float(inside(voxels, size, scale.grid.bounds).mean()),
            resolution_nm=(x_nm * factor, y_nm * factor, z_nm),
        )
        readings.append(reading)
    better = [reading for reading in readings if reading.share > now + BETTER]
    best = max((reading.share for reading in better), default=0.0)
    fitting = [reading for reading in better if reading.share >= best - AS_GOOD]
    simple = [reading for reading in fitting if reading.order == "xyz" or reading.factor == 1]
    return sorted(simple or fitting, key=lambda reading: reading.changes)


def _lower_demands(outside: float, job: JobConfig, scale: Scale, size: Triple) -> str:
    """Return what to change where positions are right, but their boxes too large for the volume."""
    if outside == 1:
        bounds = scale.grid.bounds.shape
        if all(side <= most for side, most in zip(size, bounds, strict=True)):
            return ""
        return f"; boxes of {list(size[::-1])} voxels fit nowhere: lower samples.views"
    return (
        f"; where positions are right, lower samples.views or raise qc.max_reject_fraction "
        f"({job.qc.max_reject_fraction:g}) above {outside:.2f}"
    )


def _advice(readings: list[Reading]) -> str:
    """Return what to correct: no reading is more than a guess, as smaller factors often fit too."""
    if not readings:
        return "correct synapses.position_resolution_nm, the columns or the volume"
    shown = "; ".join(map(str, readings[:SHOWN_READINGS]))
    several = "several readings fit: " if len(readings) > 1 else ""
    return (
        f"inside would lie {shown}; {several}that they fit proves nothing, the documentation of "
        "the table says what its positions are"
    )
