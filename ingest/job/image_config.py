"""The parts of a job that say what its images are: where from, which channels, how large, how good.

Sizes and voxel sizes are z, y, x here, and x, y, z in a job's file: messages say the latter.
"""

import re
from dataclasses import dataclass, field
from typing import Literal

from ingest.job.axes import NmZyx, SizeZyx
from shards.contract.documents import document
from shards.contract.schema import Codec, size_zyx

VIEW_NAME = "(patch|cube)(_[a-z0-9]+)?"
Center = Literal["pre", "ctr", "post"]
Channel = Literal["em", "pre", "post"]


@document
@dataclass(frozen=True, kw_only=True, slots=True)
class VolumeConfig:
    """The images: format, place and scale.

    `precomputed`: a CloudVolume path (file://, http(s)://, s3://, gs:// or a folder).
    `tiff`: one file of sections, or a folder of section files in the order of their numbers.
    `images`: no volume, but a folder of images that exist already, a TIFF or PNG file a sample.
    """

    path: str
    format: Literal["precomputed", "tiff", "images"] = "precomputed"
    voxel_size_nm: NmZyx | None = None  # not of precomputed
    missing: Literal["error", "blank"] = "error"  # sections of a folder that are not there
    info: str | None = None  # a saved `info` to plan from when the volume cannot be reached
    reader: Literal["ranged", "cloudvolume"] = "ranged"  # the other: slow, knows all encodings
    segmentation: str | None = None  # precomputed, of the tables' version; for links to places

    def __post_init__(self) -> None:
        if self.missing != "error" and self.format != "tiff":
            raise ValueError("missing is for folders of TIFF sections; remove it")
        if self.format == "precomputed":
            if self.voxel_size_nm is not None:
                raise ValueError("voxel_size_nm comes from the volume's own info; remove it")
            return
        if self.voxel_size_nm is None:
            raise ValueError("image files have no voxel size; add `voxel_size_nm: [x, y, z]`")
        if self.reader != "ranged" or self.info is not None or self.segmentation is not None:
            raise ValueError(
                "reader, info and segmentation are for precomputed volumes; remove them"
            )


@document
@dataclass(frozen=True, kw_only=True, slots=True)
class ViewConfig:
    """One image of a sample: two sides for a patch, three for a cube, in voxels of one scale.

    `voxel_size_nm`, where stated, must be what the volume's info says of `mip`.
    """

    size: SizeZyx
    mip: int = 0
    voxel_size_nm: NmZyx | None = None

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
    """Views cut out around each synapse, each of its own scale and size.

    `channels`: `pre` and `post` are masks of the two partners, 255 inside, out of
    `volume.segmentation` by the table's root ids.
    `codec`: compresses the store's images, `zstd` or `blosc-lz4`. Masks shrink a hundredfold, EM
    hardly at all.
    """

    center: Center = "pre"
    views: dict[str, ViewConfig] = field(default_factory=_default_views)
    channels: tuple[Channel, ...] = ("em",)
    codec: Codec = "none"

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

    max_zero_fraction: float = 0.5  # more voxels of value 0 than this: rejected
    max_reject_fraction: float = 0.2  # more samples rejected than this: the job fails
    # Flagged only, never left out. Aligned MICrONS sections measure 1 to 4 px and 0.8 to 0.9; one
    # section blurred by 2 px measures below 0.5.
    min_contrast: float = 8.0  # standard deviation of grey values
    max_shift_px: float = 5.0  # between neighbouring sections
    min_focus: float = 0.55  # of the blurriest section against the median one

    def __post_init__(self) -> None:
        if self.max_shift_px <= 0:
            raise ValueError(f"max_shift_px must be above 0, got {self.max_shift_px}")
