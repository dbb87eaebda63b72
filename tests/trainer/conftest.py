"""Small shard sets whose classes differ by the grain of their texture."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from shards.contract.sample_store import (
    create_store,
    open_for_write,
    write_dataset,
    write_rows,
    write_samples,
)
from shards.contract.schema import Dataset, ImageSpec, View
from shards.pack.assign import PackOptions
from shards.pack.write_shards import pack
from trainer.__main__ import main as command

COUNTS = {"train": 96, "val": 40, "test": 24}
SHAPES: dict[View, tuple[int, ...]] = {"patch": (1, 32, 32), "cube": (1, 8, 24, 24)}
E_I = ("inhibitory", "excitatory")


def write_shards(
    folder: Path,
    view: View,
    *,
    class_names: tuple[str, ...] = E_I,
    shuffled_labels: bool = False,
    seed: int = 0,
    counts: dict[str, int] = COUNTS,
    shape: tuple[int, ...] | None = None,
    channels: tuple[str, ...] = (),
    rare: int = 0,
    labels_of: dict[str, list[int]] | None = None,
) -> str:
    """Write a sample store and its shards below `folder`; return the shards' URL.

    Classes take turns, or one sample in `rare` is of class 0 and the others are of class 1, one
    in seven of which looks as if it were of class 0. `labels_of` gives a split's labels instead.
    """
    counts = {name: len(labels) for name, labels in labels_of.items()} if labels_of else counts
    rng = np.random.default_rng(seed)
    shape = shape or SHAPES[view]
    total = sum(counts.values())
    labels = np.arange(total) % len(class_names)
    if labels_of:
        labels = np.concatenate([np.array(part) for part in labels_of.values()])
    looks = labels
    if rare:
        labels = (np.arange(total) % rare > 0).astype(int)
        looks = labels * (np.arange(total) % 7 > 0)
    images = np.stack([_texture(rng, shape, grain=2 + 3 * max(0, int(look))) for look in looks])
    if shuffled_labels:
        labels = rng.permutation(labels)
    spec = ImageSpec(
        shape=shape,
        dtype="uint8",
        channels=channels or ("em",) * shape[0],
        voxel_size_nm=(40.0, 8.0, 8.0),
    )
    store = folder / "dataset"
    create_store(store, {view: spec}, total, total)
    write_rows(open_for_write(store, view), 0, images)
    splits = np.repeat(list(counts), list(counts.values()))
    write_samples(store, _table(labels, splits))
    write_dataset(store, _dataset(spec, view, class_names, labels, splits))
    url = str(folder / view)
    options = PackOptions(
        samples_per_shard=64, seed=seed, unlabelled="keep" if labels_of else "leave-out"
    )
    pack(store, view, url, options, workers=1)
    return url


def main(words: Sequence[object]) -> None:
    """Do what a command of the trainer does; of options that come again the last counts."""
    command(overriding(*words))


def overriding(*words: object) -> list[str]:
    """Return a command whose options stand once: of those that come again, the last."""
    groups: dict[str, list[str]] = {"": []}
    name = ""
    for word in map(str, words):
        if word.startswith("--"):
            name = word
            groups[name] = []
        groups[name].append(word)
    return [word for group in groups.values() for word in group]


def _texture(rng: np.random.Generator, shape: tuple[int, ...], *, grain: int) -> np.ndarray:
    """Noise of blocks of `grain` pixels in y and x."""
    *lead, y, x = shape
    small = rng.integers(40, 215, (*lead, -(-y // grain), -(-x // grain)), dtype=np.uint8)
    return small.repeat(grain, axis=-2).repeat(grain, axis=-1)[..., :y, :x]


def _table(labels: np.ndarray, splits: np.ndarray) -> pd.DataFrame:
    count = len(labels)
    number = np.arange(count)
    return pd.DataFrame(
        {
            "key": [f"s{i:05d}" for i in number],
            "synapse_id": 1000 + number,
            # Splits share no neuron, and a neuron has one label.
            "neuron_id": 10_000 * np.unique(splits, return_inverse=True)[1]
            + number // 8 * 8
            + labels,
            "pre_root_id": 2000 + number,
            "post_root_id": 3000 + number,
            "nucleus_id": 0,
            "center_x_nm": number * 100.0,
            "center_y_nm": number * 100.0,
            "center_z_nm": number * 100.0,
            "size": 500.0,
            "label": labels.astype(np.int16),
            "label_tier": "made",
            "label_source": "texture",
            "split": splits,
            "row": number,
            "block": 0,
            "qc_flags": "",
        }
    )


def _dataset(
    spec: ImageSpec,
    view: View,
    class_names: tuple[str, ...],
    labels: np.ndarray,
    splits: np.ndarray,
) -> Dataset:
    counts = {
        str(split): {
            name: int(((splits == split) & (labels == k)).sum())
            for k, name in enumerate(class_names)
        }
        for split in np.unique(splits)
    }
    return Dataset(
        schema_version=1,
        class_names=class_names,
        views={view: spec},
        num_samples=len(labels),
        num_rejects=0,
        counts=counts,
        config={},
        sources=[],
        rules={},
        code_version="test",
    )


@pytest.fixture(scope="session")
def cubes(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Learnable cubes of two classes."""
    return write_shards(tmp_path_factory.mktemp("cubes"), "cube")


@pytest.fixture(scope="session")
def patches(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Learnable patches of two classes."""
    return write_shards(tmp_path_factory.mktemp("patches"), "patch")


Run = Callable[..., str]
Launch = Callable[..., subprocess.Popen[str]]
Shards = Callable[..., str]


@pytest.fixture(scope="session")
def make_shards() -> Shards:
    """Return `write_shards`."""
    return write_shards


def _launch(*arguments: object, ranks: int = 1, launcher: bool = True) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    start: Sequence[str] = (sys.executable, "-m")
    if launcher:
        flags = ("--multi_gpu", "--num_processes", str(ranks)) if ranks > 1 else ()
        start = (*start, "accelerate.commands.launch", "--quiet", *flags, "-m")
    return subprocess.Popen(
        [*start, "trainer", *overriding(*arguments, "--threads", "1")],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.fixture
def launch() -> Iterator[Launch]:
    """Start `accelerate launch -m trainer ARGUMENTS`, or `python -m trainer` without `launcher`.

    Whatever is still running when the test ends is killed.
    """
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: object, **options: Any) -> subprocess.Popen[str]:
        started.append(_launch(*arguments, **options))
        return started[-1]

    yield start
    for process in started:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.fixture
def run(launch: Launch) -> Run:
    """`launch`, wait, check the exit code, return standard error."""

    def finished(*arguments: object, code: int = 0, **options: Any) -> str:
        process = launch(*arguments, **options)
        _, errors = process.communicate(timeout=200)
        assert process.returncode == code, errors
        return errors

    return finished
