"""What is measured of an image, against real EM that was damaged on purpose."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
from scipy.ndimage import gaussian_filter

from ingest.job.image_config import QcConfig
from ingest.qc.measure import flags, measure, reject_reason


def textured(depth: int = 8, size: int = 128) -> np.ndarray:
    """Sections that resemble each other, without real data."""
    rng = np.random.default_rng(3)
    common = gaussian_filter(rng.normal(size=(1, size, size)), (0, 3, 3)) * 400
    own = gaussian_filter(rng.normal(size=(depth, size, size)), (0, 1, 1)) * 40
    return np.clip(128 + common + own, 1, 255).astype(np.uint8)


def test_sound_images_have_no_flag() -> None:
    quality = measure(textured()[None])
    assert reject_reason(quality, QcConfig()) == ""
    assert flags(quality, QcConfig()) == []
    patch = measure(textured(depth=1))
    assert (patch.shift_px, patch.focus, patch.missing_sections) == (0, 1, 0)


@pytest.mark.parametrize(("shift", "expected"), [((12, -5), 13), ((0, 20), 20)])
def test_a_shift_is_measured_also_over_a_missing_section(
    shift: tuple[int, int], expected: float
) -> None:
    cube = textured()
    cube[4:] = np.roll(cube[4:], shift, axis=(1, 2))
    cube[3] = 0
    quality = measure(cube[None])
    assert quality.shift_px == pytest.approx(expected, abs=1)
    assert quality.missing_sections == 1
    assert flags(quality, QcConfig()) == ["missing_sections", "shifted"]


def test_measures_are_what_they_say() -> None:
    cube = textured(size=300)  # wider than the window, and than a row that float32 sums exactly
    em = cube.astype(np.float64)
    quality = measure(cube[None])
    assert quality.contrast == pytest.approx(em.std(), rel=1e-9)
    middle = em[:, 86:214, 86:214]
    sharp = np.abs(np.diff(middle, axis=2)).sum(axis=(1, 2)) / em.std(axis=(1, 2))
    assert quality.focus == pytest.approx(sharp.min() / np.median(sharp), rel=1e-9)


def test_a_blurred_section_and_low_contrast() -> None:
    cube = textured()
    cube[2] = gaussian_filter(cube[2].astype(float), 5).astype(np.uint8)
    assert flags(measure(cube[None]), QcConfig()) == ["blurred"]
    assert "low_contrast" in flags(measure(textured()[None] // 16 + 100), QcConfig())


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (np.zeros((1, 4, 16, 16), np.uint8), "all_zero"),
        (np.full((1, 4, 16, 16), 7, np.uint8), "constant"),
        (np.pad(textured(1, 16)[None], ((0, 0), (0, 3), (0, 0), (0, 0))), "mostly_zero"),
        (np.pad(textured(1, 16)[None], ((0, 0), (0, 1), (0, 0), (0, 0))), ""),
    ],
)
def test_what_is_left_out(image: np.ndarray, reason: str) -> None:
    assert reject_reason(measure(image), QcConfig()) == reason


@pytest.mark.real_data
@pytest.mark.parametrize("name", ["microns_phase1_sample1.tif", "microns_phase1_sample2.tif"])
def test_real_sections_and_the_same_ones_damaged(shared_data: Path, name: str) -> None:
    stack = tifffile.imread(shared_data / name)
    sound = stack[:16, 32:160, 32:160]
    assert flags(measure(sound[None]), QcConfig()) == []
    moved = np.concatenate([sound[:8], stack[8:16, 44:172, 20:148]])
    assert measure(moved[None]).shift_px == pytest.approx(np.hypot(12, 12), abs=3)
    slipped = sound.copy()
    slipped[5] = stack[5, 38:166, 28:156]
    assert flags(measure(slipped[None]), QcConfig()) == ["shifted"]
    blurred = sound.copy()
    blurred[5] = gaussian_filter(blurred[5].astype(float), 2).astype(np.uint8)
    assert flags(measure(blurred[None]), QcConfig()) == ["blurred"]
