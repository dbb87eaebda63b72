"""A job: where the volume and the tables are, how labels and splits are made, what is cut.

Its file is YAML (`ingest/job/job_file.py`). Resolutions of positions are x, y, z, as their tables
have them; sizes of images are z, y, x here, as arrays have them, and x, y, z in the file.
"""

from dataclasses import dataclass, field
from typing import Literal

from ingest.job.cave_config import CaveConfig
from ingest.job.image_config import QcConfig, SampleConfig, VolumeConfig
from shards.contract.documents import document
from shards.contract.schema import SPLITS

Source = Literal["files", "cave"]
Tier = Literal["manual", "agreeing", "single"]


@document
@dataclass(frozen=True, kw_only=True, slots=True)
class Columns:
    """Names of the synapse table's columns; a position `p` is `p` or `p_x`, `p_y`, `p_z`.

    None: the table has no such column, and none is used. `file`: where a sample's image is, for
    `format: images`; without it the files are ID.tif.
    """

    synapse_id: str = "id"
    pre_root_id: str | None = "pre_pt_root_id"
    post_root_id: str | None = "post_pt_root_id"
    size: str | None = "size"
    pre: str | None = "pre_pt_position"
    ctr: str | None = "ctr_pt_position"
    post: str | None = "post_pt_position"
    file: str | None = None


@document
@dataclass(frozen=True, kw_only=True, slots=True)
class SynapseConfig:
    """The synapse table; positions are in voxels of `position_resolution_nm`, x, y, z.

    `path` is a file or its URL, or with `source: cave` the name of the table there.
    """

    path: str
    source: Source = "files"
    position_resolution_nm: tuple[float, float, float] = (4.0, 4.0, 40.0)
    columns: Columns = field(default_factory=Columns)
    header: str | None = None  # what names the columns of a CSV that does not


@document
@dataclass(frozen=True, kw_only=True, slots=True)
class LabelTable:
    """A table that gives neurons a class: `column`'s values through `classes`.

    `path` is a file or its URL, or with `source: cave` the name of the table there.
    """

    path: str
    source: Source = "files"
    header: str | None = None  # what names the columns of a CSV that does not
    column: str
    classes: dict[str, str]  # value -> class name; rows of other values give no label
    nucleus_column: str | None = "target_id"
    root_column: str = "pt_root_id"
    manual: bool = False  # made by people: outranks tables that were not


@document
@dataclass(frozen=True, kw_only=True, slots=True)
class ProofreadTable:
    """A table of neurons whose axons people have gone over: those with `column` among `values`.

    Their labels are of the tier `..._proofread`; with `required` no others are used.
    """

    path: str
    source: Source = "files"
    header: str | None = None
    column: str = "status_axon"
    values: tuple[str | bool | int | float, ...] = ("t", "true", "True")
    root_column: str = "pt_root_id"
    required: bool = False


@document
@dataclass(frozen=True, kw_only=True, slots=True)
class LabelConfig:
    """The source of labels: tables of neurons, or a column of the synapse table.

    `tiers`: which tiers of tables are used (see ingest.labels). `neurons_per_class`: so many
    neurons of each class, drawn by `seed`; null for all. `unlabelled`: the synapses to which
    `tables` give no label, and no others, all in split test, to be predicted.
    """

    class_names: tuple[str, ...] = ("inhibitory", "excitatory")
    tables: tuple[LabelTable, ...] = ()
    tiers: tuple[Tier, ...] = ("manual", "agreeing", "single")
    proofread: ProofreadTable | None = None
    neurons_per_class: int | None = None
    seed: int = 42
    unlabelled: bool = False
    column: str | None = None
    classes: dict[str, str] = field(default_factory=dict)  # for `column`; empty: names as they are

    def __post_init__(self) -> None:
        if len(set(self.class_names)) != len(self.class_names) or len(self.class_names) < 2:
            raise ValueError(f"class_names must be two or more different, got {self.class_names}")
        if bool(self.tables) == (self.column is not None):
            raise ValueError("labels come from `tables` or from `column`; state one of them")
        if self.column is not None and (
            self.proofread or self.neurons_per_class or self.unlabelled
        ):
            raise ValueError(
                "proofread, neurons_per_class and unlabelled go with `tables`; remove them"
            )
        if self.neurons_per_class is not None and self.neurons_per_class < 1:
            raise ValueError(f"neurons_per_class must be positive, got {self.neurons_per_class}")
        for classes in (self.classes, *(table.classes for table in self.tables)):
            if unknown := sorted(set(classes.values()) - set(self.class_names)):
                raise ValueError(
                    f"classes name {', '.join(unknown)}, which is not among class_names "
                    f"{', '.join(self.class_names)}"
                )


@document
@dataclass(frozen=True, kw_only=True, slots=True)
class SplitConfig:
    """Division of neurons or positions into train, val and test.

    `neuron`: whole presynaptic neurons, `fractions` of those of each class; where no neuron is
    known, single samples.
    `block`: the same with blocks of space of `block_um` in place of neurons.
    `position`: by where a sample lies along `axis`, in fractions of the volume from its start:
    train below the first of `cuts`, val between, test above the second.
    `column`: as the synapse table's `column` says.
    `overlap`: what becomes of a training image that shares voxels with a val or test image.
    `disjoint_post`: no postsynaptic neuron in two splits either.
    """

    by: Literal["neuron", "block", "position", "column"] = "neuron"
    column: str = "split"
    seed: int = 42
    fractions: dict[str, float] = field(
        default_factory=lambda: {"train": 0.7, "val": 0.15, "test": 0.15}
    )
    axis: Literal["x", "y", "z"] = "x"
    cuts: tuple[float, float] = (0.7, 0.85)
    block_um: float = 20.0
    overlap: Literal["drop", "keep"] = "drop"
    disjoint_post: bool = False
    max_per_neuron: int | None = None
    max_per_class: dict[str, int] = field(default_factory=dict)  # split -> samples of each class

    def __post_init__(self) -> None:
        if set(self.fractions) != set(SPLITS) or min(self.fractions.values()) <= 0:
            raise ValueError(f"fractions needs train, val and test above 0, got {self.fractions}")
        if abs(sum(self.fractions.values()) - 1) > 1e-6:
            raise ValueError(f"fractions must sum to 1, got {sum(self.fractions.values()):g}")
        if not 0 < self.cuts[0] < self.cuts[1] < 1:
            raise ValueError(f"cuts must be two rising numbers between 0 and 1, got {self.cuts}")
        if unknown := sorted(set(self.max_per_class) - set(SPLITS)):
            raise ValueError(f"max_per_class has {', '.join(unknown)}, expected train, val, test")
        if self.block_um <= 0:
            raise ValueError(f"block_um must be above 0, got {self.block_um}")
        numbers = [*self.max_per_class.values(), self.max_per_neuron or 1]
        if min(numbers) < 1:
            raise ValueError("max_per_neuron and max_per_class must be 1 or more")


@document
@dataclass(frozen=True, kw_only=True, slots=True)
class CostConfig:
    """Assumptions about the volume's store, by which the plan predicts time."""

    bandwidth_mb_s: float = 100.0
    latency_ms: float = 20.0
    concurrency: int = 32

    def __post_init__(self) -> None:
        if min(self.bandwidth_mb_s, self.latency_ms, self.concurrency) <= 0:
            raise ValueError("bandwidth_mb_s, latency_ms and concurrency must be above 0")


@document
@dataclass(frozen=True, kw_only=True, slots=True)
class JobConfig:
    """One `ingest` job."""

    volume: VolumeConfig
    synapses: SynapseConfig
    labels: LabelConfig
    splits: SplitConfig = field(default_factory=SplitConfig)
    samples: SampleConfig = field(default_factory=SampleConfig)
    qc: QcConfig = field(default_factory=QcConfig)
    cost: CostConfig = field(default_factory=CostConfig)
    cave: CaveConfig | None = None
    samples_per_block: int = 128  # and per zarr shard: a worker holds one block in memory

    def __post_init__(self) -> None:
        if self.samples_per_block < 1:
            raise ValueError(f"samples_per_block must be positive, got {self.samples_per_block}")
        self._check_cave()
        self._check_images()
        self._check_masks()

    @property
    def has_images(self) -> bool:
        """True if the images exist already, and are not cut out of a volume."""
        return self.volume.format == "images"

    @property
    def has_positions(self) -> bool:
        """True if the positions of samples are known."""
        return getattr(self.synapses.columns, self.samples.center) is not None

    @property
    def has_neurons(self) -> bool:
        """True if the neurons of samples are known."""
        return self.synapses.columns.pre_root_id is not None

    @property
    def uses_cave(self) -> bool:
        """True if any table is CAVE's."""
        return any(table.source == "cave" for table in self.tables)

    @property
    def tables(self) -> list[SynapseConfig | LabelTable | ProofreadTable]:
        """Every table, the synapses first."""
        proofread = self.labels.proofread
        return [self.synapses, *self.labels.tables, *([] if proofread is None else [proofread])]

    def _check_images(self) -> None:
        if self.volume.format != "precomputed" and any(v.mip for v in self.samples.views.values()):
            raise ValueError(f"format {self.volume.format} has one scale; remove mip")
        if not self.has_images and self.synapses.columns.file is not None:
            raise ValueError("columns.file goes with `format: images`; remove it")
        if self.has_images and len(self.samples.views) != 1:
            raise ValueError("images that exist already have one size; keep one of samples.views")
        if self.has_images and self.splits.by in ("block", "position"):
            raise ValueError("images lie in no volume: split them by neuron or by column")
        if not self.has_images and not self.has_positions:
            raise ValueError(
                f"samples are centred on {self.samples.center}, but synapses.columns."
                f"{self.samples.center} is null; name its column or choose another center"
            )

    def _check_masks(self) -> None:
        masks = [name for name in self.samples.channels if name != "em"]
        if masks and not self.has_images and self.volume.segmentation is None:
            raise ValueError(
                f"channels {', '.join(masks)} are cut out of a segmentation; add "
                "volume.segmentation, of the tables' version"
            )
        for name in masks:
            if getattr(self.synapses.columns, f"{name}_root_id") is None and not self.has_images:
                raise ValueError(f"channel {name} needs synapses.columns.{name}_root_id")

    def _check_cave(self) -> None:
        if self.cave is None and self.uses_cave:
            raise ValueError("tables have `source: cave`; add `cave:` with datastack and version")
        if self.cave is not None and not self.uses_cave:
            raise ValueError("no table has `source: cave`; add that to some, or remove `cave:`")
        if any(table.source == "cave" and table.header is not None for table in self.tables):
            raise ValueError("CAVE's tables know their columns; remove `header` from them")
        if self.synapses.source == "cave" and self.labels.unlabelled:
            raise ValueError(
                "synapses come from CAVE by labelled neuron; give those without a label as a file"
            )
        if self.synapses.source == "cave" and not self.labels.tables:
            raise ValueError(
                "synapses come from CAVE by neuron, so labels.tables must name the neurons"
            )
