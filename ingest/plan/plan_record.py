"""plan.json as a record: what was decided, and what tells the data that it was decided on."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ingest.dataset import Layout
from ingest.job.image_config import Center
from ingest.job.job_config import JobConfig
from ingest.tables.identity import Source
from shards.contract.documents import document, read_document
from shards.contract.schema import SPLITS, check_schema_version


@document
@dataclass(frozen=True, kw_only=True, slots=True)
class FunnelStep:
    """One step of the labelling: how many rows it dropped, and how many were left."""

    step: str
    dropped: int
    kept: int


@document
@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """Cost of one scale. `touches` counts each pair of an image and a chunk under it."""

    touches: int
    distinct_chunks: int
    chunk_reads: int  # each chunk once a block
    minishards: int
    shards: int
    gap: int  # chunks that ranges are joined over
    ranges: int
    carried_chunks: int  # in the ranges, those that nobody asked for included
    requests: int  # one a range, and each index once
    bytes: int
    raw_bytes: int  # of what is decoded
    measured: bool  # sizes of stored chunks: looked up in the volume, or by rule of thumb


@document
@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """Reading and storage of a job: per mip, of the segmentation per mip, in total."""

    by_mip: dict[str, Reading] = field(default_factory=dict)
    masks: dict[str, Reading] = field(default_factory=dict)
    requests: int
    bytes: int
    seconds: float
    store_bytes: int


def _check_splits(**by_split: Mapping[str, object]) -> None:
    for name, value in by_split.items():
        if set(value) != set(SPLITS):
            raise ValueError(f"{name} is of {', '.join(value)}, expected {', '.join(SPLITS)}")


@document
@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """`plan.json`.

    `files` has the SHA-256 of each file that `plan` wrote, by its path in the data set, but of
    plan.parquet that of each of its parts (see ingest.layout).
    """

    schema_version: int
    config: JobConfig
    sources: tuple[Source, ...]
    num_samples: int
    num_blocks: int
    num_rejects: int
    counts: dict[str, dict[str, int]]  # split -> class name -> samples
    neurons: dict[str, int]  # split -> known neurons
    funnel: tuple[FunnelStep, ...]
    notes: dict[str, int]
    tiers: dict[str, int]
    voxel_size_nm: dict[str, tuple[float, float, float]]  # of each view, z, y, x
    prediction: Prediction
    files: dict[str, str] = field(default_factory=dict)
    table_parts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_schema_version(self.schema_version, where="the plan")
        _check_splits(counts=self.counts, neurons=self.neurons)
        views = self.config.samples.views
        if self.voxel_size_nm.keys() != views.keys():
            raise ValueError(f"voxel_size_nm is of {', '.join(self.voxel_size_nm)}")
        mips = {str(view.mip) for view in views.values()}
        if not self.config.has_images and self.prediction.by_mip.keys() != mips:
            raise ValueError(f"prediction.by_mip is of {', '.join(self.prediction.by_mip)}")
        if self.num_blocks != -(-self.num_samples // self.config.samples_per_block):
            raise ValueError(f"{self.num_blocks} blocks do not hold {self.num_samples} samples")

    @property
    def job(self) -> JobConfig:
        """The job as it was planned."""
        return self.config


@document
@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """`rules` of dataset.json: how labels and splits were made, in numbers."""

    funnel: tuple[FunnelStep, ...]
    notes: dict[str, int]
    tiers: dict[str, int]
    neurons: dict[str, int]  # split -> known neurons
    qc_flags: dict[str, int]
    center: Center
    prediction: Prediction

    def __post_init__(self) -> None:
        _check_splits(neurons=self.neurons)


def read_plan(layout: Layout) -> Plan:
    """Return the plan of a data set."""
    cure = "make it with `python -m ingest plan` in a new or emptied folder"
    return read_document(Plan, layout.plan_json, what="plan", cure=cure)
