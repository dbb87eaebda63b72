"""The folds of a cross-validation as one: each neuron is tested once, by the model of its fold."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import special

from eval.inputs.columns import probability_columns
from eval.inputs.predictions import Floats, write_predictions
from eval.metrics.metrics import balanced_accuracy, predict
from eval.metrics.threshold import sweep
from eval.subject import Subject, open_subject

POOLED = "pooled.parquet"
POOLED_NOTE = (
    "The folds of a cross-validation, pooled: each fold's threshold comes from its own validation "
    "split, and its scores are moved so that it is 0.5."
)
TINY = 1e-12  # probabilities of 0 and 1 have no finite logit


def pool_folds(runs: tuple[Path, ...], out: Path, criterion: str) -> Path:
    """Write the test predictions of all folds to OUT/pooled.parquet; return its path.

    Each fold's threshold is swept on its own validation split, and its log odds are moved so that
    the threshold is 0.5; of more than two classes they stay as they are. Prints each fold's score.
    """
    subjects = [open_subject(run, use_data=False) for run in runs]
    classes = {subject.info.class_names for subject in subjects}
    if len(classes) > 1:
        raise ValueError(f"the runs have different classes, {sorted(classes)}: they are no folds")
    ids = np.concatenate([subject.test.neuron_ids for subject in subjects])
    neurons, times = np.unique(ids[ids != 0], return_counts=True)  # 0 is an unknown neuron
    if twice := int((times > 1).sum()):
        raise ValueError(
            f"{twice} of {len(neurons)} neurons are tested in several of the {len(runs)} runs: "
            "these are not the folds of one cross-validation (`shards pack --folds`); leave --pool "
            "out to compare them"
        )
    pooled = pd.concat([_fold(subject, criterion) for subject in subjects], ignore_index=True)
    info = replace(
        subjects[0].info,
        run=f"{len(runs)} folds pooled",
        data_url=None,
        fold=None,
        manifest_sha256=None,
        checkpoint=None,
    )
    out.mkdir(parents=True, exist_ok=True)
    write_predictions(out / POOLED, pooled, info)
    return out / POOLED


def _fold(subject: Subject, criterion: str) -> pd.DataFrame:
    test = subject.test.scored
    frame = subject.test.frame.assign(neuron_id=subject.test.neuron_ids[test.groups])
    if subject.num_classes > 2:
        return frame
    if subject.val is None:
        raise ValueError(
            f"{subject.path}: no predictions on val beside it, so that the fold has no threshold; "
            "predict with --split val test"
        )
    val = subject.val.scored
    tau = sweep(val.labels, val.probabilities[:, 1], criterion).tau
    accuracy = balanced_accuracy(test.labels, predict(test.probabilities, tau))
    print(f"{subject.name}: threshold {tau:.3f}, test balanced accuracy {accuracy:.3f}")
    name = probability_columns(subject.info.class_names)[0]
    return frame.assign(**{name: _moved(test.probabilities[:, 1], tau)})


def _moved(probabilities: Floats, tau: float) -> Floats:
    """Return probabilities whose log odds are lower by those of `tau`; tau itself becomes 0.5."""
    odds = special.logit(np.clip(probabilities, TINY, 1 - TINY))
    return np.asarray(special.expit(odds - special.logit(np.clip(tau, TINY, 1 - TINY))))
