"""Predictions as a Neuroglancer precomputed annotation layer, for millions of synapses.

The format is `neuroglancer_annotations_v1`: points in nanometers, found by id (the synapse's), by
presynaptic neuron, and by place at several levels of detail; each index is a folder of
`neuroglancer_uint64_sharded_v1` files. n annotations, k classes.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt
import pandas as pd

from eval.inputs.predictions import CENTERS, Floats, Ints, PredictionsInfo, probability_matrix
from eval.report.figures import COLORS
from shards.contract.morton import compressed_morton
from shards.storage.atomic import atomic_write, write_json

Ids = npt.NDArray[np.uint64]
SHADER = "void main() { setColor(prop_color()); }"
LIMIT = 4000  # annotations per cell of the spatial index
MAX_LEVELS = 20
IDS_PER_MINISHARD, MINISHARD_BITS = 256, 6
GRAY = 160
# Four-byte properties come before one-byte ones, and an annotation's end is aligned to four.
POINT = np.dtype(
    [("place", "<f4", 3), ("probability", "<f4"), ("predicted", "u1"), ("color", "u1", 3)]
)
POINT_BY_ID = np.dtype([("point", POINT), ("num_neurons", "<u4"), ("neuron", "<u8")])


Sharding = TypedDict(
    "Sharding",
    {
        "@type": str,
        "preshift_bits": int,
        "hash": str,
        "minishard_bits": int,
        "shard_bits": int,
        "minishard_index_encoding": str,
        "data_encoding": str,
    },
)


class Property(TypedDict, total=False):
    """Properties of each annotation beside its place."""

    id: str
    type: str
    description: str
    enum_values: list[int]
    enum_labels: list[str]


class Relationship(TypedDict):
    """An index by something that annotations belong to."""

    id: str
    key: str
    sharding: Sharding


class SpatialLevel(TypedDict):
    """One level of detail of the index by place."""

    key: str
    grid_shape: list[int]
    chunk_size: list[float]
    limit: int
    sharding: Sharding


@dataclass(frozen=True, kw_only=True, slots=True)
class Layer:
    """Annotations in the order of their ids."""

    ids: Ids  # (n,)
    neurons: Ids  # (n,); 0 where unknown
    points: npt.NDArray[Any]  # (n,) of POINT


def layer_of(frame: pd.DataFrame, info: PredictionsInfo, *, where: str) -> Layer:
    """Return the annotations of a predictions table, labelled or not."""
    needed = ["synapse_id", *CENTERS]
    if missing := [name for name in needed if name not in frame]:
        raise ValueError(
            f"{where}: no column {', '.join(missing)}; an annotation needs an id and a place"
        )
    ids = frame["synapse_id"].to_numpy(np.int64)
    if (repeated := frame["synapse_id"].duplicated().to_numpy() | (ids < 0)).any():
        raise ValueError(
            f"{where}: {int(repeated.sum())} rows have no synapse_id of their own, such as "
            f"{ids[repeated.argmax()]}; an annotation needs one, of 0 or more"
        )
    if (nowhere := frame[CENTERS].isna().any(axis=1).to_numpy()).any():
        raise ValueError(
            f"{where}: {int(nowhere.sum())} rows have no place, first synapse_id "
            f"{ids[nowhere.argmax()]}; leave them out, an annotation needs a place"
        )
    order = np.argsort(ids)
    name = next((n for n in ("pre_root_id", "neuron_id") if n in frame), None)
    neurons = frame[name].to_numpy(np.int64) if name else np.zeros(len(ids), np.int64)
    places = frame[CENTERS].to_numpy(np.float64)
    points = _points(places, probability_matrix(frame, info.class_names))
    return Layer(
        ids=ids[order].astype(np.uint64),
        neurons=neurons[order].astype(np.uint64),
        points=points[order],
    )


def _points(places: Floats, probabilities: Floats) -> npt.NDArray[Any]:
    """Color by predicted class, the grayer the less sure; two classes keep P(class 1)."""
    k = probabilities.shape[1]
    predicted, top = probabilities.argmax(axis=1), probabilities.max(axis=1)
    hues = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in COLORS])
    sure = ((top - 1.0 / k) / (1.0 - 1.0 / k))[:, None]
    points = np.zeros(len(places), POINT)
    points["place"], points["predicted"] = places, predicted
    points["probability"] = probabilities[:, 1] if k == 2 else top
    points["color"] = np.round(GRAY + sure * (hues[predicted % len(hues)] - GRAY))
    return points


def write_layer(folder: Path, layer: Layer, class_names: tuple[str, ...]) -> None:
    """Write the layer's folder; `info` last, so that its presence means a complete layer.

    A layer that was there goes first: its shards would show annotations that are not in this one.
    """
    (folder / "info").unlink(missing_ok=True)
    for key in ("by_id", "neuron", "spatial*"):
        for shard in folder.glob(f"{key}/*.shard"):
            shard.unlink()
    low = np.floor(layer.points["place"].min(axis=0).astype(np.float64))
    high = np.floor(layer.points["place"].max(axis=0).astype(np.float64)) + 1.0
    info = {
        "@type": "neuroglancer_annotations_v1",
        "dimensions": {axis: [1e-9, "m"] for axis in "xyz"},
        "lower_bound": low.tolist(),
        "upper_bound": high.tolist(),
        "annotation_type": "point",
        "properties": _properties(class_names),
        "relationships": [_write_neurons(folder, layer)],
        "by_id": {"key": "by_id", "sharding": _write_by_id(folder / "by_id", layer)},
        "spatial": _write_spatial(folder, layer, low, high),
    }
    write_json(folder / "info", info)


def _properties(class_names: tuple[str, ...]) -> list[Property]:
    shown = f"P({class_names[1]})" if len(class_names) == 2 else "P(predicted class)"
    return [
        {"id": "probability", "type": "float32", "description": shown},
        {
            "id": "predicted",
            "type": "uint8",
            "enum_values": list(range(len(class_names))),
            "enum_labels": list(class_names),
        },
        {"id": "color", "type": "rgb"},
    ]


def _write_by_id(folder: Path, layer: Layer) -> Sharding:
    """Write each annotation with its neuron, if it has one: no neuron is a list of none."""
    known = layer.neurons != 0
    values = np.zeros(len(layer.ids), POINT_BY_ID)
    values["point"], values["num_neurons"], values["neuron"] = layer.points, known, layer.neurons
    sizes = POINT_BY_ID.itemsize - np.where(known, 0, layer.neurons.itemsize)
    kept = np.arange(POINT_BY_ID.itemsize) < sizes[:, None]
    return _write_sharded(folder, layer.ids, values.view(np.uint8).reshape(kept.shape)[kept], sizes)


def _write_neurons(folder: Path, layer: Layer) -> Relationship:
    rows = np.flatnonzero(layer.neurons)
    cells, groups = np.unique(layer.neurons[rows], return_inverse=True)
    sharding = _write_cells(folder / "neuron", layer, rows, groups, cells)
    return {"id": "neuron", "key": "neuron", "sharding": sharding}


def _write_spatial(folder: Path, layer: Layer, low: Floats, high: Floats) -> list[SpatialLevel]:
    """Write levels until every annotation is on one: a cell shows a random `LIMIT` at most."""
    rng = np.random.default_rng(0)
    left = rng.permutation(len(layer.ids))
    grid = np.ones(3, np.int64)
    levels: list[SpatialLevel] = []
    while len(left):
        size = (high - low) / grid
        cells = ((layer.points["place"][left] - low) / size).astype(np.int64).clip(0, grid - 1)
        codes, groups, counts = np.unique(
            compressed_morton(cells[:, ::-1], grid[::-1].tolist()),
            return_inverse=True,
            return_counts=True,
        )
        last = len(levels) == MAX_LEVELS - 1
        taken = rng.random(len(left)) < (1.0 if last else LIMIT / counts.max())
        present, groups = np.unique(groups[taken], return_inverse=True)
        key = f"spatial{len(levels)}"
        levels.append(
            {
                "key": key,
                "grid_shape": grid.tolist(),
                "chunk_size": size.tolist(),
                "limit": int(np.bincount(groups).max(initial=0)),
                "sharding": _write_cells(folder / key, layer, left[taken], groups, codes[present]),
            }
        )
        left = left[~taken]
        grid = np.where(size > size.max() / 2.0, 2 * grid, grid)
    return levels


def _write_cells(folder: Path, layer: Layer, rows: Ints, groups: Ints, cells: Ids) -> Sharding:
    """Write one list of annotations per cell: count, annotations, ids."""
    order = np.argsort(groups, kind="stable")
    rows, counts = rows[order], np.bincount(groups, minlength=len(cells))
    values = [
        np.concatenate(
            [
                np.array([len(own)], "<u8").view(np.uint8),
                layer.points[own].view(np.uint8),
                layer.ids[own].astype("<u8").view(np.uint8),
            ]
        )
        for own in np.split(rows, counts.cumsum()[:-1])
    ]
    sizes = np.array([len(value) for value in values], np.int64)
    return _write_sharded(folder, cells, np.concatenate(values), sizes)


def _write_sharded(folder: Path, keys: Ids, data: npt.NDArray[np.uint8], sizes: Ints) -> Sharding:
    """Write values (one after the other in `data`, in the order of `keys`); return the scheme."""
    minishards = max(1, len(keys) // IDS_PER_MINISHARD)
    shard_bits = max(1, (minishards - 1).bit_length() - MINISHARD_BITS)
    scheme: Sharding = {
        "@type": "neuroglancer_uint64_sharded_v1",
        "preshift_bits": 0,
        "hash": "identity",
        "minishard_bits": MINISHARD_BITS,
        "shard_bits": shard_bits,
        "minishard_index_encoding": "raw",
        "data_encoding": "raw",
    }
    if not len(keys):
        return scheme
    minishard = (keys & np.uint64((1 << MINISHARD_BITS) - 1)).astype(np.int64)
    shard = (keys >> np.uint64(MINISHARD_BITS)) & np.uint64((1 << shard_bits) - 1)
    starts = np.cumsum(sizes) - sizes
    order = np.lexsort((keys, minishard, shard))
    for number, own in zip(*_runs(shard[order], order), strict=True):
        content = _shard(keys[own], minishard[own], data, starts[own], sizes[own])
        with atomic_write(folder / f"{int(number):0{-(-shard_bits // 4)}x}.shard") as file:
            file.writelines(content)
    return scheme


def _runs(values: Ids, order: Ints) -> tuple[Ids, list[Ints]]:
    distinct, first = np.unique(values, return_index=True)
    return distinct, np.split(order, first[1:])


def _shard(
    keys: Ids, minishard: Ints, data: npt.NDArray[np.uint8], starts: Ints, sizes: Ints
) -> list[bytes]:
    """Return a shard file: where each minishard's index is, the values, the minishards' indices."""
    values = [
        data[start : start + size].tobytes() for start, size in zip(starts, sizes, strict=True)
    ]
    ends = np.cumsum(sizes)
    where = np.zeros((1 << MINISHARD_BITS, 2), "<u8")
    place, indices = int(ends[-1]), []
    for number in np.unique(minishard):
        own = np.flatnonzero(minishard == number)
        index = np.zeros((3, len(own)), "<u8")
        index[0] = np.diff(keys[own], prepend=np.uint64(0))
        index[1, 0] = ends[own[0]] - sizes[own[0]]  # the others follow without a gap
        index[2] = sizes[own]
        indices.append(index.tobytes())
        where[number] = place, place + index.nbytes
        place += index.nbytes
    return [where.tobytes(), *values, *indices]
