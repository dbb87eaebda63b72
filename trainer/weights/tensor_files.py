"""Files of tensors: safetensors, and what `torch.save` writes, read without unpickling code.

Whatever a file holds, reading it gives tensors or a `ValueError` of one line that says what the
file is instead. Bits that changed are told by the checksums that a .pth file holds (CRC-32 of each
part) and by a hash in its name, as in torchvision's `resnet18-f37072fd.pth`.
"""

import io
import re
import struct
import warnings
import zipfile
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from pydantic import ConfigDict, with_config
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from shards.contract.documents import read_document

Tensors = dict[str, Tensor]
SAVE = "save the model's state_dict() with torch.save, or as safetensors"
ZIP, GZIP = b"PK\x03\x04", b"\x1f\x8b"
HASH_IN_NAME = re.compile(r"-([0-9a-f]{8}|[0-9a-f]{64})\.[a-z]+$")
MARKUP = (b"<!doctype", b"<html", b"<head", b"<?xml", b"<body")
DEPTH = 3  # of dicts within dicts
# Damaged bytes make an unpickler raise nearly anything.
UNREADABLE = (
    ArithmeticError, AssertionError, AttributeError, EOFError, ImportError, LookupError,
    MemoryError, OSError, RuntimeError, TypeError, UnpicklingError, ValueError, struct.error,
)  # fmt: skip


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
    known = beside(path).files.get(path.name)
    if known is not None and sha256(data).hexdigest() != known:
        raise ValueError(f"{path}: damaged, its SHA-256 is not the one in state.json; {cure}")
    return parse_tensors(data, where=str(path), name=path.name, cure=cure)


def parse_tensors(data: bytes, *, where: str, name: str, cure: str) -> dict[str, Tensors]:
    """Return the tensors in the bytes of a file called `name`; see `read_tensors`."""
    _check_kind(data, where=where, cure=cure)
    _check_name(data, name, where=where, cure=cure)
    if _is_safetensors(data):
        return {"": parse_safetensors(data, where=where, cure=cure)}
    _check_parts(data, where=where, cure=cure)
    try:
        with warnings.catch_warnings(action="ignore"):  # of odd pickles, which then fail
            loaded = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        raise ValueError(
            f"{where}: not a whole file of tensors alone ({_reason(error)}); {cure}, or {SAVE}"
        ) from None
    found = dict(_groups(loaded)) if isinstance(loaded, dict) else {}
    if not found:
        what = "a dict without tensors" if isinstance(loaded, dict) else _kind_of(loaded)
        raise ValueError(f"{where}: holds {what}, expected tensors by name; {SAVE}")
    return found


@with_config(ConfigDict(strict=True, extra="ignore"))
@dataclass(frozen=True, kw_only=True, slots=True)
class Names:
    """The part of a state.json's inputs that says which classes a model tells apart."""

    class_names: tuple[str, ...] = ()


@with_config(ConfigDict(strict=True, extra="ignore"))
@dataclass(frozen=True, kw_only=True, slots=True)
class Beside:
    """What a state.json says of the files beside it."""

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
    known = path.name in beside(path).files or _hash_in(path.name)
    if known or (
        data.startswith(ZIP)
        and any(part.CRC for part in zipfile.ZipFile(io.BytesIO(data)).infolist())
    ):
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


def _is_safetensors(data: bytes) -> bool:
    """Say whether bytes begin as a safetensors file does: a length and a JSON object."""
    return data[8:9] == b"{"


def _hash_in(name: str) -> str:
    """Return the beginning of the SHA-256 that a file's name holds; '' if none."""
    match = HASH_IN_NAME.search(name)
    return "" if match is None or match[1].isdigit() else match[1]  # digits alone: such as a date


def _check_name(data: bytes, name: str, *, where: str, cure: str) -> None:
    """Compare a file with the part of its SHA-256 that its name holds, if any."""
    known, found = _hash_in(name), sha256(data).hexdigest()
    if not found.startswith(known):
        raise ValueError(
            f"{where}: its SHA-256 begins with {found[:8]}, its name says {known[:8]}: it is "
            f"damaged or another file; {cure}, or rename it"
        )


def _check_kind(data: bytes, *, where: str, cure: str) -> None:
    start = data[:200].lstrip().lower()
    what = ""
    if not data:
        what = f"an empty file; {cure}"
    elif start.startswith(MARKUP):
        what = "a web page, not weights; download from the link to the file itself"
    elif start.startswith(b"version https://git-lfs"):
        what = "a Git LFS pointer, not the file that it stands for; run `git lfs pull` there"
    elif data.startswith(GZIP):
        what = "compressed by gzip; run `gunzip` first"
    elif data.startswith(b"\x89HDF"):
        what = f"an HDF5 file, such as Keras writes; {SAVE}"
    elif start.startswith((b"{", b"[")) and not _is_safetensors(data):
        what = f"JSON text, not weights; {cure}"
    if what:
        raise ValueError(f"{where}: {what}")


def _reason(error: Exception) -> str:
    """Return what torch says of the file, without what it says of itself."""
    text = str(error)
    if other := re.search(r"Unsupported \w+: GLOBAL (\S+)", text):
        return f"it holds Python objects, {other[1]}"
    if isinstance(error, UnpicklingError) and "Unsupported operand" in text:
        return "neither safetensors nor what torch.save writes"
    return text.strip().partition("\n")[0][:80]


def _kind_of(loaded: object) -> str:
    return "a single tensor" if isinstance(loaded, Tensor) else f"a {type(loaded).__name__}"


def _check_parts(data: bytes, *, where: str, cure: str) -> None:
    """Compare each part of a .pth file with its CRC-32, which torch does not.

    Older files are a pickle without checksums, and torch can write 0 for each.
    """
    if not data.startswith(ZIP):
        return
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            parts = archive.infolist()
            names = [part.filename for part in parts]
            packed = any(part.compress_type != zipfile.ZIP_STORED for part in parts)
            damaged = archive.testzip() if any(p.CRC for p in parts) and not packed else None
    except (zipfile.BadZipFile, *UNREADABLE) as error:
        raise ValueError(
            f"{where}: cut off or damaged, {len(data)} bytes ({str(error)[:80]}); {cure}"
        ) from None
    if any(name.endswith("/constants.pkl") for name in names):
        raise ValueError(f"{where}: a TorchScript program, not weights; {SAVE}")
    if any(name.endswith(".npy") for name in names):
        raise ValueError(f"{where}: arrays of NumPy, not weights of PyTorch; {SAVE}")
    if packed:
        raise ValueError(f"{where}: a compressed archive, not weights; unpack it first")
    if damaged:
        raise ValueError(f"{where}: damaged, the CRC-32 of {damaged} differs; {cure}")


def _groups(
    values: dict[Any, Any], place: str = "", depth: int = DEPTH
) -> list[tuple[str, Tensors]]:
    own = {n: v for n, v in values.items() if isinstance(n, str) and isinstance(v, Tensor)}
    found = [(place, own)] if own else []
    if depth:
        for name, value in values.items():
            if isinstance(name, str) and isinstance(value, dict):
                found += _groups(value, f"{place}.{name}".lstrip("."), depth - 1)
    return found
