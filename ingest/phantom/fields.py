"""Packed neurites: which process owns a point, as the largest of a few smooth random fields.

Each field lives on a coarse grid, a node every STEP_XY pixels and STEP_Z sections, and is
interpolated by cubic B-splines. Synapses, dendrites and mitochondria are added as bumps. Where two
bumps of equal curvature meet, their difference is linear, so a cleft is exactly a plane.

Points are (z, y, x) in nanometres from the volume's corner; arrays are z, y, x.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import fft

Float = npt.NDArray[np.float32]
Gray = npt.NDArray[np.uint8]
Points = npt.NDArray[np.float64]
Triple = tuple[int, int, int]

VOXEL_NM = np.array([40.0, 8.0, 8.0])
STEP_XY, STEP_Z = 8, 2
NODE_NM = VOXEL_NM * [STEP_Z, STEP_XY, STEP_XY]
PAD = 3
# Pixels are interpolated in blocks so small that no linear algebra library splits the work over
# threads of its own, which would fight with ours.
BLOCK_NODES = 4
BLOCK_PX = BLOCK_NODES * STEP_XY
MAX_COLUMNS = 896

NEUROPIL = 8
DENDRITES = (8, 9)
HOST, PRE, POST, MITOCHONDRION = 10, 11, 12, 13
NUM_FIELDS = 14
ABSENT = np.float32(-9.0)
LEVEL = 1.5  # about where the largest of the neuropil fields stands


@dataclass(frozen=True, slots=True)
class Bumps:
    """Bumps `top - curvature * distance²`, the distance being that to a segment.

    start_nm, end_nm: (n, 3); top: (n,); curvature: (n,) per nm².
    """

    start_nm: Points
    end_nm: Points
    top: npt.NDArray[np.float64]
    curvature: npt.NDArray[np.float64]


def size_nm(size_zyx: Triple) -> Points:
    """Return a size in voxels in nanometres."""
    nm: Points = np.array(size_zyx) * VOXEL_NM
    return nm


def neuropil_fields(size_zyx: Triple, rng: np.random.Generator) -> Float:
    """Return all fields on the coarse grid, (NUM_FIELDS, nodes z, y, x); bumps are still absent.

    The neuropil fields are Gaussian with unit variance, each pair of them stretched along a random
    direction, so that their regions are neurites running in several directions.
    """
    shape = grid_shape(size_zyx)
    fields = np.full((NUM_FIELDS, *shape), ABSENT, np.float32)
    frequency = [
        fft.fftfreq(n, d=step).astype(np.float32) for n, step in zip(shape, NODE_NM, strict=True)
    ]
    fz, fy, fx = np.meshgrid(*frequency, indexing="ij", sparse=True)
    square = fz**2 + fy**2 + fx**2
    for pair in range(NEUROPIL // 2):
        direction = rng.standard_normal(3)
        uz, uy, ux = direction / np.linalg.norm(direction)
        along = (uz * fz + uy * fy + ux * fx) ** 2
        narrow, wide = rng.uniform(85, 125), rng.uniform(300, 600)
        exponent = -2 * np.pi**2 * (narrow**2 * (square - along) + wide**2 * along)
        noise = rng.standard_normal((*shape, 2), dtype=np.float32).view(np.complex64)[..., 0]
        two = fft.ifftn(noise * np.exp(exponent), workers=2)
        for index, part in enumerate((two.real, two.imag)):
            fields[2 * pair + index] = part / part.std()
    return fields


def grid_shape(size_zyx: Triple) -> Triple:
    """Return the number of nodes along z, y and x for a volume of this size in voxels."""
    z, y, x = size_zyx
    return (-(-z // STEP_Z) + 2 * PAD, -(-y // STEP_XY) + 2 * PAD, -(-x // STEP_XY) + 2 * PAD)


def add_bumps(field: Float, bumps: Bumps) -> None:
    """Raise `field` (nodes z, y, x) to the bumps wherever they stand higher."""
    far = np.sqrt((bumps.top + 4.0) / bumps.curvature)
    for start, end, top, curvature, margin in zip(
        bumps.start_nm, bumps.end_nm, bumps.top, bumps.curvature, far, strict=True
    ):
        low = np.floor((np.minimum(start, end) - margin) / NODE_NM).astype(int) + PAD
        high = np.ceil((np.maximum(start, end) + margin) / NODE_NM).astype(int) + PAD
        low, high = np.clip(low, 0, field.shape), np.clip(high, 0, field.shape)
        box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        nodes = np.stack(np.meshgrid(*[np.arange(s.start, s.stop) for s in box], indexing="ij"), -1)
        point = (nodes - PAD + 0.5) * NODE_NM
        bump = top - curvature * _squared_distance(point, start, end)
        np.maximum(field[box], bump.astype(np.float32), out=field[box])


def make_uneven(fields: Float) -> None:
    """Give bumps an irregular outline: all but mitochondria gain the same smooth noise.

    What all of them gain leaves the border between any two of them, and so each cleft, in place.
    """
    noise = 0.45 * (fields[0] + fields[1] - fields[2] - fields[3])
    fields[NEUROPIL:MITOCHONDRION] += noise


def _squared_distance(point: Points, start: Points, end: Points) -> Points:
    axis = end - start
    length = float(axis @ axis)
    along = np.clip((point - start) @ axis / length, 0, 1) if length else np.zeros(point.shape[:-1])
    offset = point - start - along[..., None] * axis
    distance: Points = np.einsum("...i,...i", offset, offset)
    return distance


def spline_weights(at: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.int64], Float]:
    """Return, for positions in nodes, the first of four nodes and their cubic B-spline weights."""
    first = np.floor(at).astype(np.int64) - 1
    t = at - np.floor(at)
    weights = np.stack(
        [(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3], -1
    )
    return first, (weights / 6).astype(np.float32)


class Owners:
    """Evaluates which field is largest, one plane at a time."""

    def __init__(self, fields: Float, size_zyx: Triple) -> None:
        self.fields = fields
        self.size_zyx = size_zyx
        first, weights = spline_weights((np.arange(BLOCK_PX) + 0.5) / STEP_XY + 1.5)
        self._block = np.zeros((BLOCK_PX, BLOCK_NODES + 4), np.float32)
        for tap in range(4):
            self._block[np.arange(BLOCK_PX), first + tap] += weights[:, tap]

    def plane(self, z: float) -> Gray:
        """Return the owner of each pixel, (y, x), at height z in sections from the corner."""
        first, weights = spline_weights(np.array([z / STEP_Z - 0.5 + PAD]))
        coarse = np.einsum("t,ktyx->kyx", weights[0], self.fields[:, first[0] : first[0] + 4])
        _, ny, nx = self.size_zyx
        owner = np.zeros((ny, nx), np.uint8)
        wide = {k: self._finer(coarse[k].T, nx).T.copy() for k in _present(coarse)}
        for start in range(0, nx, MAX_COLUMNS):
            columns = slice(start, start + MAX_COLUMNS)
            parts = {k: np.ascontiguousarray(field[:, columns]) for k, field in wide.items()}
            self._fill(owner[:, columns], parts)
        return owner

    def _finer(self, nodes: Float, length: int) -> Float:
        """Interpolate (nodes, n) along its first axis to (length, n) pixels."""
        out = np.empty((length, nodes.shape[1]), np.float32)
        for start in range(0, length, BLOCK_PX):
            rows = _nodes_of(nodes, start)
            block = self._block[: length - start, : len(rows)]
            for left in range(0, nodes.shape[1], MAX_COLUMNS):
                part = slice(left, left + MAX_COLUMNS)
                np.matmul(block, rows[:, part], out=out[start : start + BLOCK_PX, part])
        return out

    def _fill(self, owner: Gray, fields: dict[int, Float]) -> None:
        """Set owner (y, x) to the largest of the fields, each (nodes along y, x)."""
        best = np.empty((BLOCK_PX, owner.shape[1]), np.float32)
        value = np.empty_like(best)
        for start in range(0, len(owner), BLOCK_PX):
            rows = owner[start : start + BLOCK_PX]
            block = self._block[: len(rows)]
            for k, field in fields.items():
                nodes = _nodes_of(field, start)
                if k == 0:
                    np.matmul(block[:, : len(nodes)], nodes, out=best[: len(rows)])
                elif k < NEUROPIL or nodes.max() > 0:
                    np.matmul(block[:, : len(nodes)], nodes, out=value[: len(rows)])
                    np.copyto(rows, np.uint8(k), where=value[: len(rows)] > best[: len(rows)])
                    np.maximum(best[: len(rows)], value[: len(rows)], out=best[: len(rows)])


def _present(coarse: Float) -> list[int]:
    return [k for k in range(NUM_FIELDS) if k < NEUROPIL or coarse[k].max() > 0]


def _nodes_of(nodes: Float, start: int) -> Float:
    """Return the nodes that the pixels of the block at `start` depend on."""
    first = start // STEP_XY + PAD - 2
    return nodes[first : first + BLOCK_NODES + 4]
