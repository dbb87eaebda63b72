"""Notes that the reader of a report needs beside its numbers, in sentences."""

from collections.abc import Iterator

import numpy as np

from eval.checks import baselines
from eval.inputs.rows import Tables
from eval.metrics.bootstrap import FEW_NEURONS, strata_of
from eval.results import Intervals, Neurons
from eval.subject import Part, Subject

SWAPPED_BELOW = 0.4
FEW_VALUES = 10  # of which all may be above 0.5 by chance


def notes_of(
    subject: Subject,
    tables: Tables | None,
    metrics: Intervals,
    consensus: Neurons | None,
    *,
    images: bool,
) -> Iterator[str]:
    """Yield sentences on what is missing, unknown, few or suspicious."""
    yield from subject.notes
    if subject.val is None:
        yield (
            "No validation predictions: "
            + ("the threshold is 0.5 and " if subject.num_classes == 2 else "")
            + "nothing is calibrated."
        )
    yield from _swapped(subject, metrics)
    yield from _no_probabilities(subject)
    if tables is None:
        yield (
            "No shard set was opened for these predictions: no pictures, no baselines that need "
            "the training split, and the split audit covers only the predictions' own tables."
        )
    else:
        yield from _left_out(tables)
        if not images:
            yield "Pictures were left out: no gallery, image baseline or image duplicates."
    if subject.num_classes > 2:
        yield "More than two classes: the most probable one is predicted, no threshold."
    yield from _unknown_neurons(subject)
    if consensus is not None and consensus.correlation is None:
        yield (
            "The correlation within an axon is not measured, since validation has no known "
            "neurons of several synapses: each neuron counts as one synapse."
        )
    for split, part in (("validation", subject.val), ("test", subject.test)):
        if part is not None:
            yield from _few(split, part, subject.num_classes)


def _swapped(subject: Subject, metrics: Intervals) -> Iterator[str]:
    area = metrics.get("auroc")
    if area is None or area.value >= SWAPPED_BELOW or (area.high is not None and area.high >= 0.5):
        return
    of = f"class 1, {subject.info.class_names[1]}" if subject.num_classes == 2 else "its own class"
    yield (
        f"AUROC is {area.value:.3f}, far below 0.5: the classes may be swapped. A probability must "
        f"be that of {of}, and labels must count classes in the order "
        f"{', '.join(subject.info.class_names)}."
    )


def _no_probabilities(subject: Subject) -> Iterator[str]:
    """Say where probabilities look as if they were something else."""
    values = subject.test.scored.probabilities
    if np.isin(values, (0.0, 1.0)).all():
        yield (
            "All probabilities are 0 or 1, as if they were predicted labels: nothing that needs a "
            "ranking (AUROC, average precision, calibration) can be read from them."
        )
    elif subject.num_classes == 2 and len(values) >= FEW_VALUES and values[:, 1].min() >= 0.5:
        yield (
            f"No probability is below 0.5: if they are of the class that was predicted, scores are "
            f"wrong; a probability must be that of {subject.info.class_names[1]} in every row."
        )


def _left_out(tables: Tables) -> Iterator[str]:
    known = baselines.known_features(tables)
    if unknown := [name for name in baselines.FEATURES if name not in known]:
        yield (
            f"Unknown {' and '.join(unknown)} of synapses: "
            + ("no metadata baseline." if not known else "left out of the metadata baseline.")
        )
    if not baselines.has_partners(tables):
        yield "Postsynaptic partners are unknown: no connectivity baselines."


def _unknown_neurons(subject: Subject) -> Iterator[str]:
    test, val = subject.test, subject.val
    if not test.has_neurons:
        yield (
            "Presynaptic neurons are unknown: all that speaks of neurons is left out, and "
            "intervals are over single synapses, too narrow where several belong to one neuron."
        )
    elif test.num_alone:
        yield (
            f"{test.num_alone:,} of {len(test.frame):,} test synapses have no known neuron: in "
            "intervals each counts as its own, so that they may be too narrow, and scores of "
            "neurons leave them out."
        )
    if test.has_neurons and val is not None and val.num_alone:
        yield (
            f"{val.num_alone:,} of {len(val.frame):,} validation synapses have no known neuron: "
            "what is learned of neurons there leaves them out."
        )


def _few(split: str, part: Part, num_classes: int) -> Iterator[str]:
    own = strata_of(part.scored.labels, part.scored.groups, part.scored.num_groups)
    fewest = int(np.bincount(own, minlength=num_classes).min())
    if fewest < FEW_NEURONS:
        unit = "neurons" if part.has_neurons else "synapses"
        yield (
            f"Few {unit}: one class has {fewest} in {split}; what is read from them may not hold "
            "for others"
            + (f", and a class of one {unit[:-1]} has no interval." if fewest < 2 else ".")
        )
