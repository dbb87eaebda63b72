"""Synapses to look at: which ones, their pictures, and where they are in Neuroglancer."""

import base64
import io
import json
from dataclasses import dataclass
from typing import TypedDict
from urllib.parse import quote

import numpy as np
import pandas as pd
from PIL import Image

from eval.evaluate import Evaluation
from eval.inputs.predictions import Floats, Ints
from eval.inputs.rows import Images
from eval.metrics.bootstrap import SEED, Scored
from eval.neurons.consensus import log_odds_above
from eval.neurons.suspects import LISTED, place_of
from eval.report.text import show_probability
from eval.subject import Subject, images_of, rows_in_index
from shards.contract.schema import ImageSpec
from shards.storage.urls import without_secrets

PER_GROUP = {"patch": 12, "cube": 6}
QUALITY = 75
NEUROGLANCER = "https://neuroglancer-demo.appspot.com/#!"
PUBLIC = ("http://", "https://", "s3://", "gs://")


Shown = tuple[tuple[str, str], ...]  # class, probability


class ViewerLayer(TypedDict, total=False):
    """A layer in Neuroglancer's state."""

    type: str
    source: str
    name: str
    segments: list[str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Volume:
    """The volume of an ingest job, as far as links need it."""

    path: str | None
    format: str
    segmentation: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Stack:
    """Pictures of one image: sections one below the other, and two planes through the center."""

    sections: str  # a data URI
    num_sections: int
    width: int  # pixels of a section
    height: int
    xz: str | None = None
    yz: str | None = None
    depth: int = 0  # what z takes in the planes, in pixels of a section
    bar: str = ""  # the length of the scale bar; empty where the voxel size is unknown
    bar_share: float = 0.0  # of the width


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """One pictured synapse."""

    stack: Stack
    name: str
    neuron: str
    true: str
    predicted: str
    right: bool
    probabilities: Shown
    tau: str  # empty where none decides
    calibrated: Shown  # empty where nothing is calibrated
    link: str | None


def choose_rows(scored: Scored, probabilities: Floats, count: int) -> dict[str, Ints]:
    """Return rows to show by group: drawn right and wrong, the surest wrong, the least sure.

    With a threshold, sure is far from it in log odds; else by calibrated `probabilities` (n, k).
    """
    rng = np.random.default_rng(SEED)
    right = scored.predicted == scored.labels
    wrong = np.flatnonzero(~right)
    if scored.tau is None:
        top = np.sort(probabilities, axis=1)
        sure = top[:, -1] - top[:, -2]
    else:
        sure = np.abs(log_odds_above(scored.probabilities[:, 1], scored.tau))
    return {
        "Right (drawn at random)": _some(np.flatnonzero(right), count, rng),
        "Wrong (drawn at random)": _some(wrong, count, rng),
        "Most confident and wrong": wrong[np.argsort(-sure[wrong], kind="stable")][:count],
        "Most uncertain": np.argsort(sure, kind="stable")[:count],
    }


def _some(rows: Ints, count: int, rng: np.random.Generator) -> Ints:
    drawn: Ints = np.sort(rng.permutation(rows)[:count])
    return drawn


def gallery(evaluation: Evaluation, segmentation: str | None) -> dict[str, list[Card]]:
    """Return the cards of every group; the subject must have a shard set."""
    subject, test = evaluation.subject, evaluation.test
    assert subject.shards is not None
    image = subject.shards.manifest.image
    groups = choose_rows(test, evaluation.calibrated, PER_GROUP[image.view])
    groups["At odds with a sure neuron"] = evaluation.odd_rows[: PER_GROUP[image.view]]
    rows = np.unique(np.concatenate(list(groups.values())))
    frame = subject.test.frame.iloc[rows].reset_index(drop=True)
    images = images_of(subject, "test", rows_in_index(subject, "test", frame))
    links = [neuroglancer_link(subject, frame, i, segmentation) for i in range(len(rows))]
    cards = {
        int(row): _card(evaluation, int(row), draw(images[place], image), links[place])
        for place, row in enumerate(rows)
    }
    return {name: [cards[int(row)] for row in own] for name, own in groups.items() if len(own)}


def _card(evaluation: Evaluation, row: int, stack: Stack, link: str | None) -> Card:
    names, test = evaluation.run.class_names, evaluation.test
    predicted, true = int(test.predicted[row]), int(test.labels[row])
    neuron = int(evaluation.subject.test.neuron_ids[test.groups[row]])
    return Card(
        stack=stack,
        name=_name(evaluation.subject.test.frame, row),
        neuron=str(neuron) if neuron else "",
        true=names[true],
        predicted=names[predicted],
        right=predicted == true,
        probabilities=_shown(names, test.probabilities[row], test.tau),
        tau="" if test.tau is None else show_probability(test.tau),
        calibrated=_shown(names, evaluation.calibrated[row], None)
        if evaluation.run.calibration.chosen not in (None, "none")
        else (),
        link=link,
    )


def _name(frame: pd.DataFrame, row: int) -> str:
    """Return a synapse's id, its key where the id is not known."""
    names = [name for name in ("synapse_id", "key") if name in frame and frame[name].iloc[row]]
    return str(frame[names[0]].iloc[row]) if names else "unknown"


def _shown(names: tuple[str, ...], values: Floats, tau: float | None) -> Shown:
    """Return each class's probability as text, of two classes the second's."""
    pairs = list(zip(names, values.tolist(), strict=True))
    kept = pairs[1:] if len(pairs) == 2 else pairs
    return tuple((name, show_probability(value, tau)) for name, value in kept)


def draw(image: Images, spec: ImageSpec) -> Stack:
    """Return pictures of an image (c, [z], y, x), of its first channel."""
    first = image[0]
    height, width = first.shape[-2:]
    bar, share = scale_bar(width, spec.voxel_size_nm)
    if first.ndim == 2:
        return Stack(
            sections=encode(first),
            num_sections=1,
            width=width,
            height=height,
            bar=bar,
            bar_share=share,
        )
    depth = len(first)
    return Stack(
        sections=encode(first.reshape(depth * height, width)),
        num_sections=depth,
        width=width,
        height=height,
        xz=encode(first[:, height // 2]),
        yz=encode(first[:, :, width // 2].T),
        depth=round(depth * spec.stretch),
        bar=bar,
        bar_share=share,
    )


def scale_bar(width: int, voxel_size_nm: tuple[float, ...] | None) -> tuple[str, float]:
    """Return the length of a scale bar as text, and its share of an image's `width` in pixels.

    It is the longest of 1, 2 or 5 times a power of ten that takes a third of the width at most.
    """
    if voxel_size_nm is None:
        return "", 0.0
    width_nm = width * voxel_size_nm[-1]
    power = 10.0 ** np.floor(np.log10(width_nm / 3))
    length_nm = power * max(step for step in (1, 2, 5) if step * power <= width_nm / 3)
    text = f"{length_nm / 1000:g} µm" if length_nm >= 1000 else f"{length_nm:g} nm"
    return text, float(length_nm / width_nm)


def encode(pixels: Images) -> str:
    """Return gray pixels (y, x) as a WebP data URI."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "WEBP", quality=QUALITY)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def neuroglancer_link(
    subject: Subject, frame: pd.DataFrame, row: int, segmentation: str | None
) -> str | None:
    """Return a link to the place of a row's synapse, None where the volume is not a public one."""
    volume, nm = volume_of(subject), place_of(frame, row)
    if volume is None or volume.format != "precomputed" or nm is None:
        return None
    if (source := public_source(volume.path)) is None:
        return None
    layers: list[ViewerLayer] = [{"type": "image", "source": source, "name": "EM"}]
    if segments := public_source(segmentation or volume.segmentation):
        # Each from its own column: a row of the table would make floats of the ids.
        own_roots = [
            frame[name].iloc[row] for name in ("pre_root_id", "post_root_id") if name in frame
        ]
        roots = [str(root) for root in own_roots if root]
        layers.append(
            {
                "type": "segmentation",
                "source": segments,
                "segments": roots,
                "name": "segmentation",
            }
        )
    state = {
        "dimensions": {axis: [1e-9, "m"] for axis in "xyz"},
        "position": nm,
        "crossSectionScale": 4,
        "projectionScale": 20000,
        "layers": layers,
        "layout": "4panel",
    }
    return NEUROGLANCER + quote(json.dumps(state, separators=(",", ":")))


def suspect_links(evaluation: Evaluation, segmentation: str | None) -> dict[str, list[str | None]]:
    """Return links to listed suspects, {} where the volume is not a public one.

    A neuron's leads to that of its synapses that is the least like its label.
    """
    subject, frame = evaluation.subject, evaluation.subject.test.frame
    suspects = evaluation.run.suspects
    if suspects is None or volume_of(subject) is None:
        return {}
    own = evaluation.calibrated[np.arange(len(frame)), evaluation.test.labels]
    order = np.argsort(own, kind="stable")
    ids = subject.test.neuron_ids[evaluation.test.groups[order]]
    least = dict(zip(*np.unique(ids, return_index=True), strict=True))
    listed = {
        "mixed_neurons": [one.neuron_id for one in suspects.mixed_neurons.listed],
        "mislabelled_neurons": [one.neuron_id for one in suspects.mislabelled_neurons.listed],
    }
    rows = {name: [int(order[least[one]]) for one in own_ids] for name, own_ids in listed.items()}
    rows["odd_synapses"] = list(evaluation.odd_rows[:LISTED])
    return {
        name: [neuroglancer_link(subject, frame, row, segmentation) for row in own_rows]
        for name, own_rows in rows.items()
    }


def volume_of(subject: Subject) -> Volume | None:
    """Return what the job says of the volume that the samples were cut from; None if unknown."""
    dataset = subject.shards.manifest.dataset if subject.shards else {}
    job = dataset.get("config", {}).get("volume", {})
    if not job:
        return None
    return Volume(
        path=job.get("path"),
        format=job.get("format", "precomputed"),
        segmentation=job.get("segmentation"),
    )


def public_source(path: str | None) -> str | None:
    """Return the Neuroglancer source of a precomputed layer, if it is a public one."""
    bare = without_secrets((path or "").removeprefix("precomputed://"))
    return f"precomputed://{bare}" if bare.startswith(PUBLIC) else None
