"""Labels of synapses: from tables of neurons, or from a column of the synapse table.

Tiers, from sure to less sure: `manual` (a table made by people), `agreeing` (two tables or more
say the same), `single`; each is surer as `..._proofread`, where people have gone over the axon.
A manual table outranks the others; others that disagree give no label.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from ingest.job.job_config import UNNAMED, Ids, LabelConfig, LabelTable, ProofreadTable
from ingest.plan.plan_record import FunnelStep
from ingest.tables.name_ids import NameIds
from ingest.tables.synapse_tables import LABEL_VALUE, Ints, id_column, known_ids, open_table
from shards.contract.schema import UNLABELLED
from shards.tabular.table_files import Column, canonical_value

# What drops a synapse, in the order in which it is looked at.
DROPS = (
    "no presynaptic root id",
    "autapse",
    "root with more than one nucleus",
    "label tables in conflict",
    "neuron left out by tiers, proofread or neurons_per_class",
    "no label",
)

SHOWN_VALUES = 8  # of a label column, in an error

ROWS = "rows in the table"
CAVE_NUCLEUS = "target_id"
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class NeuronLabels:
    """Labels of presynaptic roots, in pandas columns indexed by root id.

    `labels` has neuron_id, nucleus_id, label, label_tier, label_source.
    """

    labels: pd.DataFrame
    multi_nucleus: frozenset[int]
    conflicts: frozenset[int]
    left_out: frozenset[int] = frozenset()
    notes: Mapping[str, int] = field(default_factory=dict)  # rows of the tables that say nothing


class Funnel:
    """Number of rows kept by each step of the labeling."""

    def __init__(self) -> None:
        self.rows = 0
        self.dropped: dict[str, int] = {}
        self.notes: dict[str, int] = {}
        self.without_class = Counter[str]()  # values of the label column

    def drop(self, step: str, count: int) -> None:
        """Count rows that a step took away."""
        self.dropped[step] = self.dropped.get(step, 0) + int(count)

    def note(self, what: str, count: int) -> None:
        """Count rows that are worth knowing of, though they were kept."""
        self.notes[what] = count

    def steps(self) -> tuple[FunnelStep, ...]:
        """Return each step: its name, how many it dropped, how many were left."""
        left = self.rows
        steps = [FunnelStep(step=ROWS, dropped=0, kept=left)]
        for step, count in self.dropped.items():
            left -= count
            steps.append(FunnelStep(step=step, dropped=count, kept=left))
        return tuple(steps)


def labeller(
    config: LabelConfig, *, has_roots: bool, ids: Ids = "numbers"
) -> Callable[[pd.DataFrame, Funnel], pd.DataFrame]:
    """Return what turns a batch of synapses into its labelled rows, counting the rest.

    It adds neuron_id, nucleus_id, label, label_tier and label_source. Without root ids
    (`has_roots` false) the neurons are 0, unknown.
    """
    if config.column is not None:
        return lambda batch, funnel: _from_column(batch, config, funnel, has_roots=has_roots)
    neurons = neuron_labels(config, ids)
    if config.unlabelled:
        return lambda batch, funnel: _without_label(batch, neurons, funnel)
    return lambda batch, funnel: _from_neurons(batch, neurons, funnel)


def tier_counts(samples: pd.DataFrame) -> dict[str, int]:
    """Return how many samples have a label of each tier, the commonest first."""
    counts = samples.label_tier.value_counts()
    return {str(tier): int(count) for tier, count in counts.items() if count}


def neuron_labels(config: LabelConfig, ids: Ids = "numbers") -> NeuronLabels:
    """Read the label tables and settle on a class for each presynaptic root."""
    notes = dict[str, int]()
    rows = pd.concat([_read(table, notes, ids) for table in config.tables], ignore_index=True)
    nuclei = rows[rows.nucleus_id != 0].drop_duplicates(["root_id", "nucleus_id"])
    per_root = nuclei.groupby("root_id").size()
    rows = _with_known_nuclei(rows, nuclei)
    votes = rows[rows["class"].notna()]
    codes = {name: code for code, name in enumerate(config.class_names)}
    votes = votes.assign(label=votes["class"].map(codes).astype(np.int16))
    decided, conflicts = _decide(votes)
    if decided.empty:
        raise ValueError(
            "; ".join(_values_of(table, ids) for table in config.tables)
            + ": no neuron has a label; check `column` and `classes` of labels.tables"
        )
    multi_nucleus = frozenset(per_root.index[per_root > 1].tolist())
    decided = decided[~decided.index.isin(multi_nucleus)]
    kept = decided[decided.label_tier.isin(config.tiers)]
    kept = _chosen(_proofread(kept, config, notes, ids), config)
    return NeuronLabels(
        labels=kept.astype({"label_tier": "category", "label_source": "category"}),
        multi_nucleus=multi_nucleus,
        conflicts=frozenset(conflicts),
        left_out=frozenset(decided.index.difference(kept.index).tolist()),
        notes=notes,
    )


def _proofread(
    labels: pd.DataFrame, config: LabelConfig, notes: dict[str, int], ids: Ids
) -> pd.DataFrame:
    """Mark the tiers of proofread axons; with `required`, keep no others."""
    if config.proofread is None:
        return labels
    table = config.proofread
    rows = _neuron_rows(table, notes, ids, nucleus_column=None)
    values = {canonical_value(value) for value in table.values}
    if not (is_proofread := rows.value.isin(values)).any():
        raise ValueError(
            f"{table.path} has {shown_counts(_counts(rows.value))} in {table.column}: no axon is "
            "proofread; correct `column` or `values` of labels.proofread"
        )
    proofread = labels.index.isin(rows.root_id[is_proofread])
    tiers = labels.label_tier.where(~proofread, labels.label_tier + "_proofread")
    labels = labels.assign(label_tier=tiers)
    return labels[proofread] if table.required else labels


def _chosen(labels: pd.DataFrame, config: LabelConfig) -> pd.DataFrame:
    """Keep `neurons_per_class` neurons of each class, the same whatever the tables' order."""
    if config.neurons_per_class is None:
        return labels
    neurons = labels[["neuron_id", "label"]].drop_duplicates().sort_values("neuron_id")
    counts = neurons.label.value_counts()
    if len(counts) < len(config.class_names) or counts.min() < config.neurons_per_class:
        raise ValueError(
            f"labels.neurons_per_class is {config.neurons_per_class}, but the tables give "
            + ", ".join(f"{counts.get(k, 0)} {name}" for k, name in enumerate(config.class_names))
            + " neurons; lower it, or use more tables"
        )
    chosen = neurons.groupby("label").sample(config.neurons_per_class, random_state=config.seed)
    return labels[labels.neuron_id.isin(chosen.neuron_id)]


def _read(config: LabelTable, notes: dict[str, int], ids: Ids) -> pd.DataFrame:
    """Return the rows of a label table that have a root id, and their class."""
    rows = _neuron_rows(config, notes, ids, nucleus_column=config.nucleus_column)
    classes = by_value(config.classes, where=config.path)
    notes.update(_near_misses(_counts(rows.value), classes))
    return pd.DataFrame(
        {
            "root_id": rows.root_id,
            "nucleus_id": rows.nucleus_id,
            "class": rows.value.astype(object).map(classes),
            "source": Path(config.path).name.split(".")[0],
            "manual": config.manual,
        }
    )


def _neuron_rows(
    config: LabelTable | ProofreadTable,
    notes: dict[str, int],
    ids: Ids,
    *,
    nucleus_column: str | None,
) -> pd.DataFrame:
    """Return root_id, nucleus_id (0: unknown) and value of the rows that have a root id."""
    opened = open_table(config.path, config.header)
    if nucleus_column == UNNAMED:
        nucleus_column = CAVE_NUCLEUS if CAVE_NUCLEUS in opened.names else None
    columns = {"root": id_column(config.root_column, ids), "value": Column(config.column, "value")}
    if nucleus_column is not None:
        columns["nucleus"] = id_column(nucleus_column, ids)
    table = opened.read(columns).combine_chunks()
    rows = pd.DataFrame(
        {
            "root_id": _ids(table, "root", columns, config.path),
            "nucleus_id": _ids(table, "nucleus", columns, config.path) if nucleus_column else 0,
            "value": table["value"].to_pandas(),
        }
    )
    if without := int((rows.root_id == 0).sum()):
        notes[f"rows of {Path(config.path).name} without a root id, not used"] = without
    return rows[rows.root_id != 0]


def _ids(table: pa.Table, name: str, columns: Mapping[str, Column], path: str) -> Ints:
    ids, where = table[name].combine_chunks(), f"{path}: column {columns[name].name}"
    if columns[name].kind == "text":
        return NameIds().numbers(ids, where=where)
    return known_ids(ids, where=where)


def by_value(classes: Mapping[str, str], *, where: str) -> dict[str | None, str]:
    """Return the class of each canonical value; two spellings of one value must agree."""
    found = dict[str | None, str]()
    for value, name in classes.items():
        if found.setdefault(canonical_value(value), name) != name:
            raise ValueError(
                f"{where}: `classes` has {value} twice, as {name} and as "
                f"{found[canonical_value(value)]}; a value has one class, however it is written"
            )
    found.pop(None, None)
    return found


def _with_known_nuclei(rows: pd.DataFrame, nuclei: pd.DataFrame) -> pd.DataFrame:
    """Give rows without a nucleus the one that other rows name for their root, if it is one."""
    single = nuclei.drop_duplicates("root_id", keep=False).set_index("root_id").nucleus_id
    known = rows.root_id.map(single).fillna(0).astype(np.int64)
    return rows.assign(nucleus_id=rows.nucleus_id.where(rows.nucleus_id != 0, known))


def _values_of(config: LabelTable, ids: Ids) -> str:
    """Return a label table's path and the first of its values."""
    rows = _neuron_rows(config, {}, ids, nucleus_column=None)
    return f"{config.path} has {shown_counts(_counts(rows.value))} in {config.column}"


def shown_counts(counts: Mapping[str, int]) -> str:
    """Return values with their numbers, the commonest first, as an error shows them."""
    common = Counter(counts).most_common(SHOWN_VALUES)
    return ", ".join(f"{value!r} ({count})" for value, count in common) or "nothing"


def _counts(values: "pd.Series[str]") -> dict[str, int]:
    return {str(value): int(count) for value, count in values.value_counts().items() if count}


def _near_misses(counts: Mapping[str, int], classes: Mapping[str | None, str]) -> dict[str, int]:
    """Return a note, with its count, for each value that is a class's but for its case."""
    known = {value.casefold(): value for value in classes if value is not None}
    return {
        f"rows of value {value}, not used: `classes` has {known[value.casefold()]}": count
        for value, count in counts.items()
        if value not in classes and value.casefold() in known
    }


def _decide(votes: pd.DataFrame) -> tuple[pd.DataFrame, list[int]]:
    """Return the labels by root id, and the roots whose tables disagree.

    A nucleus is one neuron; without a nucleus the root stands for it.
    """
    neuron = votes.nucleus_id.where(votes.nucleus_id != 0, votes.root_id)
    votes = votes.assign(neuron_id=neuron)
    has_manual = votes.groupby("neuron_id").manual.transform("max")
    votes = votes[votes.manual == has_manual]
    grouped = votes.groupby("neuron_id")
    summary = pd.DataFrame(
        {
            "num_classes": grouped.label.nunique(),
            "label": grouped.label.first(),
            "manual": grouped.manual.first(),
            "label_source": grouped.source.agg(lambda names: "+".join(sorted(set(names)))),
        }
    )
    several = summary.label_source.str.contains("+", regex=False)
    automatic = np.where(several, "agreeing", "single")
    summary["label_tier"] = np.where(summary.manual, "manual", automatic)
    by_root = votes[["root_id", "neuron_id", "nucleus_id"]].drop_duplicates("root_id")
    by_root = by_root.join(summary, on="neuron_id").set_index("root_id").sort_index()
    agreed = by_root.num_classes == 1
    wanted = ["neuron_id", "nucleus_id", "label", "label_tier", "label_source"]
    return by_root.loc[agreed, wanted], by_root.index[~agreed].tolist()


def _from_neurons(batch: pd.DataFrame, neurons: NeuronLabels, funnel: Funnel) -> pd.DataFrame:
    _note(neurons, funnel)
    known = batch.pre_root_id.isin(neurons.labels.index)
    batch = _drop(batch, funnel, [*_never_used(batch, neurons), ~known])
    labels = neurons.labels.loc[batch.pre_root_id].set_index(batch.index)
    return pd.concat([batch, labels], axis=1)


def _without_label(batch: pd.DataFrame, neurons: NeuronLabels, funnel: Funnel) -> pd.DataFrame:
    _note(neurons, funnel)
    known = batch.pre_root_id.isin(neurons.labels.index)
    steps = (*DROPS[:-1], "has a label")
    batch = _drop(batch, funnel, [*_never_used(batch, neurons), known], steps)
    nobody = of_few(np.zeros(len(batch), dtype=np.int8), ["none"])
    return batch.assign(
        neuron_id=batch.pre_root_id,
        nucleus_id=0,
        label=np.int16(UNLABELLED),
        label_tier=nobody,
        label_source=nobody,
    )


def _note(neurons: NeuronLabels, funnel: Funnel) -> None:
    for what, count in neurons.notes.items():
        funnel.note(what, count)


def _never_used(batch: pd.DataFrame, neurons: NeuronLabels) -> list["pd.Series[bool]"]:
    roots = batch.pre_root_id
    return [
        roots == 0,
        roots == batch.post_root_id,
        roots.isin(neurons.multi_nucleus),
        roots.isin(neurons.conflicts),
        roots.isin(neurons.left_out),
    ]


def _from_column(
    batch: pd.DataFrame, config: LabelConfig, funnel: Funnel, *, has_roots: bool
) -> pd.DataFrame:
    assert config.column is not None
    codes = {name: code for code, name in enumerate(config.class_names)}
    classes = by_value(
        config.classes or {name: name for name in config.class_names}, where="labels"
    )
    label = batch[LABEL_VALUE].astype(object).map(classes).map(codes)
    missed = _counts(batch[LABEL_VALUE][label.isna()])
    funnel.without_class.update(missed)
    for what, count in _near_misses(missed, classes).items():
        funnel.note(what, funnel.notes.get(what, 0) + count)
    never = pd.Series(False, index=batch.index)
    batch = _drop(
        batch,
        funnel,
        [
            (batch.pre_root_id == 0) & has_roots,
            (batch.pre_root_id == batch.post_root_id) & has_roots,
            never,
            never,
            never,
            label.isna(),
        ],
    )
    first = np.zeros(len(batch), dtype=np.int8)
    return batch.drop(columns=LABEL_VALUE).assign(
        neuron_id=batch.pre_root_id,
        nucleus_id=0,
        label=label[batch.index].astype(np.int16),
        label_tier=of_few(first, ["single"]),
        label_source=of_few(first, [config.column]),
    )


def of_few(codes: Any, names: Sequence[str]) -> pd.Categorical:
    """Return `names[code]` for each code, held as one byte where pandas would hold a string."""
    return pd.Categorical.from_codes(codes, pd.Index(names))


def _drop(
    batch: pd.DataFrame,
    funnel: Funnel,
    masks: list["pd.Series[bool]"],
    steps: tuple[str, ...] = DROPS,
) -> pd.DataFrame:
    funnel.rows += len(batch)
    gone = np.zeros(len(batch), dtype=bool)
    for step, mask in zip(steps, masks, strict=True):
        now: Mask = mask.to_numpy(dtype=bool) & ~gone
        funnel.drop(step, int(now.sum()))
        gone |= now
    return batch[~gone]
