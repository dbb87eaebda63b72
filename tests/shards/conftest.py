"""A small store whose voxels are a formula of sample and place, and a shard set packed from it."""

import shutil
from collections.abc import Callable
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
from shards.contract.schema import SPLITS, UNLABELLED, VIEWS, Dataset, ImageSpec, View
from shards.pack.assign import PackOptions
from shards.pack.write_shards import pack
from shards.storage.atomic import sha256_of_file

PATCH = ImageSpec(shape=(1, 9, 7), dtype="uint8", channels=("em",), voxel_size_nm=(40, 8, 8))
CUBE = ImageSpec(shape=(2, 5, 7, 3), dtype="uint8", channels=("em", "m"), voxel_size_nm=(40, 8, 8))
SPECS: dict[View, ImageSpec] = {"patch": PATCH, "cube": CUBE}


def formula(spec: ImageSpec, row: int) -> np.ndarray:
    """Return the image of a row: no two rows, and no two axes, look alike."""
    index = np.indices(spec.shape)
    factors = np.array([101, 53, 17, 3][-len(spec.shape) :])
    return ((2 * row + 1) * np.tensordot(factors, index, axes=1) + row).astype(np.uint8)


def samples_frame(rows: np.ndarray) -> pd.DataFrame:
    """Return samples for `rows`: two thirds of class 1, four samples a neuron, a few unlabelled."""
    split = np.select([rows % 10 < 6, rows % 10 < 8], SPLITS[:2], SPLITS[2])
    label = np.where(rows % 17 == 16, UNLABELLED, (rows % 3 > 0).astype(int))
    return pd.DataFrame(
        {
            "key": [f"s{row:06d}" for row in rows],
            "synapse_id": 1000 + rows,
            "neuron_id": 1 + rows // 4,
            "pre_root_id": 2**60 + rows,
            "post_root_id": 0,
            "nucleus_id": rows // 4,
            "center_x_nm": rows * 8.0,
            "center_y_nm": rows * 16.0,
            "center_z_nm": rows * 40.0,
            "size": np.where(rows % 5 == 0, np.nan, rows * 1.0),
            "label": label,
            "label_tier": np.where(rows % 2 == 0, "manual", "automatic"),
            "label_source": "made up",
            "split": split,
            "row": rows,
            "block": rows // 8,
            "qc_flags": np.where(rows % 23 == 22, "blurred", ""),
        }
    )


def make_store(folder: Path, num_rows: int = 120, rows_per_shard: int = 16) -> None:
    """Write a complete store; every thirteenth row is a hole."""
    create_store(folder, SPECS, num_rows, rows_per_shard)
    accepted = np.array([row for row in range(num_rows) if row % 13 != 12])
    for view, spec in SPECS.items():
        array = open_for_write(folder, view)
        for start in range(0, num_rows, rows_per_shard):
            rows = range(start, min(start + rows_per_shard, num_rows))
            images = [formula(spec, r) * np.uint8(r % 13 != 12) for r in rows]
            write_rows(array, start, np.stack(images))
    samples = samples_frame(accepted)
    write_samples(folder, samples)
    write_dataset(folder, dataset_record(len(samples), num_rows))


def dataset_record(num_samples: int, num_rows: int, **changes: Any) -> Dataset:
    """Return the description of a made store."""
    values: dict[str, Any] = {
        "schema_version": 1,
        "class_names": ("inhibitory", "excitatory"),
        "views": dict(SPECS),
        "num_samples": num_samples,
        "num_rejects": num_rows - num_samples,
        "counts": {},
        "config": {"made": "up"},
        "sources": [],
        "rules": {},
        "code_version": "test",
    }
    return Dataset(**(values | changes))


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a complete store of 120 rows, 111 of them samples."""
    folder = tmp_path_factory.mktemp("store")
    make_store(folder)
    return folder


@pytest.fixture(scope="session")
def image_of() -> Callable[[ImageSpec, int], np.ndarray]:
    """Return the formula that every voxel follows."""
    return formula


@pytest.fixture(scope="session")
def store_maker() -> Callable[..., None]:
    """Return `make_store(folder, num_rows, rows_per_shard)`."""
    return make_store


@pytest.fixture(scope="session")
def digests() -> Callable[[Path], dict[str, str]]:
    """Return a function that hashes every file of a folder, hidden ones too."""
    return lambda folder: {path.name: sha256_of_file(path) for path in sorted(folder.iterdir())}


@pytest.fixture(scope="session")
def packed(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[View], Path]:
    """Return a function that gives the shard set of a view; tests do not change it."""
    folder = tmp_path_factory.mktemp("shards")
    for view in VIEWS:
        pack(store, view, str(folder / view), PackOptions(samples_per_shard=16))
    return lambda view: folder / view


@pytest.fixture
def altered(packed: Callable[[View], Path], tmp_path: Path) -> Path:
    """Return a copy of the cubes' shard set that a test may damage."""
    return Path(shutil.copytree(packed("cube"), tmp_path / "copy"))
