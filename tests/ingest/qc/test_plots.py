"""Pictures of a data set say what they show: titles, ids, scale bars, and only what is measured."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageDraw

from ingest.job.image_config import QcConfig
from ingest.qc.measure import measure
from ingest.qc.plots import neurons_picture, positions_picture
from ingest.qc.sample_sheets import scale_bar_nm, sheet_of_some, sheet_of_worst
from shards.contract.schema import Dataset, ImageSpec

PATCH, CUBE = (1, 64, 64), (1, 4, 64, 64)


def spec_of(shape: tuple[int, ...], x_nm: float = 4.0) -> ImageSpec:
    return ImageSpec(shape=shape, dtype="uint8", channels=("em",), voxel_size_nm=(40.0, x_nm, x_nm))


@pytest.fixture
def texts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that fills with what is written into pictures."""
    written: list[str] = []
    original = ImageDraw.ImageDraw.text

    def text(self: Any, place: Any, line: str, **style: Any) -> None:
        written.append(line)
        original(self, place, line, **style)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", text)
    return written


def samples_of(images: np.ndarray) -> pd.DataFrame:
    measured = pd.DataFrame([asdict(measure(image)) for image in images])
    keys = [str(864691135000000000 + row) for row in range(len(images))]
    return measured.assign(key=keys, row=range(len(images)))


@pytest.mark.parametrize("shape", [PATCH, CUBE])
def test_the_worst_are_captioned_by_what_they_have(
    tmp_path: Path, texts: list[str], shape: tuple[int, ...]
) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (5, *shape)).astype(np.uint8)
    images[3] = images[3] // 32 + 100
    samples = samples_of(images)
    sheet_of_worst(tmp_path / "worst.png", images, spec_of(shape), samples, QcConfig())  # type: ignore[arg-type]
    name = "patch" if shape == PATCH else "cube"
    assert any(text.startswith(f"{name}: the worst first; 1 of 5 flagged") for text in texts)
    assert "flagged low_contrast" in texts
    assert samples.key[3] == texts[0]
    if shape == PATCH:
        assert not any(text.startswith(("focus", "shift", "flagged blurred")) for text in texts)
    assert "white bar: 50 nm" in texts


def test_sheets_name_class_and_ids_and_draw_a_scale_bar(tmp_path: Path, texts: list[str]) -> None:
    images = np.full((3, *PATCH), 128, np.uint8)
    samples = pd.DataFrame({"key": ["a", "b", "c"], "row": [0, 1, 2]})
    sheet_of_some(tmp_path / "s.png", images, spec_of(PATCH), samples, "patch, test, excitatory")  # type: ignore[arg-type]
    assert set(texts) == {"a", "b", "c", "patch, test, excitatory", "white bar: 50 nm"}
    page = np.asarray(Image.open(tmp_path / "s.png"))
    white = [np.flatnonzero(row[4:68] == 255) for row in page[-20:]]
    assert any(len(row) == round(50 / 4.0) for row in white)


@pytest.mark.parametrize(
    ("pixels", "x_nm", "expected"), [(64, 4.0, 50.0), (256, 8.0, 500.0), (96, 4.6, 100.0)]
)
def test_scale_bars_are_round_numbers(pixels: int, x_nm: float, expected: float) -> None:
    assert scale_bar_nm(spec_of((1, pixels, pixels), x_nm)) == expected


def test_positions_and_neurons_are_drawn_also_where_little_is_known(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    kept = pd.DataFrame(rng.uniform(0, 1e4, (40, 3)), columns=[f"center_{a}_nm" for a in "xyz"])
    kept = kept.assign(
        center_z_nm=5.0, split=["train", "val", "test", "train"] * 10, label=[0, 1] * 20,
        neuron_id=np.arange(40) // 4 * (np.arange(40) % 2),
    )  # fmt: skip
    dataset = Dataset(
        schema_version=1, class_names=("a", "b"), views={}, num_samples=40, num_rejects=0,
        counts={}, config={}, sources=[], rules={}, code_version="",
    )  # type: ignore[arg-type]  # fmt: skip
    positions_picture(tmp_path, dataset, kept, kept.iloc[:0])
    neurons_picture(tmp_path, kept)
    for name in ("positions.png", "neurons.png"):
        assert np.asarray(Image.open(tmp_path / name)).std() > 5
