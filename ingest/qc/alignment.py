"""The sections of a cube compared with each other: shifts and sharpness."""

from functools import cache

import numpy as np
import numpy.typing as npt
from scipy import fft

Image = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

WINDOW_PX = 128  # the middle of each section is compared
SHORTEST_PX = 16  # sides of images that are compared at all
TAPER = 16  # the window fades out over this part of its side: shorter, and its edges align
CLEAR_PEAK = 6.0  # standard deviations of the correlation
MOVED_PX = 3.0  # more than this, and a pair is looked at again, at twice the resolution


def largest_shift_px(em_zyx: Image) -> float:
    """Return the largest shift in the plane between neighbouring sections, 0 where none is clear.

    Looked for at a quarter of the resolution, and again at half of it where a pair moved or nothing
    was clear. Hand in no section of one value, so that the two beside it are compared.
    """
    if len(em_zyx) < 2 or min(em_zyx.shape[1:]) < SHORTEST_PX:
        return 0.0
    halves = _halved(_middles(em_zyx))
    quarters = halves[:, ::2] + halves[:, 1::2]
    shifts = 4 * _shifts(quarters[:, :, ::2] + quarters[:, :, 1::2], np.arange(len(em_zyx) - 1))
    if len(moved := np.flatnonzero(~(shifts <= MOVED_PX))):
        shifts[moved] = 2 * _shifts(halves, moved)
    return float(np.nan_to_num(shifts).max())


def _shifts(sections: Floats, pairs: npt.NDArray[np.intp]) -> Floats:
    """Return by how much sections are shifted against the next ones, NaN where that is not clear.

    By phase correlation; `pairs` are the places of sections.

    Each spectrum is divided by the root of its amplitude, half way from plain to phase-only
    correlation: phase alone lets the noise of blurred sections count as much as their content.
    Kuglin and Hines 1975, "The phase correlation image alignment method".
    """
    _, height, width = sections.shape
    used = np.union1d(pairs, pairs + 1)
    sections = sections[used] - sections[used].mean(axis=(1, 2), keepdims=True)
    sections *= _taper(height, width)
    spectra = fft.rfft2(sections)
    spectra *= 1 / np.sqrt(np.maximum(np.abs(spectra), 1e-6))
    first = np.searchsorted(used, pairs)
    peaks = fft.irfft2(spectra[first + 1] * spectra[first].conj(), s=(height, width))
    flat = peaks.reshape(len(pairs), -1)
    y, x = np.unravel_index(flat.argmax(axis=1), (height, width))
    pair = np.arange(len(pairs))
    dy = _between(*(peaks[pair, (y + step) % height, x] for step in (-1, 0, 1)))
    dx = _between(*(peaks[pair, y, (x + step) % width] for step in (-1, 0, 1)))
    deviation = np.sqrt(np.einsum("ij,ij->i", flat, flat) / flat.shape[1])
    clear = peaks[pair, y, x] > CLEAR_PEAK * deviation
    shifts = np.hypot(_signed(y, height) + dy, _signed(x, width) + dx)
    return np.where(clear, shifts, np.nan)


def least_focus(em_zyx: Image, contrast: npt.NDArray[np.float64]) -> float:
    """Return how sharp the blurriest section is against the median one, 1 where all are alike.

    Sharpness is the mean absolute difference of neighbouring pixels over the section's `contrast`,
    its standard deviation; hand in no section of one value. 0 where there is no section.
    """
    if not len(em_zyx):
        return 0.0
    middles = np.ascontiguousarray(_middles(em_zyx))
    flat = middles.reshape(-1)  # long rows are quick; what reaches over an edge is not counted
    steps = np.empty_like(flat)
    np.maximum(flat[1:], flat[:-1], out=steps[:-1])
    steps[:-1] -= np.minimum(flat[1:], flat[:-1])
    steps.reshape(middles.shape)[..., -1] = 0
    sharp = steps.reshape(len(middles), -1).sum(axis=1, dtype=np.uint32) / contrast
    middle = float(np.median(sharp))
    return float(sharp.min()) / middle if middle else 0.0


def _middles(em_zyx: Image) -> Image:
    """Return the middle of each section: at most the window, of sides that 4 divides, or 1 to 3."""
    _, height, width = em_zyx.shape
    h, w = (min(n, WINDOW_PX) // 4 * 4 or n for n in (height, width))
    y, x = (height - h) // 2, (width - w) // 2
    return em_zyx[:, y : y + h, x : x + w]


def _halved(em_zyx: Image) -> Floats:
    """Return the sums of 2×2 pixels."""
    pairs = np.ascontiguousarray(em_zyx).view(np.uint16)
    sums = (pairs & 255) + (pairs >> 8)
    return np.add(sums[:, ::2], sums[:, 1::2], dtype=np.float32)


@cache
def _taper(height: int, width: int) -> Floats:
    """Return weights (height, width) that rise from 0 at the edges to 1."""
    y, x = (_ramp(length) for length in (height, width))
    return np.asarray(np.outer(y, x), dtype=np.float32)


def _ramp(length: int) -> npt.NDArray[np.float64]:
    edge = np.minimum(np.arange(length), np.arange(length)[::-1]) + 0.5
    ramp = np.minimum(1, edge / max(1, length // TAPER))
    return np.asarray(0.5 - 0.5 * np.cos(np.pi * ramp))


def _between(before: Floats, peak: Floats, after: Floats) -> Floats:
    """Return how far the top of a parabola through three values lies from the middle one."""
    bend = 2 * peak - before - after
    offset: Floats = np.divide(after - before, 2 * bend, out=np.zeros_like(bend), where=bend > 0)
    return offset


def _signed(place: npt.NDArray[np.intp], length: int) -> npt.NDArray[np.intp]:
    return np.where(place > length // 2, place - length, place)
