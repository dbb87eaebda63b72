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

The folds of a cross-validation are K sets over the same tars in one folder:
    fold<j>-000000.tar                     the samples that fold j tests
    fold<j>-000000.fold<i>.index.parquet   of fold i; less training images that overlap others
    manifest.fold<i>.json                  a `Manifest`
"""

import math
import re
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import pyarrow as pa
from pydantic import ConfigDict, JsonValue, with_config

from shards.contract.documents import document, parse_json
from shards.images.limits import IMAGE_VARIABLE, max_image_bytes

SCHEMA_VERSION = 1
SPLITS = ("train", "val", "test")
# What others call them.
SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
View = Literal["patch", "cube"]
VIEWS: tuple[View, ...] = get_args(View)
Codec = Literal["none", "zstd", "blosc-lz4"]  # of the images in a sample store
UNLABELLED = -1
MANIFEST, TAR, INDEX = "manifest.json", ".tar", ".index.parquet"
SHA256 = re.compile("[0-9a-f]{64}")
MAX_NAME_BYTES = 200  # leaves room for a temporary file's name
MANIFESTS = re.compile(r"manifest(\.fold\d+)?\.json")
MIN_SAMPLE_BYTES = 1024  # a tar's header and a block of content

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

# Only where ids are names: the table's own for `synapse_id` and `pre_root_id`.
NAME_COLUMNS = {"synapse_name": pa.string(), "neuron_name": pa.string()}

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


def with_names(
    columns: Mapping[str, pa.DataType], present: Container[object]
) -> dict[str, pa.DataType]:
    """Return columns, and behind them those of `NAME_COLUMNS` that are present."""
    return {**columns, **{name: kind for name, kind in NAME_COLUMNS.items() if name in present}}


def size_zyx(size: Sequence[int]) -> tuple[int, int, int]:
    """Return a patch's (y, x) or a cube's (z, y, x) as z, y, x; a patch is one section."""
    z, y, x = size if len(size) == 3 else (1, *size)
    return z, y, x


@document
@dataclass(frozen=True, kw_only=True, slots=True)
class ImageSpec:
    """Shape and type of one image: (c, y, x) for a patch and (c, z, y, x) for a cube."""

    shape: tuple[int, ...]
    dtype: str
    channels: tuple[str, ...]
    voxel_size_nm: tuple[float, float, float] | None  # z, y, x; None where unknown

    def __post_init__(self) -> None:
        if len(self.shape) not in (3, 4) or min(self.shape) < 1:
            raise ValueError(f"image shape must be (c, y, x) or (c, z, y, x), got {self.shape}")
        if self.shape[0] != len(self.channels):
            raise ValueError(f"{self.shape[0]} channels but {len(self.channels)} names")
        if self.voxel_size_nm is not None and min(self.voxel_size_nm) <= 0:
            raise ValueError(f"voxel sizes must be above 0 nm, got {self.voxel_size_nm}")
        if self.dtype != "uint8":
            raise ValueError(f"images are uint8, got dtype {self.dtype!r}")
        if self.nbytes > (limit := max_image_bytes()):
            raise ValueError(
                f"images of shape {self.shape} have more than the {limit} bytes that one image may "
                f"have; if that is right, raise {IMAGE_VARIABLE}"
            )

    @property
    def view(self) -> View:
        """`patch` for 2D images, `cube` for 3D ones."""
        return "patch" if len(self.shape) == 3 else "cube"

    @property
    def size_nm(self) -> tuple[float, float, float]:
        """A voxel's z, y, x of images whose voxel size is known, as in every sample store."""
        assert self.voxel_size_nm is not None
        return self.voxel_size_nm

    @property
    def stretch(self) -> float:
        """Ratio of a voxel's size along z to that along x; 1 where it is unknown."""
        return 1.0 if self.voxel_size_nm is None else self.voxel_size_nm[0] / self.voxel_size_nm[2]

    @property
    def voxels(self) -> str:
        """A voxel's size in words, as `8 x 8 x 40 nm (x, y, z)`."""
        if self.voxel_size_nm is None:
            return "of unknown size"
        return " x ".join(f"{side:g}" for side in self.voxel_size_nm[::-1]) + " nm (x, y, z)"

    @property
    def nbytes(self) -> int:
        """Bytes of an image's voxels."""
        return math.prod(self.shape)

    @property
    def axes(self) -> str:
        """The axes' letters, as in `shape`."""
        return "cyx" if self.view == "patch" else "czyx"


@document
@dataclass(frozen=True, kw_only=True, slots=True)
class Dataset:
    """`dataset.json`: what a sample store is and where it came from.

    `files` has the SHA-256 of the store's tables and zarr metadata, by path; empty in stores that
    do not say. Voxels carry their own checksums.
    """

    schema_version: int
    class_names: tuple[str, ...]
    views: dict[str, ImageSpec]
    num_samples: int
    num_rejects: int
    counts: dict[str, dict[str, int]]  # split -> class name -> samples
    config: dict[str, JsonValue]  # the resolved job, without secrets
    sources: list[dict[str, JsonValue]]  # what was read: path or URL, sha256 or version, rows
    rules: dict[str, JsonValue]  # how labels and splits were made, in numbers
    code_version: str
    files: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if unknown := [name for name, view in self.views.items() if view.voxel_size_nm is None]:
            raise ValueError(f"the voxel size of view {unknown[0]} is missing")


@document
@dataclass(frozen=True, kw_only=True, slots=True)
class ShardInfo:
    """One tar and its index: plain file names beside the manifest, SHA-256 in hexadecimal."""

    name: str
    bytes: int
    sha256: str
    index_name: str
    index_sha256: str
    num_samples: int
    class_counts: dict[str, int]

    def __post_init__(self) -> None:
        check_file_name(self.name, TAR)
        check_file_name(self.index_name, INDEX)
        for name in ("sha256", "index_sha256"):
            if not SHA256.fullmatch(getattr(self, name)):
                raise ValueError(f"{name} is {getattr(self, name)[:80]!r}, expected 64 hex digits")
        if not 0 <= self.num_samples * MIN_SAMPLE_BYTES <= self.bytes < 2**62:
            raise ValueError(f"{self.num_samples} samples cannot lie in {self.bytes} bytes")
        if sum(self.class_counts.values()) != self.num_samples:
            raise ValueError(
                f"the classes of {self.name} do not add up to {self.num_samples} samples"
            )


@document
@dataclass(frozen=True, kw_only=True, slots=True)
class SplitInfo:
    """The shards of one split, in order."""

    num_samples: int
    num_neurons: int
    class_counts: dict[str, int]
    shards: tuple[ShardInfo, ...]

    def __post_init__(self) -> None:
        if sum(shard.num_samples for shard in self.shards) != self.num_samples:
            raise ValueError(f"the shards do not add up to {self.num_samples} samples")
        total = Counter[str]()
        for shard in self.shards:
            total.update(shard.class_counts)
        if total != Counter(self.class_counts):
            raise ValueError("the classes of the shards do not add up to those of the split")


@document
@dataclass(frozen=True, kw_only=True, slots=True)
class PackNotes:
    """Provenance of a shard set: the options of `shards pack`, or that `shards index` made it."""

    samples_per_shard: int | None = None
    seed: int | None = None
    unlabelled: str = ""
    exclude_flags: tuple[str, ...] = ()
    num_folds: int | None = None
    fold: int | None = None
    left_out: dict[str, int] = field(default_factory=dict)  # reason -> samples
    mean_and_std_of: str = ""  # the split that they describe, or `all`
    code_version: str = ""
    indexed: bool = False  # the tars are others'
    encoded: bool = False  # images are files of a picture format


@document
@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """`manifest.json`: a whole shard set. `mean` and `std` are the training split's, 0 to 255."""

    schema_version: int
    class_names: tuple[str, ...]
    image: ImageSpec
    splits: dict[str, SplitInfo]
    mean: tuple[float, ...]  # a channel
    std: tuple[float, ...]
    pack: PackNotes
    dataset: dict[str, Any]  # config, sources and rules of the sample store

    def __post_init__(self) -> None:
        if not len(self.mean) == len(self.std) == len(self.image.channels):
            raise ValueError(
                f"{len(self.mean)} means and {len(self.std)} standard deviations for "
                f"{len(self.image.channels)} channels"
            )
        if not all(0 <= value <= 255 for value in (*self.mean, *self.std)):
            raise ValueError(f"mean {self.mean} and std {self.std} are not of uint8 voxels")
        if not self.splits or not self.splits.keys() <= set(SPLITS):
            raise ValueError(
                f"splits are {', '.join(self.splits) or 'missing'}, expected {', '.join(SPLITS)}"
            )
        _refuse_repeated(self.class_names, "class")
        _refuse_repeated([name.casefold() for name in self.file_names()], "file")
        if bad := next((name for name in self.class_names if not name.isprintable()), None):
            raise ValueError(f"class name {bad!r} cannot be printed")

    def shards(self) -> Iterable[ShardInfo]:
        """Return the shards of all splits."""
        return (shard for info in self.splits.values() for shard in info.shards)

    def file_names(self) -> list[str]:
        """Return the names of all tars and indices."""
        return [name for shard in self.shards() for name in (shard.name, shard.index_name)]


def manifest_name(fold: int | None) -> str:
    """Return the file name of a set's manifest, or of a fold's."""
    return MANIFEST if fold is None else f"manifest.fold{fold}.json"


def index_name(stem: str, fold: int | None) -> str:
    """Return the file name of a tar's index, or of its index in a fold."""
    return f"{stem}{INDEX}" if fold is None else f"{stem}.fold{fold}{INDEX}"


def check_file_name(name: str, suffix: str) -> None:
    """Refuse what is not the plain name of a file with this suffix in a folder."""
    plain = name.isprintable() and not name.startswith(".") and not re.search(r"[/\\]", name)
    if not plain or not name.endswith(suffix) or len(name.encode()) > MAX_NAME_BYTES:
        shown = ascii(name[:80]) + ("..." if len(name) > 80 else "")
        raise ValueError(
            f"shard file {shown}, expected a plain file name that ends in {suffix}: printable, no "
            f"slash, no leading dot, up to {MAX_NAME_BYTES} bytes"
        )


def _refuse_repeated(names: Iterable[str], what: str) -> None:
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(f"{what} {repeated[0]!r} is named twice (case aside for files)")


@with_config(ConfigDict(strict=True, extra="ignore"))
@dataclass(frozen=True, kw_only=True, slots=True)
class _Versioned:
    schema_version: int


def parse_manifest(data: bytes, *, where: str) -> Manifest:
    """Return the manifest in the bytes of a `manifest.json`; anything else is a `ValueError`."""
    where, cure = f"{where}: not a readable manifest", "copy the shard set again, or make it again"
    check_schema_version(
        parse_json(_Versioned, data, where=where, cure=cure).schema_version, where=where
    )
    return parse_json(Manifest, data, where=where, cure=cure)


def check_schema_version(found: object, *, where: str) -> None:
    """Refuse a document of a schema version that this code does not know."""
    if found != SCHEMA_VERSION:
        raise ValueError(
            f"{where}: schema version {found!r} is unknown, this code reads version "
            f"{SCHEMA_VERSION}; read it with the synshards version that wrote it, or write it again"
        )


def parse_dataset(data: bytes, *, where: str, cure: str) -> Dataset:
    """Return the data set in the bytes of a `dataset.json`; anything else is a `ValueError`."""
    check_schema_version(
        parse_json(_Versioned, data, where=where, cure=cure).schema_version, where=where
    )
    return parse_json(Dataset, data, where=where, cure=cure)
