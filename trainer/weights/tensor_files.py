"""Files of tensors: safetensors, and what `torch.save` writes, read without unpickling code.

Whatever a file holds, reading it gives tensors or a `ValueError` of one line that says what the
file is instead. Bits that changed are told by the checksums that a .pth file holds (CRC-32 of each
part) and by a hash in its name, as in torchvision's `resnet18-f37072fd.pth`.
"""

import io
import re
import warnings
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from pickle import UnpicklingError

import torch
from pydantic import ConfigDict, with_config
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from shards.contract.documents import read_document

Tensors = dict[str, Tensor]
SAVE = "save the model's state_dict() with torch.save, or as safetensors"
ZIP = b"PK\x03\x04"
HASH_IN_NAME = re.compile(r"-([0-9a-f]{8}|[0-9a-f]{64})\.[a-z]+$")
DEPTH = 3  # of dicts within dicts
# What other files begin with, in lower case.
NOT_WEIGHTS = (
    (
        (b"<!doctype", b"<html", b"<head", b"<?xml", b"<body"),
        "a web page, not weights; download from the link to the file itself",
    ),
    (
        (b"version https://git-lfs",),
        "a Git LFS pointer, not the file that it stands for; run `git lfs pull` there",
    ),
    ((b"\x1f\x8b",), "compressed by gzip; run `gunzip` first"),
    ((b"\x89hdf",), f"an HDF5 file, such as Keras writes; {SAVE}"),
    ((b"{", b"["), "JSON text, not weights; fetch it again"),
)


def read_tensors(path: Path, *, cure: str = "fetch it again") -> dict[str, Tensors]:
    """Return the tensors of a file: a dict of names to tensors for each place that has some.

    The place is '' for the file's outermost dict, and such as 'state_dict' or 'model.ema' for one
    within. A file whose hash stands in a state.json beside it must have it.
    """
    try:
        data = path.read_bytes()
    except IsADirectoryError:
        raise ValueError(f"{path}: a folder; give the file of weights in it") from None
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"{path}: no such weights file; check --weights") from None
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}); check --weights") from None
    expected = beside(path).files.get(path.name)
    if expected is not None and sha256(data).hexdigest() != expected:
        raise ValueError(f"{path}: damaged, its SHA-256 is not the one in state.json; {cure}")
    return parse_tensors(data, where=str(path), name=path.name, cure=cure)


def parse_tensors(data: bytes, *, where: str, name: str, cure: str) -> dict[str, Tensors]:
    """Return the tensors in the bytes of a file called `name`; see `read_tensors`."""
    if not data:
        raise ValueError(f"{where}: an empty file; {cure}")
    is_safetensors = data[8:9] == b"{"  # behind a length
    start = data[:200].lstrip().lower()
    for beginnings, what in NOT_WEIGHTS:
        if start.startswith(beginnings) and not is_safetensors:
            raise ValueError(f"{where}: {what}")
    expected, digest = _hash_in(name), sha256(data).hexdigest()
    if not digest.startswith(expected):
        raise ValueError(
            f"{where}: its SHA-256 begins with {digest[:8]}, its name says {expected[:8]}: it is "
            f"damaged or another file; {cure}, or rename it"
        )
    if is_safetensors:
        return {"": parse_safetensors(data, where=where, cure=cure)}
    _check_parts(data, where=where, cure=cure)
    try:
        with warnings.catch_warnings(action="ignore"):  # of odd pickles, which then fail
            loaded = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001 - damaged bytes make an unpickler raise anything
        raise ValueError(
            f"{where}: not a whole file of tensors alone ({_reason(error)}); {cure}, or {SAVE}"
        ) from None
    places = dict(_places(loaded)) if isinstance(loaded, dict) else {}
    if not places:
        what = "a single tensor" if isinstance(loaded, Tensor) else f"a {type(loaded).__name__}"
        what += " without tensors" if isinstance(loaded, dict) else ""
        raise ValueError(f"{where}: holds {what}, expected tensors by name; {SAVE}")
    return places


@with_config(ConfigDict(strict=True, extra="ignore"))
@dataclass(frozen=True, kw_only=True, slots=True)
class Names:
    """The part of a state.json's inputs that says which classes a model tells apart."""

    class_names: tuple[str, ...] = ()


@with_config(ConfigDict(strict=True, extra="ignore"))
@dataclass(frozen=True, kw_only=True, slots=True)
class Beside:
    """A state.json's statements about the files beside it."""

    files: dict[str, str] = field(default_factory=dict)  # name to SHA-256
    inputs: Names = Names()


def beside(path: Path) -> Beside:
    """Return what the state.json beside a file says; nothing where there is none."""
    state = path.with_name("state.json")
    if not state.is_file():
        return Beside()
    return read_document(Beside, state, what="checkpoint", cure="use another checkpoint")


def unchecked(path: Path) -> str:
    """Return a line on a file whose damage would not show, with its SHA-256; '' for any other.

    safetensors, old-style .pth and .pth written with CRC-32 switched off hold no checksums.
    """
    data = path.read_bytes()
    if path.name in beside(path).files or _hash_in(path.name):
        return ""
    if data.startswith(ZIP) and any(p.CRC for p in zipfile.ZipFile(io.BytesIO(data)).infolist()):
        return ""
    return (
        f"{path.name} holds no checksums, so that damage to it would not show; compare its "
        f"SHA-256 with its source: {sha256(data).hexdigest()}"
    )


def parse_safetensors(data: bytes, *, where: str, cure: str) -> Tensors:
    """Return the tensors of a safetensors file; a damaged one is a `ValueError`."""
    try:
        tensors: Tensors = load(data)
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise ValueError(f"{where}: damaged ({str(error)[:120]}); {cure}") from None
    return tensors


def _hash_in(name: str) -> str:
    """Return the beginning of the SHA-256 that a file's name holds; '' if none."""
    match = HASH_IN_NAME.search(name)
    return "" if match is None or match[1].isdigit() else match[1]  # digits alone: such as a date


def _reason(error: Exception) -> str:
    """Return what torch says of the file, without what it says of itself."""
    text = str(error)
    if other := re.search(r"Unsupported \w+: GLOBAL (\S+)", text):
        return f"it holds Python objects, {other[1]}"
    if isinstance(error, UnpicklingError) and "Unsupported operand" in text:
        return "neither safetensors nor what torch.save writes"
    return text.strip().partition("\n")[0][:80]


def _check_parts(data: bytes, *, where: str, cure: str) -> None:
    """Compare each part of a .pth file with its CRC-32, which torch does not.

    Older files are a pickle without checksums, and torch can write 0 for each.
    """
    if not data.startswith(ZIP):
        return
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            parts = archive.infolist()
            packed = any(part.compress_type != zipfile.ZIP_STORED for part in parts)
            damaged = archive.testzip() if any(p.CRC for p in parts) and not packed else None
    except Exception as error:  # noqa: BLE001 - damaged bytes make zipfile raise nearly anything
        raise ValueError(
            f"{where}: cut off or damaged, {len(data)} bytes ({str(error)[:80]}); {cure}"
        ) from None
    if any(part.filename.endswith("/constants.pkl") for part in parts):
        raise ValueError(f"{where}: a TorchScript program, not weights; {SAVE}")
    if any(part.filename.endswith(".npy") for part in parts):
        raise ValueError(f"{where}: arrays of NumPy, not weights of PyTorch; {SAVE}")
    if packed:
        raise ValueError(f"{where}: a compressed archive, not weights; unpack it first")
    if damaged:
        raise ValueError(f"{where}: damaged, the CRC-32 of {damaged} differs; {cure}")


def _places(
    values: dict[object, object], place: str = "", depth: int = DEPTH
) -> Iterator[tuple[str, Tensors]]:
    tensors = {n: v for n, v in values.items() if isinstance(n, str) and isinstance(v, Tensor)}
    if tensors:
        yield place, tensors
    for name, value in values.items():
        if depth and isinstance(name, str) and isinstance(value, dict):
            yield from _places(value, f"{place}.{name}".lstrip("."), depth - 1)
