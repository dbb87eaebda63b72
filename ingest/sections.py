"""How the sections of a cube compare with each other: shifts and sharpness."""

import numpy as np
import numpy.typing as npt
from scipy import fft

Image = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

WINDOW_PX = 96  # the middle of each section is compared: enough for 30 px, and quick
SMOOTH = 0.08  # cycles a pixel: what is finer differs from section to section anyway
CLEAR_PEAK = 6.0  # standard deviations above the mean of the correlation


def largest_shift_px(em_zyx: Image) -> float:
    """Return the largest shift in the plane between neighbouring sections, by phase correlation.

    Sections of one value are passed over, so that the two beside them are compared. 0 where no
    shift is clear. Kuglin and Hines 1975, "The phase correlation image alignment method".
    """
    crops = _middles(em_zyx)
    crops = crops[crops.std(axis=(1, 2)) > 0]
    if len(crops) < 2 or min(crops.shape[1:]) < 8:
        return 0.0
    crops = (crops - crops.mean(axis=(1, 2), keepdims=True)) * _taper(crops.shape[1:])
    spectra = fft.rfft2(crops)
    cross = spectra[1:] * np.conj(spectra[:-1])
    cross *= _low_pass(crops.shape[1:]) / np.maximum(np.abs(cross), 1e-6)
    peaks = fft.irfft2(cross, s=crops.shape[1:])
    flat = peaks.reshape(len(peaks), -1)
    best = flat.argmax(axis=1)
    clear = flat.max(axis=1) > flat.mean(axis=1) + CLEAR_PEAK * flat.std(axis=1)
    y, x = np.unravel_index(best, peaks.shape[1:])
    height, width = peaks.shape[1:]
    dy = np.minimum(y, height - y)
    dx = np.minimum(x, width - x)
    return float((np.hypot(dy, dx) * clear).max(initial=0))


def least_focus(em_zyx: Image) -> float:
    """Return how sharp the dullest section is against the median one, 1 where all are alike.

    Sharpness is the mean absolute difference of neighbouring pixels over the contrast; sections
    of one value do not count.
    """
    crops = _middles(em_zyx)
    contrast = crops.std(axis=(1, 2))
    crops, contrast = crops[contrast > 0], contrast[contrast > 0]
    if not len(crops):
        return 0.0
    sharp = np.abs(np.diff(crops, axis=2)).mean(axis=(1, 2)) / contrast
    middle = float(np.median(sharp))
    return float(sharp.min()) / middle if middle else 0.0


def _middles(em_zyx: Image) -> Floats:
    _, height, width = em_zyx.shape
    y, x = max(0, (height - WINDOW_PX) // 2), max(0, (width - WINDOW_PX) // 2)
    return em_zyx[:, y : y + WINDOW_PX, x : x + WINDOW_PX].astype(np.float32)


def _taper(shape: tuple[int, ...]) -> Floats:
    y, x = (np.hanning(n).astype(np.float32) for n in shape)
    return np.outer(y, x)


def _low_pass(shape: tuple[int, ...]) -> Floats:
    y, x = fft.fftfreq(shape[0])[:, None], fft.rfftfreq(shape[1])[None]
    weights = np.exp(-(y**2 + x**2) / (2 * SMOOTH**2))
    return np.asarray(weights, dtype=np.float32)
