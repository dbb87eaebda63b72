"""Two sets of predictions over the same synapses: what differs, and whether it could be chance."""

from dataclasses import replace

import numpy as np
import pandas as pd

from eval.inputs.predictions import Ints
from eval.metrics.bootstrap import Scored, difference
from eval.metrics.metrics import SUM_METRICS
from eval.metrics.strata import subset
from eval.results import Gap
from eval.subject import Part

COMPARED = ("balanced_accuracy", "accuracy", "auroc", "mcc", "log_loss")


def common_rows(first: pd.DataFrame, second: pd.DataFrame) -> tuple[Ints, Ints]:
    """Return the rows of each table that hold the same samples, in the first's order."""
    name = "key" if "key" in first and "key" in second else "synapse_id"
    if name not in first or name not in second:
        raise ValueError(
            "the predictions share neither key nor synapse_id, so they cannot be paired"
        )
    matches: Ints = pd.Index(second[name].to_numpy()).get_indexer(pd.Index(first[name].to_numpy()))
    rows = np.flatnonzero(matches >= 0)
    return rows, matches[rows]


def paired(
    first: Part, second: Part, taus: tuple[float | None, float | None]
) -> tuple[Scored, Scored]:
    """Return both as problems over their common samples and the first's neurons."""
    own, other = common_rows(first.frame, second.frame)
    mask = np.zeros(len(first.scored.labels), bool)
    mask[own] = True
    a = replace(subset(first.scored, mask), tau=taus[0])
    b = replace(a, probabilities=second.scored.probabilities[other], tau=taus[1])
    if not np.array_equal(a.labels, second.scored.labels[other]):
        wrong = int((a.labels != second.scored.labels[other]).sum())
        raise ValueError(
            f"the two predictions disagree about the labels of {wrong} of {len(own)} common "
            "samples; compare predictions made on the same data set"
        )
    return a, b


def compare(
    first: Part,
    second: Part,
    taus: tuple[float | None, float | None],
    metrics: tuple[str, ...] = COMPARED,
) -> dict[str, Gap]:
    """Return second - first for each metric over the common samples: interval and p value."""
    a, b = paired(first, second, taus)
    whole = len(np.unique(a.labels)) == a.probabilities.shape[1]
    return {name: difference(a, b, name) for name in metrics if whole or name in SUM_METRICS}
