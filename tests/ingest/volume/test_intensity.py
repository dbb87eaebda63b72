"""Integers of more than 8 bits through a stated window, whatever stores them."""

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from cloudvolume import CloudVolume
from hypothesis import given
from hypothesis import strategies as st

from ingest.job.image_config import VolumeConfig
from ingest.job.job_file import load_job
from ingest.plan.make import plan_dataset
from ingest.qc.describe_dataset import plan_lines
from ingest.volume.geometry import Box
from ingest.volume.open import load_scale, open_volume, reference_reader
from shards.images.gray_window import GrayWindow, propose_window
from tests.ingest.conftest import formula_box
from tests.ingest.volume.array_files import SIZE_NM

SHAPE = (12, 24, 40)
WINDOW = (7.0, 25507.0)  # of which each gray value is a hundred
BOX = Box((2, 3, 4), (11, 20, 37))
INTEGERS = ("u1", "i1", "u2", "i2", ">u2", "u4", "i4", "u8", "i8")


@given(
    dtype=st.sampled_from(INTEGERS),
    ends=st.tuples(st.integers(-70_000, 70_000), st.integers(-70_000, 70_000)),
    seed=st.integers(0, 99),
)
def test_a_window_is_the_formula(dtype: str, ends: tuple[int, int], seed: int) -> None:
    low, high = min(ends), max(ends) + 1
    limits = np.iinfo(np.dtype(dtype))
    near = np.random.default_rng(seed).integers(low - 9, high + 9, 50, endpoint=True)
    values = near.clip(max(limits.min, -(2**62)), min(limits.max, 2**62)).astype(dtype)
    gray = GrayWindow(low=low, high=high).to_gray(values)
    for value, shade in zip(values.tolist(), gray.tolist(), strict=True):
        exact = min(max((value - low) / (high - low), 0), 1) * 255
        assert abs(shade - exact) <= 0.5 + 1e-9


@pytest.mark.parametrize("ends", [(5, 5), (9, 1), (float("nan"), 3), (0, float("inf"))])
def test_windows_that_are_none(ends: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="two rising numbers"):
        VolumeConfig(path="em", intensity=ends)


def test_a_proposed_window_leaves_out_what_is_missing() -> None:
    values = np.concatenate([np.zeros(5000, "u2"), np.arange(1000, 2001, dtype="u2")])
    assert propose_window(values) == (1005, 1995)
    assert propose_window(np.zeros(9, "u2")) == (0, 1)


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return formula_box((0, 0, 0), SHAPE)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory, image: np.ndarray) -> dict[str, VolumeConfig]:
    """The formula in 16 bits: TIFF files of several kinds, and a precomputed volume."""
    root, deep = tmp_path_factory.mktemp("deep"), image.astype("u2") * 100 + 7
    tifffile.imwrite(root / "one.tif", deep, photometric="minisblack", metadata=None)
    axes = {"axes": "ZYX"}
    tifffile.imwrite(root / "big.tif", deep, byteorder=">", imagej=True, metadata=axes)
    tifffile.imwrite(root / "packed.tif", deep, photometric="minisblack", compression="zlib")
    (root / "sections").mkdir()
    for z, section in enumerate(deep):
        tifffile.imwrite(root / "sections" / f"s{z}.tif", section, photometric="minisblack")
    info = CloudVolume.create_new_info(
        num_channels=1,
        layer_type="image",
        data_type="uint16",
        encoding="raw",
        resolution=list(SIZE_NM[::-1]),
        voxel_offset=[0, 0, 0],
        volume_size=list(SHAPE[::-1]),
        chunk_size=[16, 16, 8],
    )
    volume = CloudVolume(f"file://{root}/em", info=info, progress=False)
    volume.commit_info()
    volume[:] = deep.T[..., None]
    tiff: dict[str, Any] = {"format": "tiff", "voxel_size_nm": SIZE_NM}
    names = ("one.tif", "big.tif", "packed.tif", "sections")
    configs = {name: VolumeConfig(path=str(root / name), **tiff) for name in names}
    precomputed = {reader: VolumeConfig(path=f"{root}/em", reader=reader) for reader in READERS}
    return configs | precomputed


READERS: Any = ("ranged", "cloudvolume")
KINDS = ("one.tif", "big.tif", "packed.tif", "sections", *READERS)


@pytest.mark.parametrize("kind", KINDS)
def test_every_format_goes_through_it(
    stored: dict[str, VolumeConfig], image: np.ndarray, kind: str
) -> None:
    bare = stored[kind]
    with pytest.raises(ValueError, match=r"found .*uint16.*; state `intensity: \[low, high\]`"):
        load_scale(bare, 0, saved=False)
    options = {name: getattr(bare, name) for name in ("path", "format", "voxel_size_nm", "reader")}
    config = VolumeConfig(**options, intensity=WINDOW)
    expected = image[tuple(map(slice, BOX.start, BOX.stop))]
    with closing(open_volume(config, 0, concurrency=2)) as volume:
        np.testing.assert_array_equal(volume.read(BOX)[0], expected)
    np.testing.assert_array_equal(reference_reader(config, 0)(BOX)[0], expected)


def test_encodings_of_8_bits_alone_are_refused_in_16(
    stored: dict[str, VolumeConfig], tmp_path: Path
) -> None:
    info = json.loads((Path(stored["ranged"].path) / "info").read_text())
    info["scales"][0]["encoding"] = "png"
    (tmp_path / "info").write_text(json.dumps(info))
    config = VolumeConfig(path=str(tmp_path), intensity=WINDOW)
    with pytest.raises(ValueError, match="encoding 'png' of uint16 cannot be read, only of uint8"):
        open_volume(config, 0, concurrency=1)


def test_the_plan_says_what_becomes_of_the_values(make_job: Any, tmp_path: Path) -> None:
    job = make_job()
    deep = formula_box((0, 0, 0), (120, 272, 360)).astype("u2") * 100 + 7
    tifffile.imwrite(tmp_path / "em.tif", deep, photometric="minisblack", compression="zlib")
    job.config["volume"] = {"path": str(tmp_path / "em.tif"), "voxel_size_nm": [8, 8, 40]}
    with pytest.raises(ValueError, match=r"state `intensity: \[low, high\]` under volume"):
        plan_dataset(load_job(job.write()), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    job.config["volume"]["intensity"] = [*WINDOW]
    plan, _ = plan_dataset(load_job(job.write()), tmp_path / "out")
    said = "intensity: values up to 7 become black, from 25507 white, and those between 8-bit gray"
    assert any(line.startswith(said) for line in plan_lines(plan))
