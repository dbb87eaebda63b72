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
Ids = Literal["numbers", "names"]
UNNAMED = "auto"  # of a column: CAVE's, where the table has it
CAVE_NAMES = {
    "synapse_id": "id",
    "pre_root_id": "pre_pt_root_id",
    "post_root_id": "post_pt_root_id",
    "size": "size",
    "pre": "pre_pt_position",
    "ctr": "ctr_pt_position",
    "post": "post_pt_position",
}


@document
@dataclass(frozen=True, kw_only=True, slots=True)
class Columns:
    """Names of the synapse table's columns.

    One that is not named is CAVE's, where the table has that; null: it is not used. A position `p`
    is one column `p` of `[x, y, z]`, or three called `p_x`, `p_y`, `p_z`, or three that are named.
    """

    synapse_id: str = UNNAMED
    """ids of the synapses, each once; `id` where not named. Example: `synapse`."""
    pre_root_id: str | None = UNNAMED
    """ids of the presynaptic neurons, by which splits go; `pre_pt_root_id` where not named.
    Example: `neuron`."""
    post_root_id: str | None = UNNAMED
    """ids of the postsynaptic neurons; `post_pt_root_id` where not named. Example: `target`."""
    size: str | None = UNNAMED
    """sizes of the synapses, in any unit; `size` where not named. Example: `cleft_vx`."""
    pre: str | None = UNNAMED
    """presynaptic positions; `pre_pt_position` where not named. Example: `pre_x, pre_y, pre_z`."""
    ctr: str | None = UNNAMED
    """positions of the clefts; `ctr_pt_position` where not named. Example: `x, y, z`."""
    post: str | None = UNNAMED
    """postsynaptic positions; `post_pt_position` where not named. Example: `post`."""
    file: str | None = None
    """with `format: images`, the images' paths below volume.path; null: they are ID.tif or ID.png.
    Example: `filename`."""

    @property
    def unnamed(self) -> dict[str, str]:
        """CAVE's names for the columns that are not named."""
        return {key: name for key, name in CAVE_NAMES.items() if getattr(self, key) == UNNAMED}


@document
@dataclass(frozen=True, kw_only=True, slots=True)
class SynapseConfig:
    """The synapse table."""

    path: str
    """a CSV, parquet or Arrow file, its URL, or with `source: cave` the table's name there; or a
    folder SPLIT/CLASS/FILE of images, with the columns id, split, class and file. Example:
    `synapses.csv`."""
    source: Source = "files"
    """`cave`: the table is one of the datastack in `cave`. Example: `cave`."""
    position_resolution_nm: tuple[float, float, float] = (4.0, 4.0, 40.0)
    """x, y, z of the unit that positions count in; `[1, 1, 1]` for positions in nm. Example:
    `[4, 4, 40]`."""
    columns: Columns = field(default_factory=Columns)
    """what the table calls its columns. Example: `{synapse_id: synapse, ctr: "x, y, z"}`."""
    header: str | None = None
    """a file that names the columns of a CSV without such a row. Example: `header.csv`."""


@document
@dataclass(frozen=True, kw_only=True, slots=True)
class LabelTable:
    """A table that gives neurons a class."""

    path: str
    """as synapses.path. Example: `cell_types.csv`."""
    source: Source = "files"
    """as synapses.source. Example: `cave`."""
    header: str | None = None
    """as synapses.header. Example: `header.csv`."""
    column: str
    """the column that says the class. Example: `cell_type`."""
    classes: dict[str, str]
    """class of each value of `column`; rows of other values give no label. Example:
    `{E: excitatory, I: inhibitory}`."""
    nucleus_column: str | None = UNNAMED
    """ids of nuclei, by which root ids of one neuron are joined; `target_id` where not named, if
    the table has it. Example: `nucleus_id`."""
    root_column: str = "pt_root_id"
    """ids of neurons, as in synapses.columns.pre_root_id. Example: `neuron`."""
    manual: bool = False
    """made by people: outranks tables that were not. Example: `true`."""


@document
@dataclass(frozen=True, kw_only=True, slots=True)
class ProofreadTable:
    """A table of neurons whose axons people have gone over: their tier ends with `_proofread`."""

    path: str
    """as synapses.path. Example: `proofread.csv`."""
    source: Source = "files"
    """as synapses.source. Example: `cave`."""
    header: str | None = None
    """as synapses.header. Example: `header.csv`."""
    column: str = "status_axon"
    """the column that says whether an axon is proofread. Example: `status_axon`."""
    values: tuple[str | bool | int | float, ...] = ("t", "true", "True")
    """values of `column` that mean yes. Example: `[extended, clean]`."""
    root_column: str = "pt_root_id"
    """ids of neurons, as in synapses.columns.pre_root_id. Example: `neuron`."""
    required: bool = False
    """use no neurons but these. Example: `true`."""


@document
@dataclass(frozen=True, kw_only=True, slots=True)
class LabelConfig:
    """The source of labels: tables of neurons, or a column of the synapse table."""

    class_names: tuple[str, ...] = ()
    """the classes, 0 first; `plan` says which number is which. Empty: all that occur, sorted, but
    inhibitory before excitatory. Example: `[inhibitory, excitatory]`."""
    tables: tuple[LabelTable, ...] = ()
    """tables of neurons; their synapses get their class. Example: `[{path: cells.csv, …}]`."""
    tiers: tuple[Tier, ...] = ("manual", "agreeing", "single")
    """how sure a neuron's class must be, with `tables`: from a manual table, from two that agree,
    from one. Example: `[manual, agreeing]`."""
    proofread: ProofreadTable | None = None
    """neurons whose axons people have gone over. Example: `{path: proofread.csv, …}`."""
    neurons_per_class: int | None = None
    """so many neurons of each class, drawn by `seed`; null: all. Example: `20`."""
    seed: int = 42
    """draws neurons_per_class. Example: `7`."""
    unlabelled: bool = False
    """take the synapses to which `tables` give no label, and no others, all in split test, to be
    predicted. Example: `true`."""
    column: str | None = None
    """the synapse table's column that says the class. Example: `label`."""
    classes: dict[str, str] = field(default_factory=dict)
    """class of each value of `column`; empty: values are classes. Rows of other values are left
    out. Example: `{E: excitatory, I: inhibitory}`."""

    def __post_init__(self) -> None:
        if len(set(self.class_names)) != len(self.class_names) or len(self.class_names) == 1:
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
        if self.class_names and (unknown := sorted(self.mapped - set(self.class_names))):
            raise ValueError(
                f"classes name {', '.join(unknown)}, which is not among class_names "
                f"{', '.join(self.class_names)}"
            )
        if not self.class_names and len(self.mapped) == 1:
            raise ValueError(
                f"classes name {', '.join(self.mapped)} alone; name another class, or state "
                "class_names"
            )

    @property
    def mapped(self) -> set[str]:
        """The classes that values are mapped to."""
        mappings = [self.classes, *(table.classes for table in self.tables)]
        return {name for classes in mappings for name in classes.values()}


@document
@dataclass(frozen=True, kw_only=True, slots=True)
class SplitConfig:
    """Division of neurons or positions into train, val and test."""

    by: Literal["neuron", "block", "position", "column"] = "neuron"
    """`neuron`: whole presynaptic neurons, single samples where no neuron is known; `block`: blocks
    of space; `position`: places along an axis; `column`: as the synapse table says. Example:
    `position`."""
    column: str = "split"
    """with `by: column`, the synapse table's column of train, val and test. Example: `fold`."""
    seed: int = 42
    """draws neurons and blocks. Example: `7`."""
    fractions: dict[str, float] = field(
        default_factory=lambda: {"train": 0.7, "val": 0.15, "test": 0.15}
    )
    """parts of the neurons or blocks of each class, together 1. Example:
    `{train: 0.6, val: 0.2, test: 0.2}`."""
    axis: Literal["x", "y", "z"] = "x"
    """with `by: position`. Example: `z`."""
    cuts: tuple[float, float] = (0.7, 0.85)
    """with `by: position`, parts of the volume's length: train below the first, val between, test
    above the second. Example: `[0.6, 0.8]`."""
    block_um: float = 20.0
    """with `by: block`, the side of a block. Example: `10`."""
    overlap: Literal["drop", "keep"] = "drop"
    """what becomes of a training image that shares voxels with a val or test image. Example:
    `keep`."""
    disjoint_post: bool = False
    """no postsynaptic neuron in two splits either. Example: `true`."""
    max_per_neuron: int | None = None
    """at most so many synapses of a neuron; null: all. Example: `200`."""
    max_per_class: dict[str, int] = field(default_factory=dict)
    """at most so many samples of each class, by split. Example:
    `{train: 1500, val: 225, test: 225}`."""

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
    """what the line carries. Example: `50`."""
    latency_ms: float = 20.0
    """from a request to the first byte of its answer. Example: `80`."""
    concurrency: int = 32
    """requests under way at a time. Example: `64`."""

    def __post_init__(self) -> None:
        if min(self.bandwidth_mb_s, self.latency_ms, self.concurrency) <= 0:
            raise ValueError("bandwidth_mb_s, latency_ms and concurrency must be above 0")


@document
@dataclass(frozen=True, kw_only=True, slots=True)
class JobConfig:
    """One `ingest` job."""

    volume: VolumeConfig
    """the images. Example: `{path: em}`."""
    synapses: SynapseConfig
    """the synapse table. Example: `{path: synapses.csv}`."""
    labels: LabelConfig
    """where classes come from. Example: `{column: label}`."""
    splits: SplitConfig = field(default_factory=SplitConfig)
    """train, val and test. Example: `{by: neuron}`."""
    samples: SampleConfig = field(default_factory=SampleConfig)
    """what is cut out. Example: `{center: ctr}`."""
    qc: QcConfig = field(default_factory=QcConfig)
    """limits of image quality. Example: `{max_reject_fraction: 0.3}`."""
    cost: CostConfig = field(default_factory=CostConfig)
    """how fast the volume's store is. Example: `{bandwidth_mb_s: 50}`."""
    cave: CaveConfig | None = None
    """the datastack of tables with `source: cave`. Example:
    `{datastack: minnie65_public, version: 1300}`."""
    ids: Ids = "numbers"
    """`names`: ids of synapses and neurons are text, such as file names; each becomes a number, and
    samples.parquet, the shards' indices and predictions have the names beside it. Example:
    `names`."""
    samples_per_block: int = 128
    """samples per unit of work and per zarr shard; a worker holds one block in memory. Example:
    `32`."""

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
        is_single = self.volume.format in ("hdf5", "tiff", "images")
        if is_single and any(view.mip for view in self.samples.views.values()):
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
        if self.uses_cave and self.ids == "names":
            raise ValueError("CAVE's ids are numbers; remove `ids: names`")
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
