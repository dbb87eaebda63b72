"""Samples that splits share, and what that means for a score.

Between train and test it must be nothing. On validation thresholds, calibration and checkpoints are
chosen, no weights are learned: what another split shares with it biases these choices.
"""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

from eval.checks.baselines import center_section, shrink
from eval.inputs.predictions import CENTERS, Floats, Ints
from eval.inputs.rows import Images
from eval.results import Finding

THUMBNAIL = 32  # pixels per side
SAME_ABOVE = 0.95  # correlation of thumbnails
MOST = 0.5  # a test split of which validation has this share was not held out
NEURONS, SAMPLES, BOXES, IMAGES = CHECKS = (
    "shared neurons",
    "duplicate samples",
    "overlapping boxes",
    "duplicate images",
)


def show_finding(finding: Finding) -> str:
    """Return what two splits share, with examples."""
    examples = f" (such as {', '.join(finding.examples)})" if finding.examples else ""
    shared = f"{finding.found:,} of {finding.of:,} {finding.unit}"
    return f"{finding.check}: {shared} shared between {' and '.join(finding.splits)}{examples}"


def audit_tables(
    frames: dict[str, pd.DataFrame], box_nm: tuple[float, float, float] | None
) -> list[Finding]:
    """Compare every two splits' samples; `box_nm` is an image's extent in x, y, z.

    What one of two splits does not know (its neurons, its places) is not compared.
    """
    findings = []
    for pair in combinations(frames, 2):
        a, b = frames[pair[0]], frames[pair[1]]
        findings.append(_shared(a, b, pair, NEURONS, ("neuron_id", "neurons")))
        samples = _shared(a, b, pair, SAMPLES, ("synapse_id", "synapses"))
        if not samples.of:
            samples = _shared(a, b, pair, SAMPLES, ("key", "samples"))
        findings.append(samples)
        if box_nm is not None and all(name in frame for frame in (a, b) for name in CENTERS):
            findings.append(_overlaps(a, b, box_nm, pair))
    return [graded(one) for one in findings if one.of]


def graded(finding: Finding) -> Finding:
    """Return a finding with its grade: a leak, or a selection on what was seen; None if clean.

    What train and test share is a leak, and so is a test split that is mostly in validation.
    """
    if not finding.found:
        return finding
    of_test = "test" in finding.splits
    most = of_test and finding.found >= MOST * finding.of
    leak = most or (of_test and "train" in finding.splits)
    return replace(finding, grade="leak" if leak else "selection")


def unchecked(findings: list[Finding], splits: list[str]) -> tuple[str, ...]:
    """Return which checks were not made, of all splits or of the named ones."""
    pairs = list(combinations(splits, 2))
    made = {(one.check, one.splits) for one in findings}
    result = []
    for check in CHECKS:
        left = [" and ".join(pair) for pair in pairs if (check, pair) not in made]
        if left:
            result.append(check if len(left) == len(pairs) else f"{check} of {', '.join(left)}")
    return tuple(result)


def selection_notes(findings: list[Finding]) -> list[str]:
    """Return sentences on what validation shares with other splits."""
    return [
        f"{show_finding(one)}. {SELECTION[one.splits[0] == 'train']}"
        for one in findings
        if one.grade == "selection"
    ]


SELECTION = {
    False: "Thresholds, calibration and checkpoints are chosen on validation, so scores on test "
    "may be a little too high; it is no leak from training.",
    True: "Thresholds, calibration and checkpoints are chosen on validation, of which training has "
    "seen a part, so the choice may be a poor one; test is not touched by it.",
}


def audit_images(images: dict[str, Images]) -> list[Finding]:
    """Compare every two splits' images (b, c, [z], y, x) by thumbnails of their center sections."""
    thumbs = {split: thumbnails(values) for split, values in images.items()}
    return [
        graded(_duplicates(thumbs[first], thumbs[second], (first, second)))
        for first, second in combinations(thumbs, 2)
    ]


def thumbnails(images: Images) -> Floats:
    """Return the center sections (b, p) at `THUMBNAIL` pixels per side, mean 0 and length 1."""
    small = shrink(center_section(images), THUMBNAIL).reshape(len(images), -1)
    small = small - small.mean(axis=1, keepdims=True)
    return np.asarray(small / np.maximum(np.linalg.norm(small, axis=1, keepdims=True), 1e-9))


def _shared(
    a: pd.DataFrame, b: pd.DataFrame, pair: tuple[str, str], check: str, ids: tuple[str, str]
) -> Finding:
    """Compare `ids`, a column and what it counts, 0 (unknown) aside.

    `of` counts the second's, 0 where either knows none.
    """
    column, unit = ids
    first, second = (_known(frame, column) for frame in (a, b))
    both = first.intersection(second)
    return Finding(
        check=check,
        splits=pair,
        found=len(both),
        of=len(second) if len(first) else 0,
        unit=unit,
        examples=tuple(str(value) for value in both[:5]),
    )


def _known(frame: pd.DataFrame, column: str) -> pd.Index:
    values = pd.Index(frame[column].unique() if column in frame else [])
    return values[(values != 0) & (values != "")].sort_values()


def _overlaps(
    a: pd.DataFrame, b: pd.DataFrame, box_nm: tuple[float, float, float], pair: tuple[str, str]
) -> Finding:
    """Boxes of the same size overlap where their centers are less than a box apart on each axis.

    Samples without a place are not counted.
    """
    a, b = (frame.dropna(subset=CENTERS) for frame in (a, b))
    scaled = [frame[CENTERS].to_numpy(np.float64) / np.array(box_nm) for frame in (a, b)]
    rows = np.zeros(0, np.int64)
    if len(a) and len(b):
        near, _ = cKDTree(scaled[0]).query(scaled[1], p=np.inf, distance_upper_bound=1.0 - 1e-9)
        rows = np.flatnonzero(np.isfinite(near))
    return Finding(
        check=BOXES,
        splits=pair,
        found=len(rows),
        of=len(b) if len(a) else 0,
        unit=f"{pair[1]} samples that have a place",
        examples=_names(b, rows),
    )


def _names(frame: pd.DataFrame, rows: Ints) -> tuple[str, ...]:
    name = next((n for n in ("synapse_id", "key") if n in frame and frame[n].iloc[:1].any()), None)
    if name is None:
        return tuple(f"row {row}" for row in rows[:5])
    return tuple(str(value) for value in frame[name].iloc[rows[:5]])


def _duplicates(first: Floats, second: Floats, pair: tuple[str, str]) -> Finding:
    highest = np.zeros(len(second))
    for start in range(0, len(second), 1024):
        part = slice(start, start + 1024)
        highest[part] = (second[part] @ first.T).max(axis=1)
    rows = np.flatnonzero(highest > SAME_ABOVE)
    return Finding(
        check=IMAGES,
        splits=pair,
        found=len(rows),
        of=len(second),
        unit=f"{pair[1]} images",
        examples=tuple(f"row {row}" for row in rows[:5]),
    )
