"""The phantom's flat segmentation: the two partners of each synapse, under their root ids.

A voxel of a bouton belongs to the nearest bouton, one of a postsynaptic side to the nearest of
those; everything else to nobody. Sections that moved or were lost did so here too.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.spatial import cKDTree

from ingest.phantom.fields import POST, PRE, VOXEL_NM, Owners, Points, Triple
from ingest.phantom.phantom_config import CHUNK
from ingest.phantom.phantom_tables import POSITION_NM
from ingest.phantom.phantom_volume import new_volume
from ingest.phantom.scene import Synapses
from shards.cli.progress import progress
from shards.storage.atomic import atomic_write

Ids = npt.NDArray[np.uint64]

MASKS_YAML = (
    ("  path: em\n", "  path: em\n  segmentation: seg\n"),
    (
        "  center: ctr\n",
        "  center: ctr\n  channels: [em, pre, post]\n",
    ),
)


@dataclass(frozen=True, slots=True)
class Partners:
    """The middles (n, 3) of what owns a color, in nm, and the root id of each."""

    color: int
    nearest: cKDTree
    roots: Ids


def partners(synapses: Synapses, table: pd.DataFrame, offset_zyx: Triple) -> list[Partners]:
    """Return both sides of all synapses; their root ids are in the row at the same cleft."""
    columns = [f"ctr_pt_position_{axis}" for axis in "zyx"]
    clefts = table[columns].to_numpy() * POSITION_NM - np.array(offset_zyx) * VOXEL_NM
    _, row = cKDTree(clefts).query(synapses.center_nm)
    assert len(set(row.tolist())) == len(table), "each synapse has a row of its own"
    sides: list[tuple[int, str, Points]] = [
        (PRE, "pre", synapses.bouton_nm),
        (POST, "post", synapses.spine_nm),
    ]
    return [
        Partners(color, cKDTree(middle), table[f"{name}_pt_root_id"].to_numpy(np.uint64)[row])
        for color, name, middle in sides
    ]


def segment(owners: Owners, sides: list[Partners], section: int) -> Ids:
    """Return the root id at each pixel (y, x) of a section."""
    owner = owners.plane(section + 0.5)
    ids = np.zeros(owner.shape, np.uint64)
    for side in sides:
        y, x = np.nonzero(owner == side.color)
        height = np.full(len(y), section)
        points = (np.stack([height, y, x], axis=1) + 0.5) * VOXEL_NM
        ids[y, x] = side.roots[side.nearest.query(points)[1]]
    return ids


def write_segmentation(
    out: Path,
    size_xyz: Triple,
    offset_xyz: Triple,
    draw: Callable[[int], Ids],
    ingest_yaml: str,
) -> None:
    """Write `out`/seg, mip 0 of 8×8×40 nm, and `out`/ingest_masks.yaml; `draw` gives a section."""
    shutil.rmtree(out / "seg", ignore_errors=True)
    volume = new_volume(
        out / "seg",
        size_xyz,
        offset_xyz,
        layer_type="segmentation",
        data_type="uint64",
        encoding="compressed_segmentation",
    )
    volume.commit_info()
    with progress("segmentation", size_xyz[2]) as advance:
        for low in range(0, size_xyz[2], CHUNK[2]):
            slab = np.stack([draw(section) for section in range(low, low + CHUNK[2])])
            start = low + offset_xyz[2]
            volume[:, :, start : start + CHUNK[2]] = slab.transpose(2, 1, 0)[..., None]
            advance(CHUNK[2])
    for old, new in MASKS_YAML:
        assert old in ingest_yaml
        ingest_yaml = ingest_yaml.replace(old, new)
    with atomic_write(out / "ingest_masks.yaml") as file:
        file.write(ingest_yaml.encode())
