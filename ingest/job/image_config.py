"""The parts of a job that say what its images are: where from, which channels, how large, how good.

Sizes and voxel sizes are z, y, x here, and x, y, z in a job's file: messages say the latter.
"""

import re
from dataclasses import dataclass, field
from typing import Literal

from ingest.job.axes import NmZyx, SizeZyx
from shards.contract.documents import document
from shards.contract.schema import Codec, size_zyx
from shards.images.gray_window import GrayWindow

VolumeFormat = Literal["precomputed", "zarr", "n5", "hdf5", "tiff", "images"]
VIEW_NAME = "(patch|cube)(_[a-z0-9]+)?"
Center = Literal["pre", "ctr", "post"]
Channel = Literal["em", "pre", "post"]


@document
@dataclass(frozen=True, kw_only=True, slots=True)
class VolumeConfig:
    """The images: place, format and scale."""

    path: str
    """a folder or file here, or file://, http(s)://, s3:// or gs://; it may go on inside of a
    container of arrays, as in `sample_A.hdf/volumes/raw`. Example: `gs://lab/volume/em`."""
    format: VolumeFormat | None = None
    """recognized where it is not stated, but for folders of images. `precomputed`: CloudVolume's;
    `zarr`: OME-Zarr 0.4 and 0.5, zarr v2 and v3; `n5`; `hdf5`: CREMI's and others; `tiff`: one
    file of sections, or a folder of section files in the order of their numbers; `images`: a
    folder of images that exist already, one per sample. Example: `tiff`."""
    voxel_size_nm: NmZyx | None = None
    """x, y, z of what does not state it, as TIFF and images. Example: `[8, 8, 40]`."""
    intensity: tuple[float, float] | None = None
    """of other integers than uint8, the values that become black and white; those between become
    gray in proportion. Example: `[1200, 31000]`."""
    missing: Literal["error", "blank"] = "error"
    """what a section that is missing in a folder is; `blank`: missing data. Example: `blank`."""
    info: str | None = None
    """a saved `info`, to plan from where the volume cannot be reached. Example: `em_info.json`."""
    reader: Literal["ranged", "cloudvolume"] = "ranged"
    """`cloudvolume` is slow and knows all encodings of precomputed. Example: `cloudvolume`."""
    segmentation: str | None = None
    """a segmentation of the tables' version, for masks and links to places, in any format but
    TIFF. Example: `gs://lab/volume/seg`."""

    def __post_init__(self) -> None:
        if self.missing != "error" and self.format not in ("tiff", None):
            raise ValueError("missing is for folders of TIFF sections; remove it")
        if self.intensity is not None:
            GrayWindow(low=self.intensity[0], high=self.intensity[1])
        if self.format in ("precomputed", None):
            if self.voxel_size_nm is not None and self.format is not None:
                raise ValueError("voxel_size_nm comes from the volume's own info; remove it")
            return
        if self.voxel_size_nm is None and self.format in ("tiff", "images"):
            raise ValueError("image files have no voxel size; add `voxel_size_nm: [x, y, z]`")
        if self.reader != "ranged" or self.info is not None:
            raise ValueError("reader and info are for precomputed volumes; remove them")
        if self.format == "images" and (self.segmentation or self.intensity):
            raise ValueError("segmentation and intensity are for volumes; remove them")

    @property
    def window(self) -> GrayWindow | None:
        """The window of `intensity`."""
        if self.intensity is None:
            return None
        return GrayWindow(low=self.intensity[0], high=self.intensity[1])


@document
@dataclass(frozen=True, kw_only=True, slots=True)
class ViewConfig:
    """One image of a sample."""

    size: SizeZyx
    """voxels along x, y of a patch, along x, y, z of a cube. Example: `[128, 128, 32]`."""
    mip: int = 0
    """the volume's scale, 0 the finest. Example: `1`."""
    voxel_size_nm: NmZyx | None = None
    """x, y, z, to be on the safe side: refused unless the volume says the same of `mip`. Example:
    `[8, 8, 40]`."""

    def __post_init__(self) -> None:
        if not self.size or min(self.size) < 1 or self.mip < 0:
            raise ValueError(f"size must be positive and mip 0 or more, got {self}")

    @property
    def size_zyx(self) -> tuple[int, int, int]:
        """Voxels read: a patch is one section."""
        return size_zyx(self.size)


def _default_views() -> dict[str, ViewConfig]:
    return {"patch": ViewConfig(size=(256, 256)), "cube": ViewConfig(size=(32, 128, 128))}


@document
@dataclass(frozen=True, kw_only=True, slots=True)
class SampleConfig:
    """Views cut out around each synapse, each of its own scale and size."""

    center: Center = "pre"
    """the position that images are centered on. Example: `ctr`."""
    views: dict[str, ViewConfig] = field(default_factory=_default_views)
    """`patch` (2D), `cube` (3D), or either with a word behind, as cube_16nm. Example:
    `{cube: {size: [128, 128, 32]}}`."""
    channels: tuple[Channel, ...] = ("em",)
    """`pre` and `post` are masks of the two partners, 255 inside, out of volume.segmentation by the
    table's root ids. Example: `[em, pre, post]`."""
    codec: Codec = "none"
    """compresses the store's images: masks shrink a hundredfold, EM hardly at all. Example:
    `zstd`."""

    def __post_init__(self) -> None:
        if self.channels[:1] != ("em",) or len(set(self.channels)) != len(self.channels):
            raise ValueError(f"channels must be em, then pre, post or both, got {self.channels}")
        if not self.views or not all(re.fullmatch(VIEW_NAME, name) for name in self.views):
            raise ValueError(
                "views must be patch, cube, or either with a word behind, as cube_16nm; got "
                + ", ".join(self.views)
            )
        for name, view in self.views.items():
            axes = "x, y" if name.startswith("patch") else "x, y, z"
            if len(view.size) != len(axes.split(", ")):
                raise ValueError(f"size of {name} must be [{axes}], got {list(view.size)}")

    def image_shape(self, view: str) -> tuple[int, ...]:
        """Return the shape of a view's images, channel first."""
        return (len(self.channels), *self.views[view].size)


@document
@dataclass(frozen=True, kw_only=True, slots=True)
class QcConfig:
    """Limits of image quality, and of the fraction of rejects."""

    max_zero_fraction: float = 0.5
    """an image with a larger part of black (0) is rejected. Example: `0.9`."""
    max_reject_fraction: float = 0.2
    """the job fails if a larger part of the samples is rejected, or leaves the volume. Example:
    `0.3`."""
    # Flagged only, never left out. Aligned MICrONS sections measure 1 to 4 px and 0.8 to 0.9; one
    # section blurred by 2 px measures below 0.5.
    min_contrast: float = 8.0
    """standard deviation of gray values; flagged below. Example: `5`."""
    max_shift_px: float = 5.0
    """shift between neighboring sections; flagged above. Example: `8`."""
    min_focus: float = 0.55
    """sharpness of the blurriest section against the median one; flagged below. Example: `0.4`."""

    def __post_init__(self) -> None:
        if self.max_shift_px <= 0:
            raise ValueError(f"max_shift_px must be above 0, got {self.max_shift_px}")
