"""A sample store of noise, for measuring."""

from pathlib import Path

import numpy as np
import pandas as pd

from shards.contract.sample_store import (
    create_store,
    open_for_write,
    write_dataset,
    write_rows,
    write_samples,
)
from shards.contract.schema import Dataset, ImageSpec

ROWS_PER_SHARD = 64


def make_store(folder: Path, shape: tuple[int, ...], count: int) -> None:
    """Write a complete store of `count` training images of `shape`, a quarter of class 0."""
    spec = ImageSpec(
        shape=shape,
        dtype="uint8",
        channels=tuple(f"c{i}" for i in range(shape[0])),
        voxel_size_nm=(40.0, 8.0, 8.0),
    )
    create_store(folder, {spec.view: spec}, count, ROWS_PER_SHARD)
    array, rng = open_for_write(folder, spec.view), np.random.default_rng(0)
    noise = rng.integers(1, 256, (ROWS_PER_SHARD, *shape), dtype=np.uint8)
    for start in range(0, count, ROWS_PER_SHARD):
        write_rows(array, start, noise[: count - start])
    rows = np.arange(count)
    numbers = ("nucleus_id", "post_root_id", "center_x_nm", "center_y_nm", "center_z_nm", "size")
    frame = pd.DataFrame(
        {
            "key": [f"s{row:08d}" for row in rows],
            "synapse_id": rows,
            "neuron_id": rows // 20,
            "pre_root_id": rows // 20,
            **dict.fromkeys(numbers, 0),
            "label": (rows % 4 > 0).astype(int),
            "label_tier": "made",
            "label_source": "made",
            "split": "train",
            "row": rows,
            "block": rows // ROWS_PER_SHARD,
            "qc_flags": "",
        }
    )
    write_samples(folder, frame)
    write_dataset(
        folder,
        Dataset(
            schema_version=1,
            class_names=("inhibitory", "excitatory"),
            views={spec.view: spec},
            num_samples=count,
            num_rejects=0,
            counts={},
            config={},
            sources=[],
            rules={},
            code_version="benchmark",
        ),
    )
