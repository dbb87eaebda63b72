"""Tars as others make, cut, flip and join them: every sample, or one line that says where."""

import bz2
import gzip
import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from shards.pack.import_webdataset import ForeignSpec, index_tars
from shards.pack.verify import verify
from shards.stream.shardset import open_shards

pytestmark = pytest.mark.timeout(60)
SPEC = ForeignSpec(class_names=("inhibitory", "excitatory"))
SAMPLES = 6
LONG = "d" * 90 + "/" + "e" * 90 + "/"


def npy(number: int) -> bytes:
    file = io.BytesIO()
    np.save(file, np.full((1, 16, 16), 10 * number + 1, np.uint8))
    return file.getvalue()


def whole(kind: int = tarfile.USTAR_FORMAT, folder: str = "", first: int = 0) -> bytes:
    """Return a tar of six samples whose label is their number's parity."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=kind) as tar:
        for number in range(first, first + SAMPLES):
            for suffix, content in (("npy", npy(number)), ("cls", b"%d" % (number % 2))):
                info = tarfile.TarInfo(f"{folder}{number}.{suffix}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return file.getvalue()


def with_header(block: bytes, **fields: bytes) -> bytes:
    """Return a header with other fields and a right checksum."""
    places = {"name": 0, "size": 124, "type": 156, "magic": 257, "prefix": 345}
    header = bytearray(block)
    for name, value in fields.items():
        header[places[name] : places[name] + len(value)] = value
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


def altered(offset: int, **fields: bytes) -> bytes:
    tar = whole()
    return tar[:offset] + with_header(tar[offset : offset + 512], **fields) + tar[offset + 512 :]


def pax(records: bytes, kind: bytes = b"x") -> bytes:
    """Return a tar that begins with an extended header of these records."""
    tar = whole()
    header = with_header(tar[:512], name=b"PaxHeader\0", size=b"%011o" % len(records), type=kind)
    return header + records + bytes(-len(records) % 512) + tar


def record(text: str) -> bytes:
    size = len(text) + 2
    while len(f"{size} {text}\n") != size:
        size += 1
    return f"{size} {text}\n".encode()


def extra(kind: bytes, **more: object) -> bytes:
    """Return a tar with one more member at its end."""
    file = io.BytesIO(whole())
    with tarfile.open(fileobj=file, mode="a") as tar:
        info = tarfile.TarInfo("more.npy")
        info.type = kind
        for name, value in more.items():
            setattr(info, name, value)
        tar.addfile(info)
    return file.getvalue()


def two_names() -> bytes:
    long_name = with_header(whole()[:512], name=b"././@LongLink\0", type=b"L", size=b"%011o" % 6)
    return long_name + b"b.npy\0" + bytes(506) + pax(record("path=a.npy"))


MEMBER = 1024 * 2  # bytes of an array of 384 bytes and a label, with their headers
READ: dict[str, Callable[[], bytes]] = {
    "ustar": whole,
    "gnu": lambda: whole(tarfile.GNU_FORMAT),
    "pax": lambda: whole(tarfile.PAX_FORMAT),
    "ustar_prefix": lambda: whole(folder="f" * 60 + "/" + "g" * 60 + "/"),
    "gnu_long_names": lambda: whole(tarfile.GNU_FORMAT, LONG),
    "pax_long_names": lambda: whole(tarfile.PAX_FORMAT, LONG),
    "pax_unicode": lambda: whole(tarfile.PAX_FORMAT, "Zelle-ä/シナプス-"),
    "pax_size": lambda: pax(record("size=384")),
    "pax_global": lambda: pax(record("comment=made by git"), b"g"),
    "base_256": lambda: altered(0, size=b"\x80" + (384).to_bytes(11, "big")),
    "folders": lambda: extra(tarfile.DIRTYPE, name="some/folder.d"),
    "minimal_end": lambda: whole()[: SAMPLES * MEMBER + 1024],
    "long_end": lambda: whole() + bytes(100_000),
}


@pytest.mark.parametrize("name", READ)
def test_every_sample_of_a_sound_tar_is_there(tmp_path: Path, name: str) -> None:
    (tmp_path / "train-0.tar").write_bytes(READ[name]())
    index_tars(str(tmp_path), SPEC)
    assert verify(str(tmp_path)) == []
    with open_shards(str(tmp_path)) as shards:
        images = shards.read_images("train", range(SAMPLES))
        assert images[:, 0, 0, 0].tolist() == [1, 11, 21, 31, 41, 51]
        assert shards.index("train").label.tolist() == [0, 1] * 3


REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "header_flip": (lambda: flipped(2 * MEMBER + 3), r"byte 4096: no tar header \(bad checksum\)"),
    "first_header_flip": (lambda: flipped(3), r"byte 0: no tar header \(bad checksum\)"),
    "cut_at_member": (lambda: whole()[: 3 * MEMBER], "byte 6144: the tar ends there"),
    "cut_in_header": (lambda: whole()[: 3 * MEMBER + 100], "byte 6144: the tar ends there"),
    "cut_in_content": (lambda: whole()[:600], "byte 0: member '0.npy' of 384 bytes goes beyond"),
    "cut_in_padding": (lambda: whole()[: 3 * MEMBER - 9], r"byte 61\d\d: the tar ends there"),
    "cut_in_the_end": (lambda: whole()[: 6 * MEMBER + 512], "byte 12288: one block of zeros, not"),
    "zero_block": (lambda: zeroed(2 * MEMBER, 512), "byte 4096: zeros, .* more follows at byte 4"),
    "zero_blocks": (
        lambda: zeroed(2 * MEMBER, MEMBER),
        "byte 4096: zeros, .* follows at byte 6144",
    ),
    "two_tars": (lambda: whole() + whole(first=6), "byte 12288: zeros, .* follows at byte 20480"),
    "garbage": (lambda: whole() + b"\0garbage", "byte 12288: zeros, .* follows at byte 20481"),
    "one_byte": (lambda: whole()[:-1] + b"x", "byte 12288: zeros, .* follows at byte 20479"),
    "empty": (lambda: bytes(10240), "train-0.tar: no sample in it"),
    "no_bytes": (lambda: b"", "train-0.tar: 0 bytes, not a tar"),
    "gzip": (lambda: gzip.compress(whole()), "train-0.tar: gzip data, not a plain tar; unpack"),
    "bzip2": (lambda: bz2.compress(whole()), "train-0.tar: bzip2 data"),
    "html": (lambda: b"<!DOCTYPE html>" + bytes(600), "byte 0: no tar header"),
    "negative_size": (lambda: altered(0, size=b"\xff" * 12), "byte 0: member '0.npy' has size -1;"),
    "huge_size": (lambda: altered(0, size=b"77777777777"), "of 8589934591 bytes goes beyond"),
    "base_256_size": (lambda: altered(0, size=b"\x80" + b"\xff" * 11), "bytes goes beyond the tar"),
    "hard_link": (lambda: extra(tarfile.LNKTYPE, linkname="0.npy"), "'more.npy' is a hard link"),
    "symbolic_link": (
        lambda: extra(tarfile.SYMTYPE, linkname="/etc/x"),
        "is a symbolic link; pack",
    ),
    "device": (lambda: extra(tarfile.CHRTYPE), "is a device"),
    "pipe": (lambda: extra(tarfile.FIFOTYPE), "is a pipe"),
    "sparse": (lambda: altered(0, type=b"S", size=b"%011o" % 384), "'0.npy' is a sparse file"),
    "pax_sparse": (lambda: pax(record("GNU.sparse.realsize=99999999999")), "a sparse file"),
    "unknown_type": (lambda: altered(0, type=b"V"), "is of type b'V'"),
    "pax_size_negative": (lambda: pax(record("size=-1")), "size '-1', expected a number"),
    "pax_size_huge": (lambda: pax(record(f"size={10**18}")), f"of {10**18} bytes goes beyond"),
    "pax_broken": (lambda: pax(b"99 path=x\n"), "a broken pax header"),
    "pax_zero": (lambda: pax(b"0 path=x\n"), "a broken pax header"),
    "pax_global_path": (lambda: pax(record("path=x"), b"g"), "one name or size for all"),
    "pax_alone": (lambda: pax(record("path=x"))[:1024] + bytes(1024), "last extended header"),
    "pax_and_gnu": (two_names, "two names for one member: 'a.npy' and 'b.npy'"),
    "not_utf8": (lambda: altered(0, name=b"\xff\xfe.npy\0"), "printable UTF-8 name"),
    "not_utf8_extension": (lambda: altered(0, name=b"0.\xff\0"), "printable UTF-8 name"),
    "newline": (lambda: altered(0, name=b"a\nb.npy\0"), r"member 'a\\nb.npy', expected a printab"),
    "pax_nul": (lambda: pax(record("path=a\0b.npy")), r"member 'a\\x00b.npy', expected"),
    "dots": (lambda: altered(0, name=b"../../x.npy\0"), "expected .* without '..'"),
}


def flipped(offset: int) -> bytes:
    tar = bytearray(whole())
    tar[offset] ^= 4
    return bytes(tar)


def zeroed(offset: int, size: int) -> bytes:
    tar = whole()
    return tar[:offset] + bytes(size) + tar[offset + size :]


@pytest.mark.parametrize("name", REFUSED)
def test_a_tar_that_is_not_sound_is_named_with_the_byte(tmp_path: Path, name: str) -> None:
    make, message = REFUSED[name]
    (tmp_path / "train-0.tar").write_bytes(make())
    with pytest.raises(ValueError, match=message) as caught:
        index_tars(str(tmp_path), SPEC)
    assert "train-0.tar" in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["train-0.tar"]


def test_a_member_over_the_limit_is_refused_until_it_is_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "train-0.tar").write_bytes(whole())
    monkeypatch.setenv("SYNSHARDS_IMAGE_GB", "0.0000003")
    with pytest.raises(
        ValueError, match=r"'0.npy' has 384 bytes, more .* raise SYNSHARDS_IMAGE_GB"
    ):
        index_tars(str(tmp_path), SPEC)
    monkeypatch.setenv("SYNSHARDS_IMAGE_GB", "much")
    with pytest.raises(ValueError, match="SYNSHARDS_IMAGE_GB is 'much'"):
        index_tars(str(tmp_path), SPEC)


@pytest.mark.parametrize("place", [3 * MEMBER + 5, 4 * MEMBER + 514, 5 * MEMBER + 1540])
def test_verify_tells_what_changed_after_indexing(tmp_path: Path, place: int) -> None:
    path = tmp_path / "train-0.tar"
    path.write_bytes(whole())
    index_tars(str(tmp_path), SPEC)
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    assert verify(str(tmp_path))


def test_what_is_left_out_is_named(tmp_path: Path) -> None:
    (tmp_path / "train-0.tar").write_bytes(whole())
    for name in ("train-1.tar.gz", "train-2.TAR", "._train-0.tar", "train.tgz", "deep/train-3.tar"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    said: list[str] = []
    index_tars(str(tmp_path), SPEC, say=said.append)
    assert len(said) == 1
    for name in ("train-1.tar.gz", "train-2.TAR", "._train-0.tar", "train.tgz", "deep/"):
        assert name in said[0]
    (tmp_path / "train-0.tar").unlink()
    with pytest.raises(ValueError, match=r"no .tar files there, only deep/"):
        index_tars(str(tmp_path), SPEC)


def test_names_that_differ_in_case_alone_are_refused(tmp_path: Path) -> None:
    for name, first in (("train-a.tar", 0), ("train-A.tar", SAMPLES)):
        (tmp_path / name).write_bytes(whole(first=first))
    with pytest.raises(ValueError, match=r"train-A.tar and train-a.tar differ in case alone"):
        index_tars(str(tmp_path), SPEC)
