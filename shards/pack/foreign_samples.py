"""Samples in a tar that others wrote: members grouped as WebDataset does, labels, identity.

A sample's key is the path up to the first dot of the file's name, as in WebDataset, and its
members stand side by side. What a member is goes by its last extension, in any case: so
`n12.5um.png` is the image of sample `n12`, and `n12.5um.cls` its label. Labels come from `.cls`
members and from `label` in `.json` members: class numbers, or class names. All of them must agree.
"""

import io
import json
import math
import re
import tokenize
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import crc32c
import numpy as np
import pyarrow as pa
from pydantic import JsonValue

from shards.contract.schema import IDENTITY_COLUMNS, UNLABELLED
from shards.images.decode import EXTENSIONS, decoded
from shards.pack.tar_reader import Member

Json = dict[str, JsonValue]

IMAGES = ("npy", *EXTENSIONS)
META = re.compile(r"__[^/]*__($|/)")  # what WebDataset skips
DOCUMENTS = {"readme", "license", "copying", "changelog", "thumbs", "desktop"}
MAX_LABEL = 2**15 - 1
EXACT = 2**53  # whole numbers up to here are exact in a float
MAX_TEXT = 1000
# Version 3 is 2 with names of fields in UTF-8, which arrays of uint8 do not have.
NPY_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
    (3, 0): np.lib.format.read_array_header_2_0,
}
MOST_COLORS = 4  # values of a pixel that stand behind each other
BROKEN_NPY = (ValueError, SyntaxError, TypeError, RecursionError, MemoryError, tokenize.TokenError)


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """Members with one key, side by side in a tar; by their extensions in lower case."""

    key: str
    members: dict[str, Member]

    def of_kind(self, kinds: Sequence[str]) -> list[str]:
        """Return the extensions whose last part is one of `kinds`."""
        return [name for name in self.members if name.rpartition(".")[2] in kinds]


@dataclass
class Seen:
    """Members of a tar that were passed over, and what its unlabeled samples have instead."""

    skipped: list[str] = field(default_factory=list)
    unlabelled: int = 0
    offers: set[str] = field(default_factory=set)  # extensions, and names in JSON


def samples_of(members: Iterable[Member], where: str, seen: Seen) -> Iterator[Sample]:
    """Yield the samples of a tar; a key or member that comes twice is a `ValueError`."""
    sample, keys = None, set[str]()
    for member in members:
        if (parts := _split_name(member.name)) is None:
            seen.skipped.append(member.name)
            continue
        key, extension = parts
        _check_name(key, where, member)
        if sample is None or key != sample.key:
            if sample is not None and not _is_document(sample, seen):
                yield sample
            if key in keys:
                raise ValueError(
                    f"{where}: byte {member.header}: sample {key} comes twice; members of a sample "
                    "must stand side by side, and a key (all before the first dot of a file's "
                    "name) must be of one sample"
                )
            sample = Sample(key=key, members={})
            keys.add(key)
        if extension in sample.members:
            raise ValueError(
                f"{where}: byte {member.header}: sample {key} has two members .{extension}; "
                "pack each key once"
            )
        sample.members[extension] = member
    if sample is not None and not _is_document(sample, seen):
        yield sample


def row_of(
    sample: Sample, where: str, class_names: Sequence[str], seen: Seen
) -> tuple[dict[str, Any], np.ndarray, bool]:
    """Return a sample's row of the index, its image (c, [z], y, x), and whether it is encoded."""
    where = f"{where}: sample {sample.key}"
    image, start, member, encoded = _image(sample, where)
    documents = {
        name: _json(sample.members[name].content, f"{where}: .{name}")
        for name in sample.of_kind(("json",))
    }
    label = _label(sample, documents, where, class_names)
    if label == UNLABELLED:
        seen.unlabelled += 1
        seen.offers.update(f".{name}" for name in sample.members)
        seen.offers.update(f"{key!r} in .json" for found in documents.values() for key in found)
    voxels = memoryview(member.content)[start:]
    row = {
        **_identity(documents, where),
        "key": sample.key,
        "label": label,
        "offset": member.offset + start,
        "length": len(voxels),
        "crc32c": crc32c.crc32c(voxels),
    }
    return row, image, encoded


def _split_name(name: str) -> tuple[str, str] | None:
    """Return key and extension; None for hidden files, files without extension, and metadata."""
    folder, slash, base = name.rpartition("/")
    stem, dot, extension = base.partition(".")
    if not stem or not dot or META.match(name):
        return None
    return folder + slash + stem, extension.lower()


def _is_document(sample: Sample, seen: Seen) -> bool:
    """Tell whether this is a README or its like, not a sample; note it if so."""
    if sample.key.rpartition("/")[2].casefold() not in DOCUMENTS:
        return False
    if sample.of_kind((*IMAGES, "cls", "json")):
        return False
    seen.skipped.extend(member.name for member in sample.members.values())
    return True


def _check_name(key: str, where: str, member: Member) -> None:
    name = member.name
    if not name.isprintable() or ".." in key.split("/") or len(name) > MAX_TEXT:
        raise ValueError(
            f"{where}: byte {member.header}: member {name[:100]!a}, expected a printable UTF-8 "
            f"name of up to {MAX_TEXT} characters without '..'; rename it and pack again"
        )


def _image(sample: Sample, where: str) -> tuple[np.ndarray, int, Member, bool]:
    found = sample.of_kind(IMAGES)
    if len(found) != 1:
        raise ValueError(
            f"{where} has {len(found)} images (members: .{', .'.join(sample.members)}); images "
            f"stream from exactly one .npy, .{', .'.join(EXTENSIONS)} a sample, and a key ends at "
            "the first dot of the file's name: rename the files and pack again"
        )
    member = sample.members[found[0]]
    if found[0].endswith("npy"):
        image, start = _npy(member.content, where)
        return image, start, member, False
    try:
        image = decoded(member.content)
    except ValueError as error:
        raise ValueError(f"{where}: .{found[0]}: {error}") from None
    if not image.size:
        raise ValueError(f"{where}: .{found[0]}: an image of shape {image.shape} has no pixels")
    return image, 0, member, True


def _npy(content: bytes, where: str) -> tuple[np.ndarray, int]:
    """Return an array as (c, [z], y, x), and where in the file its voxels start."""
    stream = io.BytesIO(content)
    try:
        version = np.lib.format.read_magic(stream)
        if version not in NPY_HEADERS:
            raise ValueError(f"version {version[0]}.{version[1]} is unknown")
        shape, fortran, dtype = NPY_HEADERS[version](stream)
    except BROKEN_NPY as error:
        text = " ".join(str(error).split())[:100]
        raise ValueError(f"{where}: .npy has no readable header ({text}); save it anew") from None
    if dtype != np.uint8 or fortran or len(shape) not in (2, 3, 4):
        raise ValueError(
            f"{where}: {str(dtype)[:40]} {str(shape)[:60]}{', Fortran order' if fortran else ''} "
            "cannot be streamed; save uint8 arrays (y, x), (c, y, x) or (c, z, y, x) in C order"
        )
    voxels = np.frombuffer(content, np.uint8, offset=stream.tell())
    if not all(type(side) is int and side > 0 for side in shape) or voxels.size != math.prod(shape):
        raise ValueError(
            f"{where}: .npy holds {voxels.size} voxels, its header says {str(shape)[:80]}; save it "
            "anew"
        )
    if len(shape) > 2 and shape[-1] <= MOST_COLORS < shape[0]:
        raise ValueError(
            f"{where}: .npy of {shape} looks like (y, x, channels), an image whose channels come "
            "last; save arrays (y, x), (c, y, x) or (c, z, y, x)"
        )
    return voxels.reshape((1, *shape) if len(shape) == 2 else shape), stream.tell()


def _label(
    sample: Sample, documents: dict[str, Json], where: str, class_names: Sequence[str]
) -> int:
    """Return the label that all members of a sample agree on, or `UNLABELLED`."""
    found: dict[str, int] = {}
    for name in sample.of_kind(("cls",)):
        try:
            text = sample.members[name].content.decode("utf-8-sig")
        except UnicodeDecodeError:
            text = sample.members[name].content.decode("latin-1")
        found[f".{name}"] = parse_label(text, f"{where}: .{name}", class_names)
    for name, document in documents.items():
        if (value := document.get("label")) is not None:
            text = value if isinstance(value, str) else json.dumps(value)
            place = f".{name} label"
            found[place] = parse_label(text, f"{where}: {place}", class_names)
    if len(set(found.values())) > 1:
        listed = ", ".join(f"{place} {label}" for place, label in found.items())
        raise ValueError(f"{where}: its labels disagree ({listed}); keep the right one")
    return next(iter(found.values()), UNLABELLED)


def parse_label(text: str, where: str, class_names: Sequence[str]) -> int:
    """Return a class number from text: a whole number, or the name of a class."""
    text = text.strip()
    named = [n for n, name in enumerate(class_names) if name == text] or [
        n for n, name in enumerate(class_names) if name.casefold() == text.casefold()
    ]
    number = re.fullmatch(r"([+-]?[0-9]{1,9})(\.0{0,9})?", text)
    numbers = {*named, *([int(number[1])] if number else [])}
    highest = len(class_names) - 1 if class_names else MAX_LABEL
    if len(numbers) == 1 and UNLABELLED <= (label := numbers.pop()) <= highest:
        return label
    classes = f" ({', '.join(class_names)})" if class_names else ""
    raise ValueError(
        f"{where} is {text[:40]!a}, expected one class: its number from 0 to {highest} "
        f"({UNLABELLED} for none), or its name, of those that --class-names gives{classes}"
    )


def _json(content: bytes, where: str) -> Json:
    """Return the object in a JSON member."""
    try:
        found = json.loads(content, parse_constant=_refuse, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        text = " ".join(str(error).split())[:100]
        raise ValueError(f"{where} is not readable ({text}); write valid JSON") from None
    if type(found) is not dict:
        raise ValueError(
            f"{where} holds a {type(found).__name__}, expected an object of names and values"
        )
    return found


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def _unique(pairs: list[tuple[str, JsonValue]]) -> Json:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name comes twice")
    return found


def _identity(documents: dict[str, Json], where: str) -> dict[str, Any]:
    """Return the identity columns that a sample's JSON names; unknown is 0, NaN or empty."""
    row: dict[str, Any] = {}
    for name, kind in {**IDENTITY_COLUMNS, "qc_flags": pa.string()}.items():
        if name in ("key", "label"):
            continue
        read, unknown = _READERS[str(kind)]
        row[name] = unknown
        for document, found in documents.items():
            if (value := found.get(name)) is None or value == "":
                continue
            try:
                value = read(value)
            except (ValueError, OverflowError) as error:
                raise ValueError(
                    f"{where}: .{document} {name} is {str(value)[:40]!r}, expected {error}"
                ) from None
            if row[name] not in (unknown, value) and row[name] == row[name]:
                raise ValueError(f"{where}: its JSON members disagree on {name}; keep one")
            row[name] = value
    row["neuron_id"] = row["neuron_id"] or row["nucleus_id"] or row["pre_root_id"]
    return row


def _whole(value: object) -> int:
    if isinstance(value, str) and re.fullmatch("[+-]?[0-9]{1,19}", value):
        value = int(value)
    if isinstance(value, float) and value.is_integer() and abs(value) < EXACT:
        value = int(value)
    if type(value) is not int or not 0 <= value < 2**63:
        raise ValueError(
            "a whole number of 64 bits from 0, which means unknown, or text of its digits; a float "
            "loses digits"
        )
    return value


def _number(value: object) -> float:
    if isinstance(value, str) and re.fullmatch(r"[+-]?[0-9.]{1,40}(e[+-]?[0-9]+)?", value.lower()):
        value = float(value)
    if type(value) not in (int, float) or not math.isfinite(float(str(value))):
        raise ValueError("a finite number")
    return float(str(value))


def _text(value: object) -> str:
    if not isinstance(value, str) or len(value) > MAX_TEXT or not value.isprintable():
        raise ValueError(f"printable text of up to {MAX_TEXT} characters")
    return value


_READERS: dict[str, tuple[Any, Any]] = {
    "int64": (_whole, 0),
    "double": (_number, math.nan),
    "string": (_text, ""),
}
