"""The data contract: what a sample store and a shard set hold, under one schema version.

Sample store (a folder, written by `ingest`):
    samples.zarr      a zarr v3 group with arrays `patch` (n, c, y, x), `cube` (n, c, z, y, x), and
                      such as `cube_16nm` where a job cuts several
    samples.parquet   a row a sample, in the columns of `SAMPLE_COLUMNS`
    rejects.parquet   what was left out, and why
    dataset.json      a `Dataset`; written last, so that its presence means a complete store

Shard set (a URL, written by `shards pack`), for the splits train, val and test:
    <split>-000000.tar              plain WebDataset: KEY.image.npy, KEY.cls, KEY.json
    <split>-000000.index.parquet    a row a sample, in the columns of `INDEX_COLUMNS`
    manifest.json                   a `Manifest`; written last
"""

import math
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa

SCHEMA_VERSION = 1
SPLITS = ("train", "val", "test")
# What others call them.
SPLIT_NAMES = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
View = Literal["patch", "cube"]
VIEWS: tuple[View, ...] = get_args(View)
UNLABELLED = -1

# Who a sample is. `neuron_id` is the presynaptic unit that splits and bootstraps go by: the
# nucleus id where it is known, else the presynaptic root id. Ids are 0 where unknown.
IDENTITY_COLUMNS = {
    "key": pa.string(),  # unique in the data set; letters, digits, "_" and "-" only
    "synapse_id": pa.int64(),
    "neuron_id": pa.int64(),
    "pre_root_id": pa.int64(),
    "post_root_id": pa.int64(),
    "nucleus_id": pa.int64(),
    "center_x_nm": pa.float64(),  # centre of the image, in the volume's own frame
    "center_y_nm": pa.float64(),
    "center_z_nm": pa.float64(),
    "size": pa.float64(),  # of the synapse, as its table gives it; NaN where unknown
    "label": pa.int16(),  # position in class_names, or UNLABELLED
    "label_tier": pa.string(),
    "label_source": pa.string(),
}

SAMPLE_COLUMNS = {
    **IDENTITY_COLUMNS,
    "split": pa.string(),
    "row": pa.int64(),  # first index into the arrays of samples.zarr
    "block": pa.int64(),
    "qc_flags": pa.string(),  # comma-separated, empty when nothing was noticed
}

INDEX_COLUMNS = {
    **IDENTITY_COLUMNS,
    "qc_flags": pa.string(),
    "offset": pa.int64(),  # of the image's voxels in the tar, behind the npy header
    "length": pa.int64(),  # of the voxels, bytes: C order, as the manifest's shape and dtype say;
    # of the file, where the manifest's `pack` says `encoded`
    "crc32c": pa.uint32(),  # of these bytes
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageSpec:
    """What one image is: axes (c, y, x) for a patch and (c, z, y, x) for a cube."""

    shape: tuple[int, ...]
    dtype: str
    channels: tuple[str, ...]
    voxel_size_nm: tuple[float, float, float]  # z, y, x

    def __post_init__(self) -> None:
        if len(self.shape) not in (3, 4) or min(self.shape) < 1:
            raise ValueError(f"image shape must be (c, y, x) or (c, z, y, x), got {self.shape}")
        if self.shape[0] != len(self.channels):
            raise ValueError(f"{self.shape[0]} channels but {len(self.channels)} names")

    @property
    def view(self) -> View:
        """`patch` for 2D images, `cube` for 3D ones."""
        return "patch" if len(self.shape) == 3 else "cube"

    @property
    def nbytes(self) -> int:
        """Bytes of an image's voxels."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    @property
    def axes(self) -> str:
        """The axes' letters, as in `shape`."""
        return "cyx" if self.view == "patch" else "czyx"


@dataclass(frozen=True, kw_only=True, slots=True)
class Dataset:
    """`dataset.json`: what a sample store is and where it came from."""

    schema_version: int
    class_names: tuple[str, ...]
    views: dict[str, ImageSpec]
    num_samples: int
    num_rejects: int
    counts: dict[str, dict[str, int]]  # split -> class name -> samples
    config: dict[str, Any]  # the resolved job, without secrets
    sources: list[dict[str, Any]]  # what was read: path or URL, sha256 or version, rows
    rules: dict[str, Any]  # how labels and splits were made, in numbers
    code_version: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardInfo:
    """One tar and its index."""

    name: str
    bytes: int
    sha256: str
    index_name: str
    index_sha256: str
    num_samples: int
    class_counts: dict[str, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitInfo:
    """The shards of one split, in order."""

    num_samples: int
    num_neurons: int
    class_counts: dict[str, int]
    shards: tuple[ShardInfo, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """`manifest.json`: a whole shard set. `mean` and `std` are the training split's, 0 to 255."""

    schema_version: int
    class_names: tuple[str, ...]
    image: ImageSpec
    splits: dict[str, SplitInfo]
    mean: tuple[float, ...]  # a channel
    std: tuple[float, ...]
    pack: dict[str, Any]  # seed, samples a shard, code version
    dataset: dict[str, Any]  # config, sources and rules of the sample store


def check_schema_version(found: object, *, where: str) -> None:
    """Refuse a document of a schema version that this code does not know."""
    if found != SCHEMA_VERSION:
        raise ValueError(
            f"{where}: schema version {found!r} is unknown, this code reads version "
            f"{SCHEMA_VERSION}; read it with the synshards version that wrote it, or write it again"
        )


def manifest_from_json(value: dict[str, Any], *, where: str) -> Manifest:
    """Return the manifest that `value` holds; unknown versions and missing fields are errors."""
    check_schema_version(value.get("schema_version"), where=where)
    _require(value, Manifest, where=where)
    return Manifest(
        **{
            **value,
            "class_names": tuple(value["class_names"]),
            "image": image_spec_from_json(value["image"], where=where),
            "splits": {k: _split_from_json(v, where=where) for k, v in value["splits"].items()},
            "mean": tuple(value["mean"]),
            "std": tuple(value["std"]),
        }
    )


def dataset_from_json(value: dict[str, Any], *, where: str) -> Dataset:
    """Return the data set that `value` holds; unknown versions and missing fields are errors."""
    check_schema_version(value.get("schema_version"), where=where)
    _require(value, Dataset, where=where)
    return Dataset(
        **{
            **value,
            "class_names": tuple(value["class_names"]),
            "views": {k: image_spec_from_json(v, where=where) for k, v in value["views"].items()},
        }
    )


def image_spec_from_json(value: dict[str, Any], *, where: str) -> ImageSpec:
    """Return the image specification that `value` holds."""
    _require(value, ImageSpec, where=where)
    z, y, x = value["voxel_size_nm"]
    return ImageSpec(
        shape=tuple(value["shape"]),
        dtype=value["dtype"],
        channels=tuple(value["channels"]),
        voxel_size_nm=(z, y, x),
    )


def to_json(record: Dataset | Manifest) -> dict[str, Any]:
    """Return a record as plain JSON values."""
    return asdict(record)


def _split_from_json(value: dict[str, Any], *, where: str) -> SplitInfo:
    _require(value, SplitInfo, where=where)
    for shard in value["shards"]:
        _require(shard, ShardInfo, where=where)
    return SplitInfo(**{**value, "shards": tuple(ShardInfo(**shard) for shard in value["shards"])})


def _require(value: dict[str, Any], record: type, *, where: str) -> None:
    known = {field.name for field in fields(record)}
    if missing := sorted(known - value.keys()):
        raise ValueError(f"{where}: {record.__name__} lacks {', '.join(missing)}; write it again")
    if unknown := sorted(value.keys() - known):
        raise ValueError(f"{where}: {record.__name__} has unknown {', '.join(unknown)}")
