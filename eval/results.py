"""The records of metrics.json; None stands for what could not be measured."""

from dataclasses import dataclass
from typing import Literal

from shards.contract.documents import document
from shards.contract.schema import SCHEMA_VERSION

Grade = Literal["leak", "selection"]


@document
@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """A value and the ends of its 95 % interval, None where there is none."""

    value: float
    low: float | None = None
    high: float | None = None


@document
@dataclass(frozen=True, kw_only=True, slots=True)
class Gap(Interval):
    """A difference with its p value, None for metrics that rank."""

    p_value: float | None = None


Intervals = dict[str, Interval]


@document
@dataclass(frozen=True, kw_only=True, slots=True)
class Count:
    """Samples of a class in a split, and of how many neurons."""

    synapses: int
    neurons: int | None  # known ones; None where none is known


@document
@dataclass(frozen=True, kw_only=True, slots=True)
class ClassScore:
    """Precision and recall of one class."""

    precision: float
    recall: float


@document
@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """Scores of each method on test; `chosen` is the one in use, None without validation."""

    chosen: str | None
    methods: dict[str, Intervals]


@document
@dataclass(frozen=True, kw_only=True, slots=True)
class FromSynapses:
    """Balanced accuracy of the neurons that have this many synapses, from as many each."""

    synapses: int
    neurons: int
    balanced_accuracy: float


@document
@dataclass(frozen=True, kw_only=True, slots=True)
class Neurons:
    """Consensus over the synapses of each known neuron."""

    correlation: float | None  # within an axon, on validation; None: not measured, taken as 1
    methods: dict[str, Intervals]
    by_synapses: tuple[FromSynapses, ...]
    needed: dict[str, int | None]  # synapses for a target accuracy; None: more than there are
    synapses_per_neuron: float  # median


@document
@dataclass(frozen=True, kw_only=True, slots=True)
class MixedNeuron:
    """A neuron that two classes explain better than one."""

    neuron_id: int
    synapses: int
    votes: tuple[int, ...]  # synapses predicted of each class
    log_ratio: float


@document
@dataclass(frozen=True, kw_only=True, slots=True)
class MislabelledNeuron:
    """A neuron whose synapses are sure of another class than its label."""

    neuron_id: int
    synapses: int
    label: int
    consensus: int
    posterior: float


@document
@dataclass(frozen=True, kw_only=True, slots=True)
class OddSynapse:
    """A synapse at odds with its neuron; calibrated probabilities."""

    synapse_id: int | None
    key: str | None
    neuron_id: int
    place_nm: tuple[float, float, float] | None
    label: int
    probabilities: tuple[float, ...]


@document
@dataclass(frozen=True, kw_only=True, slots=True)
class MixedNeurons:
    """Their number, and the first of them."""

    count: int
    listed: tuple[MixedNeuron, ...]


@document
@dataclass(frozen=True, kw_only=True, slots=True)
class MislabelledNeurons:
    """Their number, and the first of them."""

    count: int
    listed: tuple[MislabelledNeuron, ...]


@document
@dataclass(frozen=True, kw_only=True, slots=True)
class OddSynapses:
    """Their number, and the first of them."""

    count: int
    listed: tuple[OddSynapse, ...]


@document
@dataclass(frozen=True, kw_only=True, slots=True)
class Suspects:
    """Suspects that a proofreader should look at."""

    val_neurons_left_out: int
    mixed_neurons: MixedNeurons
    mislabelled_neurons: MislabelledNeurons
    odd_synapses: OddSynapses


@document
@dataclass(frozen=True, kw_only=True, slots=True)
class Stratum:
    """Scores of a part of the test split."""

    what: str
    which: str
    synapses: int
    neurons: int | None
    class_counts: tuple[int, ...]
    balanced_accuracy: Interval
    accuracy: Interval


@document
@dataclass(frozen=True, kw_only=True, slots=True)
class Stress:
    """Scores on altered images, and what the alteration costs."""

    name: str
    balanced_accuracy: Interval
    auroc: Interval
    cost: dict[str, Gap]


@document
@dataclass(frozen=True, kw_only=True, slots=True)
class Baseline:
    """A baseline's scores at its own threshold."""

    note: str
    tau: float | None
    metrics: Intervals


@document
@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One check of two splits: how many, out of how many, and examples."""

    check: str
    splits: tuple[str, str]
    found: int
    of: int
    unit: str
    examples: tuple[str, ...] = ()
    grade: Grade | None = None  # of what was found; see `audit.graded`


@document
@dataclass(frozen=True, kw_only=True, slots=True)
class Audit:
    """Checks that were made, and those that could not be, for want of what they compare."""

    findings: tuple[Finding, ...]
    unchecked: tuple[str, ...]


@document
@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """The evaluation of one set of predictions."""

    name: str
    split: str
    class_names: tuple[str, ...]
    n_synapses: int
    n_neurons: int | None  # known ones; None where none is known
    n_unlabelled: int
    counts: dict[str, dict[str, Count]]  # split, class
    tau: float | None  # None: the most probable class is predicted
    tau_from: Literal["val", "default"] | None
    criterion: str
    interval_unit: Literal["presynaptic neuron", "synapse"]
    metrics: Intervals
    confusion: tuple[tuple[int, ...], ...]  # true class by predicted class
    per_class: tuple[ClassScore, ...]
    at_half: Intervals | None
    tau_gain: Gap | None  # in balanced accuracy, over a threshold of 0.5
    calibration: Calibration
    coverage: dict[str, dict[str, float]]  # synapses, neurons: share decided at an accuracy
    neurons: Neurons | None
    suspects: Suspects | None
    stress: tuple[Stress, ...]
    strata: tuple[Stratum, ...]
    baselines: dict[str, Baseline]
    audit: Audit
    notes: tuple[str, ...]


@document
@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Second less first on their common synapses, or why they cannot be paired."""

    first: str
    second: str
    not_paired: str | None = None
    n_synapses: int = 0
    metrics: dict[str, Gap] | None = None


@document
@dataclass(frozen=True, kw_only=True, slots=True)
class IntervalNote:
    """The way intervals were drawn."""

    level: float
    replicates: int


@document
@dataclass(frozen=True, kw_only=True, slots=True)
class Metrics:
    """metrics.json."""

    schema_version: int = SCHEMA_VERSION
    command: tuple[str, ...]
    interval: IntervalNote
    versions: dict[str, str]
    runs: tuple[Run, ...]
    comparisons: tuple[Comparison, ...]
