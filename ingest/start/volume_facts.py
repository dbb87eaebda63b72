"""What a volume is, and which resolution of positions puts them inside it and on tissue."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ingest.job.image_config import VolumeConfig
from ingest.start.table_facts import Points
from ingest.volume.files.image_folder import is_image
from ingest.volume.geometry import TripleNm, box_at, box_starts, inside, int_triple
from ingest.volume.open import load_scale, load_scales, open_volume
from ingest.volume.scale import NoVoxelSizeError, NoWindowError, Scale
from shards.contract.overlap import voxels_of

TIFF = (".tif", ".tiff")
PROBES, PROBE = 12, (1, 32, 32)  # boxes that are read, z, y, x
GOOD = 0.9  # of the best candidate's share inside
UNITS: tuple[TripleNm, ...] = (  # x, y, z
    *((1.0, 1.0, 1.0), (1000.0, 1000.0, 1000.0)),  # nm, µm
    *((4.0, 4.0, 40.0), (8.0, 8.0, 40.0)),  # CAVE's tables of MICrONS
)


@dataclass(frozen=True, slots=True)
class VolumeFacts:
    """A volume as a job states it, and its scales, the finest first."""

    config: VolumeConfig
    scales: tuple[Scale, ...]

    @property
    def lines(self) -> list[str]:
        """Each scale in words."""
        return [
            f"mip {mip}: {'×'.join(map(str, scale.grid.bounds.shape[::-1]))} voxels of "
            f"{'×'.join(f'{side:g}' for side in scale.voxel_size_nm[::-1])} nm from "
            f"{list(scale.grid.bounds.start[::-1])}, {scale.dtype}, {scale.encoding}"
            for mip, scale in enumerate(self.scales)
        ]

    @property
    def voxel_sizes_xyz(self) -> list[TripleNm]:
        """A voxel's x, y, z in nm, of each scale."""
        return [scale.voxel_size_nm[::-1] for scale in self.scales]


@dataclass(frozen=True, slots=True)
class Fit:
    """A resolution of positions, in nm along x, y, z, and how well it puts them into a volume."""

    resolution_nm: TripleNm
    inside: float  # part of the positions
    on_tissue: float  # part of those inside that were looked at, around which voxels differ

    @property
    def shown(self) -> str:
        """The resolution as a job has it."""
        return f"[{', '.join(f'{side:g}' for side in self.resolution_nm)}]"


def format_of(path: str, files: Sequence[str]) -> str | None:
    """Return `tiff` or `images` for files here that are such; None for other volumes.

    `files` are what a table calls its samples: a folder of images so called is no stack.
    """
    where = Path(path.removeprefix("file://"))
    if where.suffix.lower() in TIFF and where.is_file():
        return "tiff"
    if not where.is_dir() or (where / "info").exists():
        return None
    if any((where / name).is_file() for name in files[:PROBES]):
        return "images"
    here = [file for file in where.iterdir() if is_image(file)]
    stems = {file.stem for file in here}
    if here and (any(name in stems for name in files) or here[0].suffix.lower() not in TIFF):
        return "images"
    if here:
        return "tiff"
    is_tree = any(is_image(file) for file in where.glob("*/*/*"))
    return "images" if is_tree else None


def states_voxel_size(path: str) -> bool:
    """Return whether a volume says itself how large its voxels are."""
    try:
        load_scale(VolumeConfig(path=path), 0, saved=False)
    except NoVoxelSizeError:
        return False
    except NoWindowError:
        return True
    return True


def with_window(config: VolumeConfig) -> VolumeConfig:
    """Return a volume with the window that a look at it proposes, where its voxels need one."""
    try:
        load_scale(config, 0, saved=False)
    except NoWindowError as error:
        return replace(config, intensity=error.proposed)
    return config


def look_at_volume(config: VolumeConfig) -> VolumeFacts:
    """Return what a volume says of itself."""
    scales = load_scales(config, saved=False)
    return VolumeFacts(config, tuple(scales[mip] for mip in sorted(scales)))


def fits(facts: VolumeFacts, points_xyz: Points, likely: Sequence[TripleNm]) -> list[Fit]:
    """Return candidates for the positions' resolution that put most inside, the best first.

    Candidates that put about as many inside as any do are told apart by tissue, then by `likely`,
    then by size: at too small a resolution all positions lie in a corner.
    """
    points = points_xyz[np.isfinite(points_xyz).all(axis=1)]
    candidates: dict[TripleNm, None] = dict.fromkeys((*likely, *facts.voxel_sizes_xyz, *UNITS))
    scale = facts.scales[0]
    shares = {}
    for sides in candidates:
        voxels = voxels_of((points * sides)[:, ::-1], scale.voxel_size_nm)
        if share := float(inside(voxels, (1, 1, 1), scale.grid.bounds).mean()):
            shares[sides] = share
    best = max(shares.values(), default=0.0)
    found = [
        Fit(sides, share, _on_tissue(facts, points * sides))
        for sides, share in shares.items()
        if share >= GOOD * best
    ]
    return sorted(
        found,
        key=lambda fit: (
            -round(fit.on_tissue, 1),
            fit.resolution_nm not in likely,
            -float(np.prod(fit.resolution_nm)),
        ),
    )


def _on_tissue(facts: VolumeFacts, points_nm: Points) -> float:
    """Return around which part of some positions, x, y, z, the voxels are not all one value."""
    scale = facts.scales[0]
    size = int_triple(np.minimum(PROBE, scale.grid.bounds.shape))
    voxels = voxels_of(points_nm[:, ::-1], scale.voxel_size_nm)
    voxels = voxels[inside(voxels, size, scale.grid.bounds)]
    chosen = voxels[np.unique(np.linspace(0, max(len(voxels) - 1, 0), PROBES).astype(int))]
    if not len(chosen):
        return 0.0
    boxes = [box_at(start, size) for start in box_starts(chosen, size)]
    with closing(open_volume(facts.config, 0, concurrency=8)) as volume:
        images = list(volume.read_many(boxes))
    on_tissue = [image is not None and bool(np.ptp(image)) for image in images]
    return sum(on_tissue) / len(on_tissue)
