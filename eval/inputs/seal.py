"""A parquet file that tells when its bits have changed, also where it is handed on alone.

Between the last row group and the footer, where no reader of parquet looks, stands

    synshards sha256 9f86d081...

the SHA-256 of all other bytes of the file. A tool that writes the table again leaves it out, and
the file is read unchecked as those of other tools are.
"""

import hashlib
import re

SEAL = b"synshards sha256 "
PATTERN = re.compile(SEAL + b"([0-9a-f]{64})")
FOOTER_END = 8  # bytes behind the footer: its length and the magic


def sealed(parquet: bytes) -> bytes:
    """Return a parquet file with its seal."""
    length = int.from_bytes(parquet[-FOOTER_END:-4], "little")
    place = len(parquet) - FOOTER_END - length
    digest = hashlib.sha256(parquet).hexdigest().encode()
    return parquet[:place] + SEAL + digest + parquet[place:]


def check_seal(data: bytes, *, where: str) -> None:
    """Refuse a file whose seal does not fit; one without a seal passes."""
    for match in PATTERN.finditer(data):
        digest = hashlib.sha256(memoryview(data)[: match.start()])
        digest.update(memoryview(data)[match.end() :])
        if digest.hexdigest().encode() == match[1]:
            return
    if SEAL in data:
        raise ValueError(
            f"{where}: altered since it was written, its SHA-256 differs; predict again, or copy "
            "the file again"
        )
