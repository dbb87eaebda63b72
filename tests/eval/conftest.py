"""Made-up predictions whose synapses err together, and small shard sets with runs on them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import special

from eval.inputs.predictions import PredictionsInfo, write_predictions
from shards.contract.sample_store import (
    create_store,
    open_for_write,
    write_dataset,
    write_rows,
    write_samples,
)
from shards.contract.schema import SPLITS, Dataset, ImageSpec, View
from shards.pack.assign import PackOptions
from shards.pack.write_shards import pack
from shards.stream.shardset import open_shards

CLASSES = ("inhibitory", "excitatory")
SHAPES: dict[View, tuple[int, ...]] = {"patch": (1, 48, 48), "cube": (1, 8, 24, 24)}
VOLUME = {"path": "precomputed://https://example.org/em", "segmentation": "gs://example/seg"}


def predictions(
    seed: int,
    *,
    neurons: int = 30,
    synapses: int = 15,
    gain: float = 2.0,
    axon: float = 0.8,
    sure: float = 1.0,
    first_neuron: int = 1,
) -> pd.DataFrame:
    """Return predictions of neurons of alternating class.

    A synapse's evidence is ±gain / 2, plus its axon's error (of deviation `axon`), plus its own (of
    deviation 1); with `axon` 0 and `sure` 1 the probabilities are calibrated.
    """
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(neurons), rng.poisson(synapses - 1, neurons) + 1)
    label, n = group % 2, len(group)
    evidence = (label - 0.5) * gain + axon * rng.standard_normal(neurons)[group]
    evidence = evidence + rng.standard_normal(n)
    return pd.DataFrame(
        {
            "synapse_id": 2**60 + first_neuron * 10_000 + np.arange(n),
            "neuron_id": first_neuron + group,
            "post_root_id": rng.integers(1, 40, n),
            "center_x_nm": rng.uniform(0.0, 1e5, n),
            "center_y_nm": rng.uniform(0.0, 5e5, n),
            "center_z_nm": rng.uniform(0.0, 1e5, n),
            "size": rng.lognormal(6.0, 1.0, n),
            "label": label.astype(np.int16),
            "label_tier": np.where(rng.random(n) < 0.3, "manual", "automatic"),
            "qc_flags": np.where(rng.random(n) < 0.2, "blurred", ""),
            "probability": special.expit(sure * gain * evidence),
        }
    )


@pytest.fixture(scope="session")
def make_predictions() -> Callable[..., pd.DataFrame]:
    """Return `predictions`."""
    return predictions


def write_run(folder: Path, frames: dict[str, pd.DataFrame], **info: Any) -> Path:
    """Write a run folder as the trainer would, without its checkpoints."""
    for name, frame in frames.items():
        write_predictions(
            folder / "predictions" / f"{name}.parquet", frame, PredictionsInfo(**info)
        )
    run = {"schema_version": 1, "recipe": "made up", "config": {"seed": 42}, **info}
    (folder / "run.json").write_text(json.dumps(run))
    rows = [
        {"kind": "val", "epoch": e, "step": e, "train_loss": 1 / (e + 1), "balanced_accuracy": 0.7}
        for e in range(3)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def run_maker() -> Callable[..., Path]:
    """Return `write_run`."""
    return write_run


def samples(seed: int = 0) -> pd.DataFrame:
    """Return a sample table of 24 training, 12 validation and 12 test neurons."""
    parts = []
    for place, (split, neurons) in enumerate(zip(SPLITS, (24, 12, 12), strict=True)):
        frame = predictions(
            seed + place, neurons=neurons, synapses=8, first_neuron=1000 * place + 1
        )
        # Splits lie apart: their boxes cannot overlap.
        frame["center_x_nm"] += 1e6 * place
        parts.append(frame.assign(split=split))
    table = pd.concat(parts, ignore_index=True)
    return table.drop(columns="probability").assign(
        key=[f"s{row:05d}" for row in range(len(table))],
        pre_root_id=table["neuron_id"] + 2**58,
        nucleus_id=table["neuron_id"],
        label_source="made up",
        row=np.arange(len(table)),
        block=0,
    )


def write_shards(folder: Path, view: View, table: pd.DataFrame) -> str:
    """Write a shard set whose classes differ by their texture; return its URL."""
    rng = np.random.default_rng(5)
    shape = SHAPES[view]
    noise = rng.normal(128.0, 40.0, (len(table), *shape))
    smooth = (noise + np.roll(noise, 1, axis=-1) + np.roll(noise, 2, axis=-1)) / 3.0
    coarse = (table["label"] == 1).to_numpy().reshape(-1, *[1] * len(shape))
    images = np.where(coarse, smooth, noise).clip(0, 255).astype(np.uint8)
    spec = ImageSpec(shape=shape, dtype="uint8", channels=("em",), voxel_size_nm=(40.0, 8.0, 8.0))
    store = folder / f"dataset-{view}"
    create_store(store, {view: spec}, len(table), len(table))
    write_rows(open_for_write(store, view), 0, images)
    write_samples(store, table)
    dataset = Dataset(
        schema_version=1, class_names=CLASSES, views={view: spec}, num_samples=len(table),
        num_rejects=0, counts={}, config={"volume": {**VOLUME, "format": "precomputed"}},
        sources=[], rules={}, code_version="test",
    )  # fmt: skip
    write_dataset(store, dataset)
    url = str(folder / view)
    pack(store, view, url, PackOptions(samples_per_shard=64), workers=1)
    return url


@pytest.fixture(scope="session")
def shards_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[View], str]:
    """Return a function that gives the URL of a shard set of a view; made once."""
    folder = tmp_path_factory.mktemp("eval-shards")
    table = samples()
    made = {view: write_shards(folder, view, table) for view in SHAPES}
    return lambda view: made[view]


def predicted_run(folder: Path, url: str, *, seed: int = 0, gain: float = 3.0) -> Path:
    """Write a run that predicted val and test of a shard set."""
    with open_shards(url) as shards:
        frames = {}
        for place, split in enumerate(("val", "test")):
            frame = shards.index(split).table.to_pandas()
            frame = frame.drop(columns=["offset", "length", "crc32c"])
            rng = np.random.default_rng(seed + place)
            evidence = (frame["label"] - 0.5) * gain + rng.standard_normal(len(frame))
            frames[split] = frame.assign(split=split, probability=special.expit(gain * evidence))
        noted = {"data_url": shards.url, "manifest_sha256": shards.manifest_sha256}
    return write_run(folder, frames, **noted)


@pytest.fixture(scope="session")
def runs(
    shards_of: Callable[[View], str], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Return a run on patches and a better one on cubes; tests do not change them."""
    folder = tmp_path_factory.mktemp("eval-runs")
    return {
        "2d": predicted_run(folder / "2d", shards_of("patch"), seed=1, gain=1.5),
        "3d": predicted_run(folder / "3d", shards_of("cube"), seed=3, gain=3.5),
    }
