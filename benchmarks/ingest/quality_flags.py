"""How well the quality measurements find the sections that a phantom has shifted or left out.

Usage: python benchmarks/ingest/quality_flags.py PHANTOM DATASET

DATASET is the phantom's, ingested. A cube has a planted shift where two successive sections that it
holds, missing ones left out, are moved against each other by more than 3 voxels; `shifted` and
`missing_sections` are compared with what phantom.json says of the cube's sections; the latter not
in cubes that hold a section which is missing in a part of the volume.
"""

import argparse
import json
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import zarr

from ingest.job.image_config import QcConfig
from ingest.qc.measure import FLAGS, Quality, flags, measure

SECTION_NM = 40.0
LEAST_SHIFT_VX = 3.0  # what a flag is asked to find
ROUNDS = 3


@dataclass(frozen=True)
class Planted:
    """What a phantom's sections have, by their number from the volume's first."""

    offset: int
    shifts: dict[int, np.ndarray]
    missing: set[int]
    partly: set[int]  # missing over a part of the volume only

    def shift_vx(self, sections: range) -> float:
        """Return the largest shift between successive sections that are there."""
        there = [z for z in sections if z not in self.missing]
        places = [self.shifts.get(z, np.zeros(2)) for z in there]
        return max((float(np.hypot(*(b - a))) for a, b in pairwise(places)), default=0.0)

    def lacks(self, sections: range) -> bool:
        """Whether a section is missing."""
        return not self.missing.isdisjoint(sections)

    def is_told(self, sections: range) -> bool:
        """Whether phantom.json alone tells which sections are missing at any place."""
        return self.partly.isdisjoint(sections)


def planted(phantom: Path) -> Planted:
    """Return what a phantom says of its sections."""
    document: dict[str, Any] = json.loads((phantom / "phantom.json").read_text())
    shifts = {int(z): np.array(yx) for z, yx in document["shifted_sections_yx"].items()}
    missing = document["missing_sections"].items()
    whole, partly = ({int(z) for z, share in missing if (share == 1) == is_1} for is_1 in (1, 0))
    return Planted(document["voxel_offset_xyz"][2], shifts, whole, partly)


def row(name: str, truth: np.ndarray, found: np.ndarray) -> str:
    """Return a line of the table."""
    hits = int((truth & found).sum())
    return (
        f"| {name} | {truth.sum()} | {found.sum()} | {hits / max(1, found.sum()):.3f} | "
        f"{hits / max(1, truth.sum()):.3f} |"
    )


def main() -> None:
    """Measure every cube, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("phantom", type=Path)
    parser.add_argument("dataset", type=Path)
    options = parser.parse_args()
    truth = planted(options.phantom)
    table = pd.read_parquet(options.dataset / "samples.parquet")
    cubes = zarr.open_array(options.dataset / "samples.zarr" / "cube", mode="r")
    images = [np.asarray(cubes[int(place)]) for place in table["row"]]
    depth = images[0].shape[1]
    first = np.round(table["center_z_nm"] / SECTION_NM - truth.offset).astype(int) - depth // 2
    held = [range(z, z + depth) for z in first]
    seconds, measured = [], list[Quality]()
    for _ in range(ROUNDS):
        began = time.process_time()
        measured = [measure(image) for image in images]
        seconds.append(time.process_time() - began)
    named = [flags(one, QcConfig()) for one in measured]
    assert {"shifted", "missing_sections"} <= set(FLAGS)
    print("| flag | cubes that have it | flagged | precision | recall |\n|---|---|---|---|---|")
    shift = np.array([truth.shift_vx(sections) for sections in held])
    is_shifted = np.array(["shifted" in names for names in named])
    print(row("shifted", shift > LEAST_SHIFT_VX, is_shifted))
    told = np.array([truth.is_told(sections) for sections in held])
    gone = np.array([truth.lacks(sections) for sections in held])
    is_gone = np.array(["missing_sections" in names for names in named])
    print(row("missing_sections", gone[told], is_gone[told]))
    error = np.abs(np.array([one.shift_px for one in measured]) - shift)[shift > LEAST_SHIFT_VX]
    print(f"\nerror of the shift: median {np.median(error):.2f} voxels", end="; ")
    print(f"processor time: {1e3 * min(seconds) / len(images):.2f} ms a cube of {images[0].shape}")


if __name__ == "__main__":
    main()
