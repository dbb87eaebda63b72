"""Ids that are names, such as `axon_12` or `a/0001.png`, as 64-bit numbers.

A whole number stands for itself. Other text becomes a number of 2^62 or more by its BLAKE2 hash:
the same in every table, whatever its rows. CAVE's ids are below 2^60.
"""

import hashlib
import re
from pathlib import PurePosixPath

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ingest.volume.files.image_folder import SUFFIXES

Ints = npt.NDArray[np.int64]
NUMBER = re.compile(r"[0-9]{1,18}")
FIRST = 1 << 62


class NameIds:
    """Numbers for names; two names of one number, one in ten million of 10^6, are refused."""

    def __init__(self) -> None:
        self._names: dict[int, str] = {}

    def numbers(self, names: pa.Array, *, where: str) -> Ints:
        """Return the number of each name (n,), 0 where there is none."""
        encoded = names.dictionary_encode()
        numbers = np.array(
            [0, *(self._number(name, where) for name in encoded.dictionary.to_pylist())], np.int64
        )
        found: Ints = numbers[encoded.indices.fill_null(-1).to_numpy() + 1]
        return found

    def _number(self, name: str, where: str) -> int:
        name = name.strip()
        number = id_of_name(name)
        if (other := self._names.setdefault(number, name)) != name:
            raise ValueError(
                f"{where}: {other!r} and {name!r} make one id, {number}; rename one of them"
            )
        return number


def key_of(name: str) -> str:
    """Return a name, without the ending of an image file, in letters, digits, "_" and "-" only."""
    path = PurePosixPath(name.strip())
    stem = path.with_suffix("") if path.suffix.lower() in SUFFIXES else path
    return re.sub(r"[^A-Za-z0-9_-]", "-", str(stem))


def id_of_name(name: str) -> int:
    """Return the number that stands for a name; 0 for a name of nothing."""
    if not name:
        return 0
    if NUMBER.fullmatch(name):
        return int(name)
    return FIRST + int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest()) % FIRST
