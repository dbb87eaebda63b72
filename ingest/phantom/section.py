"""From owners to gray values: one section of the phantom, as a microscope would show it."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import fft, ndimage

from ingest.phantom.fields import (
    DENDRITES,
    HOST,
    MITOCHONDRION,
    NEUROPIL,
    PRE,
    VOXEL_NM,
    Float,
    Gray,
    Owners,
    Points,
)
from ingest.phantom.scene import Synapses
from ingest.phantom.synapse import Densities, Vesicles, draw_densities, draw_vesicles

MIDDLE_GRAY = np.float32(132.0)
MEMBRANE, MICROTUBULE, CRISTAE = np.float32(118.0), np.float32(80.0), np.float32(30.0)
CYTOPLASM = np.array(  # of each owner; the last is the mitochondria's matrix
    [164, 174, 152, 170, 160, 178, 168, 148, 172, 176, 168, 163, 169, 100], np.float32
)
# By how many of the two planes have a border here, + 3 where the owner changes between them.
UPRIGHT_AND_SLANTED = np.array([0, 0.43, 0.86, 0.28, 0.71, 1.1], np.float32)
GRAIN, CLUMPS, SHADING, NOISE = 26.0, np.float32(8.0), np.float32(5.0), 3.5
UNIFORM_STD = 73.9  # of a random byte
CROSSED_BY_TUBULES = (*range(0, NEUROPIL, 2), *DENDRITES, HOST)
STRIPE_PX = 64  # rows drawn at a time, so that they stay in the processor's cache


@dataclass(frozen=True, slots=True)
class Textures:
    """Noise images (y, x) of unit variance, used at a random roll in each section."""

    clumps: Float
    cristae: tuple[Float, Float]
    microtubules: Float  # (512, 512), periodic
    shading: Float


@dataclass(frozen=True, slots=True)
class Scene:
    """All that a section is drawn from."""

    owners: Owners
    synapses: Synapses
    densities: Densities
    vesicles: Vesicles
    tubules: Vesicles
    across_dendrites: Points  # (2, 2, 3), two unit vectors across each family's axis
    textures: Textures
    contrast: float
    seed: int


def make_textures(size_yx: tuple[int, int], rng: np.random.Generator) -> Textures:
    """Return the textures for sections of this size."""
    return Textures(
        clumps=_band(size_yx, 0.09, 0.06, rng),
        cristae=(_band(size_yx, 0.17, 0.035, rng), _band(size_yx, 0.17, 0.035, rng)),
        microtubules=_dots(rng),
        shading=_band(size_yx, 0.0, 0.0012, rng),
    )


def _band(size_yx: tuple[int, int], middle: float, width: float, rng: np.random.Generator) -> Float:
    """Return noise whose frequencies, in cycles per pixel, lie about `middle`."""
    ny, nx = size_yx
    fy, fx = fft.fftfreq(ny)[:, None], fft.rfftfreq(nx)[None, :]
    keep = np.exp(-0.5 * ((np.hypot(fy, fx) - middle) / width) ** 2).astype(np.float32)
    noise = fft.irfft2(fft.rfft2(rng.standard_normal((ny, nx), dtype=np.float32)) * keep, (ny, nx))
    unit: Float = (noise - noise.mean()) / noise.std()
    return unit.astype(np.float32)


def _dots(rng: np.random.Generator) -> Float:
    """Return a periodic plane, a pixel every 8 nm, of microtubules cut across."""
    plane = np.zeros((512, 512), np.float32)
    at = rng.integers(0, 512, (1100, 2))
    plane[at[:, 0], at[:, 1]] = 1
    blurred: Float = ndimage.gaussian_filter(plane, 0.9, mode="wrap") / 0.19
    return np.minimum(blurred, 1)


def draw_section(scene: Scene, section: int, below: Gray, above: Gray) -> Gray:
    """Return section `section` (y, x) between two planes of owners; 0 is left for missing data."""
    rng = np.random.default_rng([scene.seed, 11, section])
    textures = scene.textures
    ny, nx = below.shape
    look = _Look(
        contrast=np.float32(scene.contrast * rng.normal(1, 0.05)),
        level=np.float32(MIDDLE_GRAY + rng.normal(0, 4)),
        noise=np.frombuffer(rng.bytes(3 * ny * nx), np.uint8).reshape(3, ny, nx),
        clumps=_rolled(textures.clumps, rng),
        shading=_rolled(textures.shading, rng),
    )
    darkness = _membranes(below, above)
    draw_vesicles(darkness, below, scene.vesicles, section, (PRE,))
    draw_vesicles(darkness, below, scene.tubules, section, CROSSED_BY_TUBULES)
    draw_densities(darkness, scene.synapses, scene.densities, section, look.clumps)
    image = np.empty_like(below)
    for start in range(0, ny, STRIPE_PX):
        stop = min(start + STRIPE_PX, ny)
        rows = slice(max(start - 1, 0), min(stop + 1, ny))
        signal = _signal(scene, look, below[rows], darkness[rows], section=section, rows=rows)
        blurred = _point_spread(signal)[start - rows.start :][: stop - start]
        image[start:stop] = _exposed(blurred, slice(start, stop), look)
    return image


@dataclass(frozen=True, slots=True)
class _Look:
    """One section's own brightness, contrast and noise."""

    contrast: np.float32
    level: np.float32
    noise: Gray  # (3, y, x), uniform
    clumps: Float
    shading: Float


def _signal(
    scene: Scene, look: _Look, owner: Gray, darkness: Float, *, section: int, rows: slice
) -> Float:
    """Return the gray values of some rows, before the microscope; owner and darkness are theirs."""
    signal = np.take(CYTOPLASM, owner)
    _draw_microtubules(signal, owner, scene, section, rows.start)
    _draw_cristae(signal, owner, scene.textures, section, rows)
    np.minimum(darkness, np.float32(1.1), out=darkness)
    grain = look.noise[0, rows] - np.float32(127.5)
    grain *= np.float32(GRAIN / UNIFORM_STD) * (1 - np.float32(0.45) * darkness)
    signal += grain
    signal -= MEMBRANE * darkness
    signal += CLUMPS * look.clumps[rows]
    return signal


def _exposed(signal: Float, rows: slice, look: _Look) -> Gray:
    """Return some rows as the camera gives them: contrast, brightness, shading and noise."""
    signal = (signal - MIDDLE_GRAY) * look.contrast
    signal += look.level
    signal += SHADING * look.shading[rows]
    noise = look.noise[1, rows].astype(np.float32)
    noise += look.noise[2, rows]
    noise -= np.float32(255)
    noise *= np.float32(NOISE / UNIFORM_STD)
    signal += noise
    np.rint(signal, out=signal)
    return np.clip(signal, 1, 255, out=signal).astype(np.uint8)


def _rolled(texture: Float, rng: np.random.Generator) -> Float:
    ny, nx = texture.shape
    rolled: Float = np.roll(texture, (int(rng.integers(ny)), int(rng.integers(nx))), (0, 1))
    return rolled


def _membranes(below: Gray, above: Gray) -> Float:
    """Return how dark the membranes are: crisp where they stand upright, faint where they slant."""
    level = _borders(below).view(np.uint8) + _borders(above).view(np.uint8)
    level += (below != above).view(np.uint8) * np.uint8(3)
    return np.take(UPRIGHT_AND_SLANTED, level)


def _borders(owner: Gray) -> npt.NDArray[np.bool_]:
    """Return the pixels on both sides of a border."""
    border = np.zeros(owner.shape, bool)
    down, right = owner[1:] != owner[:-1], owner[:, 1:] != owner[:, :-1]
    border[1:] |= down
    border[:-1] |= down
    border[:, 1:] |= right
    border[:, :-1] |= right
    return border


def _draw_microtubules(
    signal: Float, owner: Gray, scene: Scene, section: int, first_row: int
) -> None:
    """Darken the dendrites with microtubules along their axis."""
    for color, across in zip(DENDRITES, scene.across_dendrites, strict=True):
        rows, columns = np.nonzero(owner == color)
        if len(rows):
            y, x = (rows + first_row).astype(np.float32), columns.astype(np.float32)
            z = section * VOXEL_NM[0] / VOXEL_NM[1]
            u, v = ((a[0] * z + a[1] * y + a[2] * x).astype(np.int32) & 511 for a in across)
            signal[rows, columns] -= MICROTUBULE * scene.textures.microtubules[u, v]


def _draw_cristae(
    signal: Float, owner: Gray, textures: Textures, section: int, rows: slice
) -> None:
    """Fold the inner membrane of the mitochondria; the pattern turns slowly with depth."""
    inside = owner == MITOCHONDRION
    one, two = (texture[rows][inside] for texture in textures.cristae)
    fold = np.float32(np.cos(0.5 * section)) * one + np.float32(np.sin(0.5 * section)) * two
    signal[inside] -= CRISTAE * np.tanh(np.float32(1.6) * fold)


def _point_spread(image: Float) -> Float:
    """Blur by [1 2 1] / 4 along both axes; the border pixels are left as they are."""
    for axis in (0, 1):
        view = np.moveaxis(image, axis, 0)
        inner = view[:-2] + view[2:]
        inner *= np.float32(0.25)
        inner += np.float32(0.5) * view[1:-1]
        view[1:-1] = inner
    return image
