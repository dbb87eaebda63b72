"""A precomputed volume's `info`, and CloudVolume's way to read it: by choice, or as a check."""

import json
import random
import time
from pathlib import Path

import numpy as np

from ingest.volume.geometry import Box
from ingest.volume.ranges.byte_ranges import Fetcher
from ingest.volume.ranges.chunk_codec import ATTEMPTS, READABLE, Image
from ingest.volume.sample_boxes import BoxByBox
from ingest.volume.scale import Layer, MissingDataError, scale_from_info
from ingest.volume.volume_info import VolumeInfo, parse_info
from shards.images.gray_window import GrayWindow


def fetch_info(path: str) -> VolumeInfo:
    """Return the `info` of the volume at `path`."""
    if "://" not in path and not Path(path).is_dir():
        raise ValueError(f"{path}: no volume there, no such folder; correct volume.path")
    answer = Fetcher(path).file("info")
    if answer is None:
        raise ValueError(f"{path}: no volume there (no `info`); correct volume.path in the config")
    return parse_info(bytes(answer[0]), where=f"{path}/info")


class UnreadableError(ValueError):
    """CloudVolume cannot read this volume at all, as it is installed here."""


class CloudVolumeReader(BoxByBox):
    """One scale, read box by box by CloudVolume's own way of finding voxels; a `Volume`."""

    def __init__(
        self,
        path: str,
        info: VolumeInfo,
        mip: int,
        *,
        layer: Layer = "image",
        window: GrayWindow | None = None,
    ) -> None:
        from cloudvolume import CloudVolume  # takes seconds, and most workers never need it
        from cloudvolume.datasource.precomputed.image import rx

        rx.print = lambda *_: None  # it prints what it also raises
        self.scale = scale_from_info(info, mip, where=path, layer=layer, window=window)
        self._path, self._window = path, window
        self._volume = CloudVolume(
            cloud_path(path),
            mip=mip,
            info=json.loads(info.text),
            bounded=True,
            fill_missing=layer == "segmentation",
            progress=False,
            parallel=1,
            cache=False,
            provenance={},
        )

    def read(self, box: Box) -> Image:
        """Return the voxels of `box` as (c, z, y, x); what is damaged is read again."""
        from cloudvolume.exceptions import EmptyVolumeException

        (z0, y0, x0), (z1, y1, x1) = box.start, box.stop
        for attempt in range(ATTEMPTS):
            try:
                cutout_xyzc = self._volume[x0:x1, y0:y1, z0:z1]
            except EmptyVolumeException:
                raise MissingDataError(
                    f"{self._path}: no data in {box}: a chunk is not stored"
                ) from None
            except (ImportError, NameError, NotImplementedError) as error:
                raise UnreadableError(
                    f"{self._path}: CloudVolume cannot read encoding {self.scale.encoding} here "
                    f"({error}); install what it names"
                    + (
                        ", or set volume.reader to ranged"
                        if self.scale.encoding in READABLE
                        else ""
                    )
                ) from None
            except Exception as error:  # noqa: BLE001 (a dozen decoders, each with its own)
                failure = " ".join(f"{type(error).__name__}: {error}".split())[:200]
                time.sleep(random.uniform(0, 0.1 * 2**attempt))
            else:
                voxels = np.ascontiguousarray(np.asarray(cutout_xyzc).transpose(3, 2, 1, 0))
                return voxels if self._window is None else self._window.to_gray(voxels)
        raise ValueError(
            f"{self._path}: {box} failed {ATTEMPTS} times, last with {failure}: a chunk there is "
            "damaged or cannot be reached; leave its samples out or read another mirror"
        )


def cloud_path(path: str) -> str:
    """Return a path as CloudVolume wants it; a bare one is a folder here."""
    return path if "://" in path else f"file://{path}"
