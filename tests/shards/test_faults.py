"""Every fault is named, by the reader and by verify; none is passed over."""

import errno
import json
import os
from collections import deque
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from shards.contract.schema import SPLITS, View
from shards.pack.verify import verify
from shards.stream.section_view import Sections
from shards.stream.shardset import open_shards
from shards.stream.stream import Stream, evaluation_batches

pytestmark = pytest.mark.timeout(60)


def read_all(folder: Path) -> None:
    with open_shards(str(folder)) as shards:
        for split in SPLITS:
            for _ in evaluation_batches(shards, split, 4):
                pass


def flip(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


def test_a_sound_set_has_no_faults(packed: Callable[[View], Path]) -> None:
    for view in ("patch", "cube"):
        assert verify(str(packed(view))) == []
        read_all(packed(view))


def test_truncated(altered: Path) -> None:
    path = altered / "train-000001.tar"
    path.write_bytes(path.read_bytes()[:-20480])
    with pytest.raises(ValueError, match=r"train-000001.tar has \d+ bytes, the manifest says"):
        read_all(altered)
    assert any("train-000001.tar: has" in fault for fault in verify(str(altered), fast=True))


def test_truncated_while_open(altered: Path) -> None:
    path = altered / "train-000001.tar"
    with (
        open_shards(str(altered)) as shards,
        Stream(shards, "train", batch_size=16) as stream,
    ):
        path.write_bytes(path.read_bytes()[:1024])
        with pytest.raises(ValueError, match=r"train-000001.tar ends at byte \d+, before"):
            deque(stream, maxlen=0)


def test_altered_voxel(altered: Path) -> None:
    with open_shards(str(altered)) as shards:
        index = shards.index("val")
        key, offset = index.column("key")[5], int(index.offset[5])
    flip(altered / "val-000000.tar", offset + 17)
    with pytest.raises(ValueError, match=rf"val-000000.tar: sample {key} has checksum"):
        read_all(altered)
    faults = verify(str(altered))
    assert f"val-000000.tar: member {key}.image.npy: checksum differs from the index" in faults
    assert "val-000000.tar: SHA-256 differs from the manifest's" in faults
    assert verify(str(altered), fast=True) == []


def test_altered_label(altered: Path) -> None:
    path = altered / "test-000000.tar"
    content = path.read_bytes()
    place = content.index(b".cls") // 512 * 512 + 512
    path.write_bytes(content[:place] + b"7" + content[place + 1 :])
    assert any(".cls: label b'7', the index says" in fault for fault in verify(str(altered)))


def test_missing_tar_and_missing_index(altered: Path) -> None:
    (altered / "val-000001.tar").unlink()
    with pytest.raises(ValueError, match=r"val-000001.tar: no such file"):
        read_all(altered)
    assert any("val-000001.tar: no such file" in fault for fault in verify(str(altered)))
    (altered / "train-000000.index.parquet").unlink()
    with pytest.raises(ValueError, match=r"train-000000.index.parquet: no such file"):
        read_all(altered)


def test_another_tar_of_the_same_name(altered: Path) -> None:
    one, other = altered / "train-000000.tar", altered / "train-000001.tar"
    assert one.stat().st_size == other.stat().st_size
    one.write_bytes(other.read_bytes())
    with pytest.raises(ValueError, match=r"train-000000.tar: sample \w+ has checksum"):
        read_all(altered)
    assert any("stands where the index says" in fault for fault in verify(str(altered)))


@pytest.mark.parametrize("sections", [None, Sections(around=1)])
def test_a_tar_replaced_while_it_is_open(altered: Path, sections: Sections | None) -> None:
    """A sample that was right once is checked again, within a second of its file's change."""
    one, other = altered / "train-000000.tar", altered / "train-000001.tar"
    with (
        open_shards(str(altered)) as shards,
        Stream(shards, "train", batch_size=8, sections=sections) as stream,
    ):
        for _ in range(stream.steps_per_epoch):
            next(stream)
        with one.open("r+b") as file:
            file.write(other.read_bytes())
        with pytest.raises(ValueError, match=r"train-000000.tar: sample \w+ has checksum"):
            deque(stream, maxlen=0)


def test_a_tar_that_may_not_be_read(altered: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = os.open

    def denied(path: str, *arguments: int) -> int:
        if path.endswith("val-000000.tar"):  # permissions alone would not stop root
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return opened(path, *arguments)

    monkeypatch.setattr(os, "open", denied)
    with pytest.raises(ValueError, match=r"val-000000.tar: may not be read; check its perm"):
        read_all(altered)


def test_an_index_that_disagrees(altered: Path) -> None:
    path = altered / "train-000000.index.parquet"
    table = pq.read_table(path)
    rows = table.to_pylist()
    rows[0]["label"] = 1 - rows[0]["label"]
    pq.write_table(table.from_pylist(rows, schema=table.schema), path)
    with pytest.raises(ValueError, match=r"train-000000.index.parquet is not the index"):
        read_all(altered)
    assert any("train-000000.index.parquet is not" in fault for fault in verify(str(altered)))


def test_unlisted_shard(altered: Path) -> None:
    (altered / "train-000099.tar").write_bytes(b"")
    assert verify(str(altered)) == ["train-000099.tar: not in the manifest"]


def test_unknown_schema_version(altered: Path) -> None:
    manifest = altered / "manifest.json"
    content = json.loads(manifest.read_text()) | {"schema_version": 2}
    del content["document_sha256"]
    manifest.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="schema version 2 is unknown, this code reads version 1"):
        open_shards(str(altered))
    manifest.write_text("{")
    with pytest.raises(ValueError, match="not a readable manifest"):
        open_shards(str(altered))


def test_a_fault_ends_the_stream_and_does_not_hang(altered: Path) -> None:
    with open_shards(str(altered)) as shards:
        for offset in shards.index("train").offset[:10]:
            flip(altered / "train-000000.tar", int(offset))
        with (
            Stream(shards, "train", batch_size=8, num_threads=4, prefetch=6) as stream,
            pytest.raises(ValueError, match="has checksum"),
        ):
            deque(stream, maxlen=0)
