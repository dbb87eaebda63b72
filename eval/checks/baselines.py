"""Baselines beside every score: guesses without images, or from the simplest image features.

A baseline is fitted on the training split alone and gives probabilities for validation and test;
its threshold then comes from validation, like the model's. The presynaptic neuron's own label is
never a feature: `leaked_connectivity` shows what it would have given.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from skimage.feature import hog
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from eval.inputs.predictions import CENTERS, Floats, Ints
from eval.inputs.rows import Images, Tables

SEED = 42
SMOOTHING = 1.0  # Laplace
FIT_ROWS = 200_000
HOG_PIXELS = 128
HOG_TRAIN_IMAGES = 3000
GREY_BINS, RINGS = 16, 4
FEATURES = {"size": ("log size", ["size"]), "place": ("x, y, z", CENTERS)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Guess:
    """Probabilities (n, k) for validation and test."""

    val: Floats
    test: Floats
    note: str = ""


def labels_of(frame: pd.DataFrame) -> Ints:
    """Return the labels (n,) as int64."""
    return frame["label"].to_numpy(np.int64)


def majority(tables: Tables) -> Guess:
    """Guess the class that training has most of, with its classes' shares as probabilities."""
    counts = np.bincount(labels_of(tables.train), minlength=tables.num_classes)
    share = counts / counts.sum()
    return Guess(
        val=np.tile(share, (len(tables.val), 1)),
        test=np.tile(share, (len(tables.test), 1)),
        note="the most frequent class of the training split",
    )


def known_features(tables: Tables) -> dict[str, str]:
    """Return which of `FEATURES` training and test know of synapses, and how they are called."""
    frames = [frame for frame in (tables.train, tables.val, tables.test) if len(frame)]
    known = {
        name: shown
        for name, (shown, columns) in FEATURES.items()
        if all(frame[columns].notna().all(axis=1).any() for frame in frames)
    }
    return known | {"tag": "target compartment"} if all("tag" in f for f in frames) else known


def metadata(tables: Tables) -> Guess:
    """Guess from what is known of size, place and target compartment.

    A row without what others have gets the median of training.
    """
    known = known_features(tables)
    tags = sorted(tables.train["tag"].dropna().unique()) if "tag" in known else []
    columns = [c for name in FEATURES if name in known for c in FEATURES[name][1]]
    typical = tables.train[columns].median()

    def features(frame: pd.DataFrame) -> Floats:
        numbers = frame[columns].fillna(typical)
        if "size" in columns:
            numbers = numbers.assign(size=np.log1p(numbers["size"].clip(0.0)))
        kinds = [(frame["tag"] == tag).to_numpy(np.float64) for tag in tags]
        return np.column_stack([numbers.to_numpy(np.float64), *kinds])

    return _logistic(
        tables,
        [features(f) for f in (tables.train, tables.val, tables.test)],
        note=f"logistic regression on {', '.join(known.values())}",
    )


def has_partners(tables: Tables) -> bool:
    """Return whether postsynaptic partners are known, in training and in test."""
    return all(bool((frame["post_root_id"] != 0).any()) for frame in (tables.train, tables.test))


def connectivity(tables: Tables) -> Guess:
    """Guess from the labels of the partner's other inputs in the training split.

    Of a training row's own neuron nothing is counted, neither that synapse nor its others onto the
    same partner, so that training rows look like test rows, whose neuron training has not seen.
    """
    train = _neurons_apart(tables.train)
    counts = _partner_counts(train, tables.num_classes)
    own = _partner_counts(train, tables.num_classes, by=["post_root_id", "neuron_id"])
    inputs = [
        _priors(_look_up(counts, train) - _look_up(own, train, by=["post_root_id", "neuron_id"])),
        *(_priors(_look_up(counts, frame)) for frame in (tables.val, tables.test)),
    ]
    seen = float((_look_up(counts, tables.test).sum(axis=1) > 0).mean())
    return _logistic(
        tables,
        inputs,
        note="logistic regression on Laplace-smoothed class priors of the postsynaptic partner, "
        f"from training labels alone; {seen:.0%} of test synapses have a partner seen in training",
    )


def _neurons_apart(frame: pd.DataFrame) -> pd.DataFrame:
    """Give each row of an unknown neuron (0) a neuron of its own."""
    ids = frame["neuron_id"].to_numpy(np.int64)
    return frame.assign(neuron_id=np.where(ids == 0, -1 - np.arange(len(ids)), ids))


def leaked_connectivity(tables: Tables) -> Guess:
    """Do what must not be done: count every split's labels, each row's own among them."""
    everyone = pd.concat([tables.train, tables.val, tables.test], ignore_index=True)
    counts = _partner_counts(everyone, tables.num_classes)
    frames = (tables.train, tables.val, tables.test)
    return _logistic(
        tables,
        [_priors(_look_up(counts, frame)) for frame in frames],
        note="the same with the labels of all splits, each synapse's own included: circular",
    )


def hog_forest(tables: Tables, read: Callable[[str, Ints], Images]) -> Guess:
    """Guess by a random forest from oriented gradients and gray values of the center section.

    `read(split, rows)` gives images (b, c, [z], y, x) of the rows of a split's table.
    """
    rng = np.random.default_rng(SEED)
    rows = np.arange(len(tables.train))
    if len(rows) > HOG_TRAIN_IMAGES:
        rows = np.sort(rng.choice(rows, HOG_TRAIN_IMAGES, replace=False))
    forest = RandomForestClassifier(
        300, min_samples_leaf=2, class_weight="balanced", random_state=SEED, n_jobs=2
    )
    forest.fit(_hog_features("train", rows, read), labels_of(tables.train)[rows])
    forest.set_params(n_jobs=1)  # threads add the trees' votes in any order: other last bits
    guesses = {
        split: _all_classes(
            forest.predict_proba(_hog_features(split, np.arange(len(frame)), read)),
            forest.classes_,
            tables.num_classes,
        )
        if len(frame)
        else np.zeros((0, tables.num_classes))
        for split, frame in (("val", tables.val), ("test", tables.test))
    }
    note = (
        "random forest of 300 trees on oriented gradients and gray values of the center section, "
        f"{len(rows)} training images"
    )
    return Guess(val=guesses["val"], test=guesses["test"], note=note)


def center_section(images: Images) -> Images:
    """Return the first channel's center section (b, y, x) of images (b, c, [z], y, x)."""
    first = images[:, 0]
    return first[:, first.shape[1] // 2] if first.ndim == 4 else first


def shrink(images: Images, pixels: int) -> Floats:
    """Return images (b, y, x) averaged down to at most `pixels` a side."""
    step = max(1, -(-max(images.shape[1:]) // pixels))
    height, width = (side // step * step for side in images.shape[1:])
    cut = images[:, :height, :width].astype(np.float64)
    tiles = cut.reshape(len(cut), height // step, step, width // step, step)
    return np.asarray(tiles.mean(axis=(2, 4)))


def _hog_features(split: str, rows: Ints, read: Callable[[str, Ints], Images]) -> Floats:
    parts = []
    for start in range(0, len(rows), 64):
        for image in shrink(center_section(read(split, rows[start : start + 64])), HOG_PIXELS):
            cell = max(4, min(image.shape) // 6)
            gradients = hog(image, pixels_per_cell=(cell, cell), cells_per_block=(2, 2))
            parts.append(np.concatenate([gradients, _grey_values(image)]).astype(np.float32))
    return np.stack(parts)


def _grey_values(image: Floats) -> Floats:
    """Return an image's histogram, and mean and deviation in rings around its center."""
    counts, _ = np.histogram(image, GREY_BINS, (0.0, 256.0))
    y, x = (np.linspace(-1.0, 1.0, side) for side in image.shape)
    rings = np.minimum(np.hypot(y[:, None], x) * RINGS, RINGS).astype(np.int64)
    inside = [image[rings == ring] for ring in range(RINGS)]
    moments = [moment for ring in inside for moment in (ring.mean(), ring.std())]
    return np.concatenate([counts / image.size, moments])


def _logistic(tables: Tables, inputs: list[Floats], *, note: str) -> Guess:
    labels = labels_of(tables.train)
    rows = np.linspace(0, len(labels) - 1, min(len(labels), FIT_ROWS)).astype(np.int64)
    model = make_pipeline(
        StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=1000)
    )
    model.fit(inputs[0][rows], labels[rows])
    val, test = (
        _all_classes(model.predict_proba(x), model.classes_, tables.num_classes)
        if len(x)
        else np.zeros((0, tables.num_classes))
        for x in inputs[1:]
    )
    return Guess(val=val, test=test, note=note)


def _all_classes(values: Floats, classes: Ints, num_classes: int) -> Floats:
    full = np.zeros((len(values), num_classes))
    full[:, classes] = values
    return full


def _partner_counts(
    frame: pd.DataFrame, num_classes: int, by: list[str] | None = None
) -> pd.DataFrame:
    """Return counts per class of known partners, indexed by the columns `by`."""
    by = by or ["post_root_id"]
    known = frame[frame["post_root_id"] != 0]
    onehot = pd.DataFrame(np.eye(num_classes)[labels_of(known)], index=known.index)
    return onehot.groupby([known[name] for name in by]).sum()


def _look_up(counts: pd.DataFrame, frame: pd.DataFrame, by: list[str] | None = None) -> Floats:
    """Return the counts (n, k) of each row's partner, zeros where it is not among them."""
    keys = frame[by or ["post_root_id"]]
    index = pd.MultiIndex.from_frame(keys) if by else pd.Index(keys["post_root_id"])
    return counts.reindex(index, fill_value=0.0).to_numpy(np.float64)


def _priors(counts: Floats) -> Floats:
    """Return smoothed log odds of each class and log number of inputs (n, k + 1)."""
    share = (counts + SMOOTHING) / (counts.sum(axis=1) + counts.shape[1] * SMOOTHING)[:, None]
    return np.column_stack([np.log(share / (1.0 - share)), np.log1p(counts.sum(axis=1))])
