"""Vesicles and densities, the signs of an excitatory or inhibitory synapse, drawn per section.

Excitatory: spherical vesicles, a thick density on the postsynaptic side. Inhibitory: elongated
vesicles of the same volume and the same total darkness, thin densities on both sides of the cleft,
over an area that makes up for their darkness. All lengths in nanometres, points z, y, x.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ingest.phantom.fields import VOXEL_NM, Float, Gray, Points, Triple, size_nm
from ingest.phantom.scene import Synapses

VESICLES = 190
VESICLE_RADIUS_NM = 20.0
SITE_NM = 46.0
TUBULES_PER_NM3 = 4e-9
# Thickness before and behind the cleft in nm, darkness there and in the cleft, widening. They are
# balanced: in any box about the cleft's center, both classes are about as dark.
EXCITATORY = (5.0, 33.0, 0.69, 0.27, 1.0)
INHIBITORY = (18.0, 18.0, 0.80, 0.17, 1.06)
SUB_SECTIONS_NM = np.array([-13.3, 0.0, 13.3])  # a section shows the mean over its thickness


@dataclass(frozen=True, slots=True)
class Vesicles:
    """One row per vesicle, sorted by height. form: (n, 6), see `_shells`."""

    center_nm: Points
    form: Float
    darkness: Float
    window_px: int


@dataclass(frozen=True, slots=True)
class Densities:
    """One row per synapse: thickness on both sides, darkness of both and of the cleft."""

    pre_nm: Float
    post_nm: Float
    darkness: Float
    cleft: Float
    radius_nm: Float


def densities(
    synapses: Synapses, excitatory: npt.NDArray[np.bool_], rng: np.random.Generator
) -> Densities:
    """Return the densities of each synapse, varied about those of its class."""
    shape = np.where(excitatory[:, None], EXCITATORY, INHIBITORY)
    shape[:, :2] *= rng.normal(1.0, 0.12, (len(shape), 1)).clip(0.6, 1.4)
    shape[:, 2:4] *= rng.normal(1.0, 0.1, (len(shape), 1)).clip(0.6, 1.25)
    shape[:, 4] *= synapses.radius_nm
    return Densities(*shape.astype(np.float32).T)


def vesicles(
    synapses: Synapses, excitatory: npt.NDArray[np.bool_], rng: np.random.Generator
) -> Vesicles:
    """Fill the boutons with vesicles, most of them near the active zone."""
    sites = [_sites(synapses, i, rng) for i in range(len(excitatory))]
    center = np.concatenate(sites)
    synapse = np.repeat(np.arange(len(sites)), [len(site) for site in sites])
    aspect = np.where(
        excitatory[synapse],
        rng.uniform(1.0, 1.1, len(synapse)),
        rng.uniform(1.5, 2.4, len(synapse)),
    )
    radius = VESICLE_RADIUS_NM * np.exp(rng.normal(0, 0.06, len(synapse)))
    shape, surface = _ellipsoids(radius, aspect, rng)
    return _sorted(center, shape, 0.95 / surface, window_px=11)


def tubules(size_zyx: Triple, rng: np.random.Generator) -> Vesicles:
    """Return pieces of endoplasmic reticulum, anywhere: elongated vesicles of all sizes."""
    whole = size_nm(size_zyx)
    count = round(TUBULES_PER_NM3 * float(np.prod(whole)))
    radius = rng.uniform(22, 42, count)
    shape, _ = _ellipsoids(radius, np.minimum(rng.uniform(1, 4, count), 100 / radius), rng)
    return _sorted(rng.uniform(0, whole, (count, 3)), shape, np.full(count, 0.75), window_px=27)


def _sorted(
    center: Points, shape: Points, darkness: npt.NDArray[np.float64], *, window_px: int
) -> Vesicles:
    order = np.argsort(center[:, 0], kind="stable")
    square = np.einsum("nki,nkj->nij", shape, shape)[order]
    form = [square[:, i, i] for i in range(3)]
    form += [2 * square[:, i, j] for i, j in ((0, 1), (0, 2), (1, 2))]
    return Vesicles(
        center[order],
        np.stack(form, -1).astype(np.float32),
        darkness[order].astype(np.float32),
        window_px,
    )


def _sites(synapses: Synapses, i: int, rng: np.random.Generator) -> Points:
    """Return places for vesicles, on a randomly turned and shaken lattice so that few collide."""
    turn, _ = np.linalg.qr(rng.standard_normal((3, 3)))
    steps = np.arange(-7, 8) * SITE_NM
    site = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(-1, 3) @ turn
    site += rng.uniform(-7, 7, site.shape)
    normal = synapses.normal[i]
    ahead = (site - (synapses.center_nm[i] - synapses.bouton_nm[i])) @ normal
    inside = (np.linalg.norm(site, axis=1) < 262.0) & (ahead < -40.0)
    site, ahead = site[inside], ahead[inside]
    keep = rng.random(len(site)) ** (1 / np.exp(ahead / 140.0))
    site = site[np.argsort(-keep)[:VESICLES]]
    points: Points = synapses.bouton_nm[i] + site
    return points


def _ellipsoids(
    radius: npt.NDArray[np.float64], aspect: npt.NDArray[np.float64], rng: np.random.Generator
) -> tuple[Points, npt.NDArray[np.float64]]:
    """Return maps to the unit sphere of randomly turned spheroids, and their surfaces.

    A surface is given over that of a sphere of the same volume, by Knud Thomsen's approximation.
    """
    turn, _ = np.linalg.qr(rng.standard_normal((len(radius), 3, 3)))
    oblate = rng.random(len(radius)) < 0.3
    long = np.where(oblate, 1 / aspect, aspect)
    axes = np.stack([long ** (2 / 3), long ** (-1 / 3), long ** (-1 / 3)], -1)
    p = 1.6075
    a, b, c = (axes**p).T
    surface = ((a * b + a * c + b * c) / 3) ** (1 / p)
    shape: Points = np.swapaxes(turn, 1, 2) / (axes * radius[:, None])[:, :, None]
    return shape, surface


def draw_vesicles(
    darkness: Float, owner: Gray, vesicles: Vesicles, section: int, hosts: tuple[int, ...]
) -> None:
    """Add the vesicles that this section cuts to `darkness` (y, x), if they lie in the `hosts`.

    A vesicle stays within the process that its center is in.
    """
    middle = (section + 0.5) * VOXEL_NM[0]
    half = vesicles.window_px // 2
    margin = 8 * half + 12
    first, last = np.searchsorted(vesicles.center_nm[:, 0], [middle - margin, middle + margin])
    center = vesicles.center_nm[first:last]
    pixel = np.floor(center[:, 1:] / VOXEL_NM[1:]).astype(np.int64)
    ny, nx = darkness.shape
    inside = np.all((pixel >= half) & (pixel < [ny - half, nx - half]), axis=1)
    home = np.full(len(center), 255, np.uint8)
    home[inside] = owner[pixel[inside, 0], pixel[inside, 1]]
    chosen = np.flatnonzero(np.isin(home, hosts))
    if not len(chosen):
        return
    center, pixel, home = center[chosen], pixel[chosen], home[chosen]
    row, column = (pixel[:, axis, None] + np.arange(-half, half + 1) for axis in (0, 1))
    dy = ((row + 0.5) * VOXEL_NM[1] - center[:, 1, None])[:, None, :, None]
    dx = ((column + 0.5) * VOXEL_NM[2] - center[:, 2, None])[:, None, None, :]
    dz = (middle + SUB_SECTIONS_NM - center[:, 0, None])[:, :, None, None]
    parts = (part.astype(np.float32) for part in (dz, dy, dx))
    value = _shells(vesicles.form[first + chosen], *parts).mean(axis=1)
    value *= vesicles.darkness[first + chosen, None, None]
    flat = row[:, :, None] * nx + column[:, None, :]
    seen = (owner.reshape(-1)[flat] == home[:, None, None]) & (value > 0.01)
    np.add.at(darkness.reshape(-1), flat[seen], value[seen])


def _shells(form: Float, dz: Float, dy: Float, dx: Float) -> Float:
    """Return the darkness of ellipsoidal shells: a membrane around a gray lumen.

    form: (n, 6), the quadratic form's zz, yy, xx, 2zy, 2zx, 2yx, which is 1 on the membrane.
    """
    zz, yy, xx, zy, zx, yx = form.T[:, :, None, None, None]
    square = (zz * dz**2 + yy * dy**2 + zy * dz * dy) + (xx * dx + zx * dz + yx * dy) * dx
    reach = np.sqrt(np.maximum(square, 1e-6))
    distance = np.sqrt(dz**2 + dy**2 + dx**2) * (1 - 1 / reach)
    darkness: Float = np.exp(distance**2 * np.float32(-0.5 / 5.0**2))
    darkness += np.float32(0.1) * (reach < 1)
    return darkness


def draw_densities(
    darkness: Float, synapses: Synapses, densities: Densities, section: int, texture: Float
) -> None:
    """Draw clefts and densities that this section cuts over what `darkness` (y, x) has there.

    texture: (y, x), of unit variance; makes the densities' edges ragged.
    """
    middle = (section + 0.5) * VOXEL_NM[0]
    dz = middle - synapses.center_nm[:, 0]
    reach = _extent_nm(densities.radius_nm[:, None], synapses.normal)
    for i in np.flatnonzero(np.abs(dz) < reach[:, 0] + 20):
        rows, columns = (
            _pixels(synapses.center_nm[i, axis], reach[i, axis], darkness.shape[axis - 1])
            for axis in (1, 2)
        )
        dy = (np.arange(rows.start, rows.stop) + 0.5) * VOXEL_NM[1] - synapses.center_nm[i, 1]
        dx = (np.arange(columns.start, columns.stop) + 0.5) * VOXEL_NM[2] - synapses.center_nm[i, 2]
        depth = dz[i] + SUB_SECTIONS_NM
        offset = tuple(
            part.astype(np.float32)
            for part in (depth[:, None, None], dy[None, :, None], dx[None, None, :])
        )
        ahead = sum(
            n * part for n, part in zip(synapses.normal[i].astype("f4"), offset, strict=True)
        )
        square = offset[0] ** 2 + offset[1] ** 2 + offset[2] ** 2
        aside = np.sqrt(np.maximum(square - ahead**2, 0))
        drawn, cover = _density(ahead, aside, densities, int(i), texture[rows, columns])
        part = darkness[rows, columns]
        darkness[rows, columns] = part * (1 - cover) + drawn


def _extent_nm(radius_nm: Float, normal: Points) -> Points:
    """Return how far a density reaches from its center along z, y and x."""
    extent: Points = (radius_nm + 40) * np.sqrt(1 - normal**2) + 75 * np.abs(normal)
    return extent


def _pixels(center_nm: float, reach_nm: float, count: int) -> slice:
    low = int((center_nm - reach_nm) // VOXEL_NM[1])
    high = int((center_nm + reach_nm) // VOXEL_NM[1]) + 1
    return slice(max(low, 0), max(min(high, count), 0))


def _density(
    ahead: Float, aside: Float, densities: Densities, i: int, texture: Float
) -> tuple[Float, Float]:
    """Return the darkness of synapse i, (y, x), and how far it covers what was there.

    ahead, aside: (sub-sections, y, x), distances from the cleft's plane, towards the postsynaptic
    side, and from its axis.
    """
    rough: npt.NDArray[Any] = 12.0 * texture
    zone = _step(densities.radius_nm[i] + rough - aside, 14.0)
    gap = np.abs(ahead)
    membranes = 0.75 * np.exp(-0.5 * ((gap - 11.0) / 4.5) ** 2)
    behind_membrane = _step(gap - 11.0, 2.0)
    thickness = np.where(ahead > 0, densities.post_nm[i], densities.pre_nm[i])
    within = _step(11.0 + thickness + 0.4 * rough - gap, 5.0)
    density = densities.darkness[i] * behind_membrane * within
    drawn = (np.maximum(membranes, density) + densities.cleft[i] * (gap < 11.0)) * zone
    cover = (zone * _step(20.0 - gap, 3.0)).mean(axis=0)
    return drawn.mean(axis=0), cover


def _step(value: npt.NDArray[Any], width: float) -> Float:
    """A soft step from 0 to 1 where `value` crosses zero."""
    step: Float = value * np.float32(0.5 / width)
    step += np.float32(0.5)
    return np.clip(step, 0, 1, out=step)
