"""Reading a tar to its true end: every member, or an error that names the byte where it stops.

Two blocks of zeros followed by nothing but zeros end a tar. Python's `tarfile` also stops, without
a word, at a damaged header, at a lost tail and at zeros in the middle. Headers are parsed by it
(ustar, GNU and pax; base-256 sizes); only folders and plain files are accepted.
"""

import io
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field

from shards.images.limits import IMAGE_VARIABLE
from shards.storage.local import HashedFile

BLOCK = tarfile.BLOCKSIZE
READ_BYTES = 4 << 20
MAX_EXTENDED_BYTES = 1 << 20  # of a pax header or a GNU long name
MAX_DIGITS = 20
COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PK": "zip",
}
REFUSED = {
    tarfile.LNKTYPE: "a hard link",
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a pipe",
    tarfile.GNUTYPE_SPARSE: "a sparse file",
}
EXTENDED = (
    tarfile.XHDTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """A plain file in a tar: its name, where its header and its content start, the content."""

    name: str
    header: int
    offset: int
    content: bytes


@dataclass
class _Extended:
    """Extended headers' values for the member that follows."""

    names: set[str] = field(default_factory=set)
    size: int | None = None
    seen: bool = False


def read_tar(file: HashedFile, where: str, max_bytes: int) -> Iterator[Member]:
    """Yield every plain file of a tar, in order, and read the tar to its last byte.

    Members of more than `max_bytes`, and anything that is not a whole tar of plain files and
    folders, are a `ValueError` that starts with `where` and names the byte.
    """
    return _Reader(file, where, max_bytes).members()


class _Reader:
    def __init__(self, file: HashedFile, where: str, max_bytes: int) -> None:
        self._stream = io.BufferedReader(file, READ_BYTES)
        self._size, self._where, self._max_bytes = file.size, where, max_bytes
        self._position = 0

    def members(self) -> Iterator[Member]:
        extended = _Extended()
        while True:
            start = self._position
            if (info := self._header()) is None:
                break
            if info.type in EXTENDED:
                self._extend(extended, info, start)
                continue
            name, size = self._name_and_size(extended, info, start)
            extended = _Extended()
            if info.type == tarfile.DIRTYPE:
                continue
            if info.type not in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE):
                kind = REFUSED.get(info.type, f"of type {info.type!r}")
                raise self._error(
                    start,
                    f"member {name!a} is {kind}; pack plain files (tar --dereference "
                    "--hard-dereference, without --sparse)",
                )
            offset = self._position
            content = self._content(name, size, start, self._max_bytes)
            yield Member(name=name, header=start, offset=offset, content=content)
        if extended.seen:
            raise self._error(start, "the member of the last extended header is missing")
        self._end(start)

    def _header(self) -> tarfile.TarInfo | None:
        """Return the header here; None at a block of zeros."""
        start, block = self._position, self._read(BLOCK)
        if not start:
            self._refuse_others(block)
        if len(block) < BLOCK:
            raise self._error(
                start,
                "the tar ends there, without the two blocks of zeros that end a tar: its tail is "
                "lost; copy it again",
            )
        try:
            return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            if not block.strip(b"\0"):
                return None
            raise self._error(
                start, f"no tar header ({error}); the tar is damaged there, copy it again"
            ) from None

    def _refuse_others(self, block: bytes) -> None:
        for magic, kind in COMPRESSED.items():
            if block.startswith(magic):
                raise ValueError(f"{self._where}: {kind} data, not a plain tar; unpack it first")
        if not block:
            raise ValueError(f"{self._where}: 0 bytes, not a tar; copy it again, or remove it")

    def _extend(self, extended: _Extended, info: tarfile.TarInfo, start: int) -> None:
        content = self._content("of an extended header", info.size, start, MAX_EXTENDED_BYTES)
        extended.seen = True
        if info.type == tarfile.GNUTYPE_LONGNAME:
            name = content.partition(b"\0")[0].decode("utf-8", "surrogateescape")
            extended.names.add(name)
        elif info.type != tarfile.GNUTYPE_LONGLINK:
            self._extend_pax(extended, dict(self._pax(content, start)), info.type, start)

    def _extend_pax(
        self, extended: _Extended, records: dict[str, str], kind: bytes, start: int
    ) -> None:
        if any(name.startswith("GNU.sparse.") for name in records):
            raise self._error(start, "a sparse file; pack plain files, without --sparse")
        if kind == tarfile.XGLTYPE:
            extended.seen = False
            if records.keys() & {"path", "size"}:
                raise self._error(start, "one name or size for all members; pack the tar again")
            return
        if "path" in records:
            extended.names.add(records["path"])
        if "size" in records:
            if not re.fullmatch(f"[0-9]{{1,{MAX_DIGITS}}}", records["size"]):
                raise self._error(start, f"size {records['size'][:40]!r}, expected a number")
            extended.size = int(records["size"])

    def _pax(self, content: bytes, start: int) -> Iterator[tuple[str, str]]:
        """Yield a pax header's records, each `LENGTH NAME=VALUE` and a line's end."""
        done = 0
        while done < len(content):
            digits = re.match(rb"([0-9]{1,7}) ", content[done : done + 8])
            length = int(digits[1]) if digits else 0
            record = content[done : done + length]
            if not digits or length > len(content) - done or not record.endswith(b"\n"):
                raise self._error(start, "a broken pax header; the tar is damaged, copy it again")
            name, found, value = record[digits.end() : -1].partition(b"=")
            if not found:
                raise self._error(start, "a broken pax header; the tar is damaged, copy it again")
            yield name.decode("utf-8", "replace"), value.decode("utf-8", "surrogateescape")
            done += length

    def _name_and_size(
        self, extended: _Extended, info: tarfile.TarInfo, start: int
    ) -> tuple[str, int]:
        if len(extended.names) > 1:
            names = " and ".join(ascii(name) for name in sorted(extended.names))
            raise self._error(start, f"two names for one member: {names}; pack the tar again")
        name = next(iter(extended.names), info.name)
        return name, info.size if extended.size is None else extended.size

    def _content(self, name: str, size: int, start: int, limit: int) -> bytes:
        """Return a member's content, whose size is checked before any memory is taken."""
        if size < 0:
            raise self._error(start, f"member {name!a} has size {size}; pack the tar again")
        if size > self._size - self._position:
            raise self._error(
                start,
                f"member {name!a} of {size} bytes goes beyond the tar's end at byte "
                f"{self._size}: its tail is lost, copy it again",
            )
        if size > limit:
            raise self._error(
                start,
                f"member {name!a} has {size} bytes, more than the {limit} allowed; if that "
                f"is right, raise {IMAGE_VARIABLE}",
            )
        content = self._read(size)
        self._read(-size % BLOCK)
        return content

    def _end(self, start: int) -> None:
        """Read from behind the first block of zeros to the last byte."""
        second = self._read(BLOCK)
        if len(second) < BLOCK:
            raise self._error(
                start, "one block of zeros, not two: the tar's tail is lost; copy it again"
            )
        while second:
            if second.strip(b"\0"):
                other = self._position - len(second.lstrip(b"\0"))
                raise self._error(
                    start,
                    f"zeros, as at a tar's end, but more follows at byte {other}: zeros written "
                    "over it, or two tars in one file; copy it again, or pack one tar of all",
                )
            second = self._read(READ_BYTES)

    def _read(self, size: int) -> bytes:
        data = self._stream.read(size)
        self._position += len(data)
        return data

    def _error(self, start: int, text: str) -> ValueError:
        return ValueError(f"{self._where}: byte {start}: {text}")
