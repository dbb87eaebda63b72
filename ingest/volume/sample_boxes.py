"""From samples to boxes, and from cutouts to images."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from itertools import repeat
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import pandas as pd

from ingest.job.image_config import ViewConfig
from ingest.volume.geometry import Box, Floats, Ints, TripleNm, box_at, box_starts
from ingest.volume.scale import MissingDataError
from shards.contract.overlap import voxels_of

Image = npt.NDArray[np.uint8]


def points_nm(samples: pd.DataFrame) -> Floats:
    """Return the centers (n, 3) of samples, z, y, x in nm."""
    columns = ["center_z_nm", "center_y_nm", "center_x_nm"]
    return np.asarray(samples[columns].to_numpy(np.float64))


def centers_vx(samples: pd.DataFrame, voxel_size_nm: TripleNm) -> Ints:
    """Return the voxels (n, 3), z, y, x, that the samples' centers lie in."""
    return voxels_of(points_nm(samples), voxel_size_nm)


def boxes_of(samples: pd.DataFrame, view: ViewConfig, voxel_size_nm: TripleNm) -> list[Box]:
    """Return the box that each sample's image of this view covers."""
    starts = box_starts(centers_vx(samples, voxel_size_nm), view.size_zyx)
    return [box_at(start, view.size_zyx) for start in starts]


class BoxByBox(ABC):
    """A `Volume` that reads one box after the other, and makes no requests that it could count."""

    counts: Mapping[str, int] = MappingProxyType({})

    @abstractmethod
    def read(self, box: Box) -> Image:
        """Return the voxels of `box` as (c, z, y, x); `MissingDataError` where there are none."""

    def read_many(
        self, boxes: Iterable[Box], images: Iterable[Image] | None = None
    ) -> Iterator[Image | None]:
        """Yield the voxels of each box, in order; None where the volume holds none.

        With `images`, an array per box, the voxels are written there as well.
        """
        targets: Iterable[Image | None] = repeat(None) if images is None else images
        for box, image in zip(boxes, targets, strict=False):
            try:
                cutout = self.read(box)
            except MissingDataError:
                yield None
                continue
            if image is not None:
                assert cutout.shape == image.shape, (cutout.shape, image.shape)
                image[...] = cutout
            yield cutout

    def close(self) -> None:  # noqa: B027 (a reader without open files has nothing to do)
        """Close open files."""
