"""Places of the phantom's neurons, synapses and mitochondria. Nothing here knows a class.

Each neuron has a territory, a cell of a grid, and its synapses lie in the cell's core: cores are a
cube box apart, and neighbours use sections of their own. So no cube or patch of one neuron overlaps
one of another, if the volume is large enough. Class is drawn after everything else, neuron by
neuron: no position, count, size or partner can depend on it.

Points are (z, y, x) in nanometres from the volume's corner.
"""

from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt

from ingest.phantom.fields import LEVEL, VOXEL_NM, Bumps, Points, Triple, size_nm

CUBE_NM = np.array([32, 128, 128]) * VOXEL_NM
EDGE_NM = np.array([16, 134, 134]) * VOXEL_NM  # nearer to the edge, a cube or a patch won't fit
POSITION_ERROR_NM = 48.0  # at most, along y and x: tables are not exact
GAP_NM = CUBE_NM + np.array([0.0, 2.0, 2.0]) * POSITION_ERROR_NM  # between cores
SECTION_PHASES = 4
APART_NM = 640.0
EDGE_FRACTION = 0.015

CURVATURE = 3.4 / 300.0**2  # of boutons and spines: 3.4 above the neuropil, 300 nm wide
BOUTON_BACK_NM, SPINE_AHEAD_NM = 225.0, 170.0
BOUTON_TOP = 4.9


@dataclass(frozen=True, slots=True)
class Synapses:
    """One row per synapse. Points (n, 3) in nm; normal: unit vectors from bouton to spine."""

    center_nm: Points
    normal: Points
    neuron: npt.NDArray[np.int64]
    radius_nm: npt.NDArray[np.float64]  # of the active zone
    at_edge: npt.NDArray[np.bool_]

    @property
    def bouton_nm(self) -> Points:
        """Middle of the bouton."""
        return self.center_nm - BOUTON_BACK_NM * self.normal

    @property
    def spine_nm(self) -> Points:
        """Middle of the postsynaptic side."""
        return self.center_nm + SPINE_AHEAD_NM * self.normal

    def bouton_bumps(self) -> Bumps:
        """The boutons as bumps of the presynaptic field."""
        top = np.full(len(self.neuron), BOUTON_TOP)
        return Bumps(self.bouton_nm, self.bouton_nm, top, np.full(len(top), CURVATURE))

    def spine_bumps(self) -> Bumps:
        """The postsynaptic sides; as high as the bouton on the plane through the cleft's center."""
        top = BOUTON_TOP - CURVATURE * (BOUTON_BACK_NM**2 - SPINE_AHEAD_NM**2)
        tops = np.full(len(self.neuron), top)
        return Bumps(self.spine_nm, self.spine_nm, tops, np.full(len(tops), CURVATURE))


def place_synapses(
    size_zyx: Triple, *, neurons: int, synapses: int, rng: np.random.Generator
) -> Synapses:
    """Scatter the synapses over the neurons' territories, at random orientations."""
    low, high, phase = territories(size_zyx, neurons)
    order = rng.permutation(len(low))[:neurons]
    neuron = _neuron_of_each(neurons, synapses, rng)
    normal = _directions(synapses, rng)
    at_edge = np.zeros(synapses, bool)
    at_edge[rng.choice(synapses, max(2, round(EDGE_FRACTION * synapses)), replace=False)] = True
    center = np.empty((synapses, 3))
    for owner in range(neurons):
        own = np.flatnonzero(neuron == owner)
        core = low[order[owner]], high[order[owner]]
        for count, i in enumerate(own):
            box = _at_the_edge(*core, size_nm(size_zyx), rng) if at_edge[i] else core
            points = rng.uniform(box[0], box[1], (64, 3))
            before = center[own[:count]], normal[own[:count]]
            candidates = _in_sections(points, phase[order[owner]], rng)
            center[i] = _freest(candidates, normal[i], before)
    radius = 165.0 * np.exp(0.16 * rng.standard_normal(synapses))
    return Synapses(center, normal, neuron, radius, at_edge)


def territories(size_zyx: Triple, neurons: int) -> tuple[Points, Points, npt.NDArray[np.int64]]:
    """Return the low and high corners, (cells, 3) nm, of the cores of at least `neurons` cells.

    With them comes the remainder that the sections of a cell's synapses leave by SECTION_PHASES.
    """
    room = size_nm(size_zyx) - 2 * EDGE_NM
    best, grid = -1.0, np.ones(3, int)
    for nz, ny in product(range(1, neurons + 1), repeat=2):
        cells = np.array([nz, ny, -(-neurons // (nz * ny))])
        core = _core(room, cells)
        volume = float(np.prod(core)) * (core.min() / core.max()) ** 0.5
        if volume > best:
            best, grid = volume, cells
    core = _core(room, grid)
    pitch = (room - core) / np.maximum(grid - 1, 1)
    index = np.stack(np.meshgrid(*map(np.arange, grid), indexing="ij"), -1).reshape(-1, 3)
    low = EDGE_NM + np.where(grid > 1, pitch * index, 0.0)
    return low, low + core, index[:, 1] % 2 * 2 + index[:, 2] % 2


def _core(room: Points, cells: npt.NDArray[np.int64]) -> Points:
    """Return the size of the cores of a row of `cells` along each axis, with gaps between them."""
    core: Points = np.maximum((room - GAP_NM * (cells - 1)) / cells, 0.3 * room / cells)
    return core


def _neuron_of_each(neurons: int, synapses: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Return each synapse's neuron: about as many for all, at least one."""
    weight = rng.uniform(0.7, 1.3, neurons)
    rest = rng.choice(neurons, synapses - neurons, p=weight / weight.sum())
    return rng.permutation(np.concatenate([np.arange(neurons), rest])).astype(np.int64)


def _directions(count: int, rng: np.random.Generator) -> Points:
    vector = rng.standard_normal((count, 3))
    unit: Points = vector / np.linalg.norm(vector, axis=1, keepdims=True)
    return unit


def _at_the_edge(
    low: Points, high: Points, whole: Points, rng: np.random.Generator
) -> tuple[Points, Points]:
    """Move a core along one axis to a strip at the volume's edge where no box fits."""
    axis = int(rng.integers(3))
    strip = 0.3 * EDGE_NM[axis]
    start = 0.0 if rng.random() < 0.5 else whole[axis] - strip
    low, high = low.copy(), high.copy()
    low[axis], high[axis] = start, start + strip
    return low, high


def _in_sections(point: Points, phase: int, rng: np.random.Generator) -> Points:
    """Move points to the nearest section below that leaves `phase` by SECTION_PHASES."""
    section = point[:, 0] // VOXEL_NM[0] // SECTION_PHASES * SECTION_PHASES + phase
    moved = point.copy()
    moved[:, 0] = (section + rng.uniform(0.05, 0.95, len(point))) * VOXEL_NM[0]
    return moved


def _freest(candidates: Points, normal: Points, others: tuple[Points, Points]) -> Points:
    """Return the place whose bouton and spine keep farthest from the others', up to APART_NM.

    others: centers and normals of those already placed.
    """
    if not len(others[0]):
        return np.array(candidates[0])
    offsets = np.array([0.0, -BOUTON_BACK_NM, SPINE_AHEAD_NM])
    new = candidates[:, None] + offsets[None, :, None] * normal
    placed = (others[0][:, None] + offsets[None, :, None] * others[1][:, None]).reshape(-1, 3)
    distance = np.linalg.norm(new[:, :, None] - placed, axis=-1).min(axis=(1, 2)) / 0.75
    centers = np.linalg.norm(candidates[:, None] - others[0], axis=-1).min(axis=1)
    room = np.minimum(np.minimum(distance, centers), APART_NM)
    return np.array(candidates[np.argmax(room)])


def mitochondria(
    size_zyx: Triple, synapses: Synapses, rng: np.random.Generator
) -> tuple[Bumps, Bumps]:
    """Return mitochondria and the sheaths of cytoplasm around them, clear of the synapses."""
    whole = size_nm(size_zyx)
    count = round(0.9e-9 * float(np.prod(whole)))
    middle = rng.uniform(0, whole, (count, 3))
    half = _directions(count, rng) * rng.uniform(100, 550, (count, 1))
    along = np.linspace(-1, 1, 5)[:, None]
    gap = np.array(
        [
            np.linalg.norm((m + along * h)[:, None] - synapses.center_nm, axis=-1).min()
            for m, h in zip(middle, half, strict=True)
        ]
    )
    middle, half = middle[gap > 520], half[gap > 520]
    radius = rng.uniform(85, 150, len(middle))
    sheath = radius + rng.uniform(70, 220, len(middle))
    start, end = middle - half, middle + half
    host_top, top = np.full(len(middle), 4.2), np.full(len(middle), 9.0)
    host = Bumps(start, end, host_top, (host_top - LEVEL) / sheath**2)
    host_at_radius = host_top - host.curvature * radius**2
    return Bumps(start, end, top, (top - host_at_radius) / radius**2), host


def dendrites(size_zyx: Triple, rng: np.random.Generator) -> tuple[Bumps, Points]:
    """Return one family of parallel trunks as joined segments, and their direction."""
    whole = size_nm(size_zyx)
    direction = _directions(1, rng)[0]
    count = max(2, round(6e-3 * float(np.prod(whole)) * 1e-9))
    reach = 0.6 * float(np.linalg.norm(whole))
    steps = np.linspace(-reach, reach, 25)
    start, end, top, curvature = [], [], [], []
    for _ in range(count):
        wander = np.cumsum(rng.normal(0, 130, (len(steps), 3)), axis=0)
        path = rng.uniform(0, whole) + steps[:, None] * direction + wander
        inside = np.all((path > -2000) & (path < whole + 2000), axis=1)
        inside = inside[:-1] & inside[1:]
        start.append(path[:-1][inside])
        end.append(path[1:][inside])
        radius = rng.uniform(260, 560)
        top.append(np.full(int(inside.sum()), 4.0))
        curvature.append(np.full(int(inside.sum()), (4.0 - LEVEL) / radius**2))
    parts = (np.concatenate(part) for part in (start, end, top, curvature))
    return Bumps(*parts), direction
