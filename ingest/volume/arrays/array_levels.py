"""What lies at the URL of a zarr or N5 volume: an array, or an image at several scales."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from pydantic import JsonValue

from ingest.volume.arrays.metadata.choose_array import Candidate, choose_array
from ingest.volume.arrays.metadata.n5_metadata import array_of_n5
from ingest.volume.arrays.metadata.ome_levels import OmeImage, parse_multiscales
from ingest.volume.arrays.metadata.voxel_sizes import Placed, placed_by_attributes
from ingest.volume.arrays.metadata.zarr_metadata import Names, array_of_zarr
from ingest.volume.arrays.stored_array import StoredArray
from ingest.volume.ranges.byte_ranges import Fetcher, local_folder
from ingest.volume.ranges.compression import decompress
from ingest.volume.scale import Layer

Document = Mapping[str, JsonValue]
ArrayFormat = Literal["zarr", "n5"]

MOST_LEVELS = 32
MOST_BYTES = 1 << 26  # of a metadata file
MARKERS = {"zarr": ("zarr.json", ".zarray", ".zgroup"), "n5": ("attributes.json",)}
SERIES = "bioformats2raw.layout"
# Attributes of a group that hold for its arrays s0, s1, ….
INHERITED = ("resolution", "voxel_size", "pixelResolution", "units", "offset")


@dataclass(frozen=True, kw_only=True, slots=True)
class Level:
    """One scale: its array, and where its metadata says that it lies."""

    array: StoredArray
    placed: Placed
    documents: tuple[Document, Document]  # its metadata, and the attributes that place it


@dataclass(frozen=True, slots=True)
class Node:
    """An array or a group: its metadata, and the attributes that users give it."""

    is_array: bool
    document: Document
    attributes: Document


def load_levels(fetcher: Fetcher, kind: ArrayFormat, layer: Layer) -> list[Level]:
    """Return the scales of a volume, the finest first.

    In a group on this machine the one array that could be such a layer is found by itself.
    """
    root = _node(fetcher, kind, "")
    if root is None:
        raise ValueError(
            f"{fetcher.url}: no {kind} array or group there (no {' or '.join(MARKERS[kind])}); "
            "correct its path, or its format"
        )
    if root.is_array:
        return [_level(fetcher, kind, "", root)]
    image = parse_multiscales(root.attributes, where=fetcher.url) if kind == "zarr" else None
    if image is not None:
        return [_ome_level(fetcher, root, image, n) for n in range(len(image.datasets))]
    if numbered := _numbered(fetcher, kind):
        inherited = [_inheriting(node, root, n) for n, node in enumerate(numbered)]
        return [_level(fetcher, kind, f"s{n}", node) for n, node in enumerate(inherited)]
    if SERIES in root.attributes or SERIES in _ome(root.attributes):
        raise ValueError(
            f"{fetcher.url}: a collection of images, of bioformats2raw; name one in the path: "
            f"{fetcher.url}/0"
        )
    key = choose_array(_candidates(fetcher, kind), layer, where=fetcher.url)
    chosen = _node(fetcher, kind, key)
    assert chosen is not None
    return [_level(fetcher, kind, key, chosen)]


def _node(fetcher: Fetcher, kind: ArrayFormat, key: str) -> Node | None:
    """Return what is at `key`, None where nothing is."""
    prefix = f"{key}/" if key else ""
    if kind == "n5":
        found = _json(fetcher, f"{prefix}attributes.json")
        return None if found is None else Node("dimensions" in found, found, found)
    document = _json(fetcher, f"{prefix}zarr.json")
    if document is not None:
        attributes = document.get("attributes")
        is_array = document.get("node_type") != "group"
        return Node(is_array, document, attributes if isinstance(attributes, dict) else {})
    document = _json(fetcher, f"{prefix}.zarray")
    is_array = document is not None
    if document is None:
        document = _json(fetcher, f"{prefix}.zgroup")
    attributes = _json(fetcher, f"{prefix}.zattrs")
    if document is None and attributes is None:
        return None
    return Node(is_array, document or {}, attributes or {})


def _json(fetcher: Fetcher, name: str) -> dict[str, JsonValue] | None:
    stored = fetcher.file(name)
    if stored is None:
        return None
    where = f"{fetcher.url}/{name}"
    try:
        value = json.loads(bytes(decompress(*stored, MOST_BYTES)))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: no JSON ({error}); copy the volume's metadata again") from None
    if not isinstance(value, dict):
        raise ValueError(  # noqa: TRY004 (it is what a file holds)
            f"{where}: expected a JSON object; copy the volume's metadata again"
        )
    return value


def _level(fetcher: Fetcher, kind: ArrayFormat, key: str, node: Node) -> Level:
    """Return an array that its own attributes place."""
    where = f"{fetcher.url}/{key}".rstrip("/")
    array = _array(kind, key, node, None, where=where)
    placed = placed_by_attributes(
        node.attributes, array.axes, array.ndim, x_first=kind == "n5", where=where
    )
    return Level(array=array, placed=placed, documents=(node.document, node.attributes))


def _array(kind: ArrayFormat, key: str, node: Node, names: Names, *, where: str) -> StoredArray:
    if kind == "n5":
        return array_of_n5(node.document, key, where=where)
    return array_of_zarr(node.document, node.attributes, key, names, where=where)


def _ome_level(fetcher: Fetcher, group: Node, image: OmeImage, number: int) -> Level:
    key = image.datasets[number].path.strip("/")
    where = f"{fetcher.url}/{key}"
    node = _node(fetcher, "zarr", key)
    if node is None or not node.is_array:
        raise ValueError(f"{where}: no array there, but multiscales name it; copy the volume again")
    array = _array("zarr", key, node, image.names, where=where)
    placed = image.placed(number, array.axes, where=fetcher.url)
    return Level(array=array, placed=placed, documents=(node.document, group.attributes))


def _numbered(fetcher: Fetcher, kind: ArrayFormat) -> list[Node]:
    """Return the arrays s0, s1, … of a group, which are its scales."""
    nodes: list[Node] = []
    while len(nodes) < MOST_LEVELS:
        node = _node(fetcher, kind, f"s{len(nodes)}")
        if node is None or not node.is_array:
            break
        nodes.append(node)
    return nodes


def _inheriting(node: Node, group: Node, number: int) -> Node:
    """Return an array with what its group says of the voxels of all of them, if it does not."""
    own, scales = node.attributes, group.attributes.get("scales")
    factors = own.get("downsamplingFactors")
    if factors is None and isinstance(scales, list) and number < len(scales):
        factors = scales[number]
    if any(key in own for key in INHERITED) or "transform" in own:
        return node
    if factors is None and number > 0:
        return node  # the group's voxel size is that of the finest
    given = {key: group.attributes[key] for key in INHERITED if key in group.attributes}
    attributes = {**given, **own, **({} if factors is None else {"downsamplingFactors": factors})}
    return replace(node, attributes=attributes)


def _candidates(fetcher: Fetcher, kind: ArrayFormat) -> dict[str, Candidate]:
    """Return the arrays below a group; none where its files are not on this machine."""
    folder = local_folder(fetcher.url)
    found: dict[str, Candidate] = {}
    groups = [] if folder is None else [folder]
    while groups:
        for child in sorted(path for path in groups.pop(0).iterdir() if path.is_dir()):
            assert folder is not None
            key = child.relative_to(folder).as_posix()
            node = _node(fetcher, kind, key)
            if node is not None and node.is_array:
                found[key] = _candidate(node.document)
            elif node is not None:
                groups.append(child)
    return found


def _candidate(document: Document) -> Candidate:
    shape = document.get("shape", document.get("dimensions"))
    stated = document.get("data_type", document.get("dataType", document.get("dtype")))
    try:
        dtype = np.dtype(str(stated))
    except TypeError:
        return Candidate(shape=(), dtype=str(stated), itemsize=0)
    sizes = shape if isinstance(shape, list) else []
    return Candidate(
        shape=[int(str(size)) for size in sizes], dtype=dtype.name, itemsize=dtype.itemsize
    )


def _ome(attributes: Document) -> Document:
    value = attributes.get("ome")
    return value if isinstance(value, dict) else {}
