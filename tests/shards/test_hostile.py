"""Shard sets from strangers and broken ones: one line each, and nothing outside the target."""

import hashlib
import json
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shards.__main__ import main
from shards.cli.command import run_command
from shards.cli.serve import RangeHandler, serving
from shards.contract.documents import SEAL_PATTERN
from shards.pack.assign import PackOptions
from shards.pack.copy import copy
from shards.pack.verify import verify
from shards.pack.write_shards import pack
from shards.storage.local import LocalStorage
from shards.stream.shardset import open_shards

pytestmark = pytest.mark.timeout(60)
Digests = Callable[[Path], dict[str, str]]
TAR, INDEX = "train-000000.tar", "train-000000.index.parquet"


def everything(folder: Path) -> dict[str, bytes | str]:
    """Return what lies below a folder: files' contents, links' targets."""
    return {
        str(path.relative_to(folder)): (
            str(path.readlink())
            if path.is_symlink()
            else path.read_bytes()
            if path.is_file()
            else ""
        )
        for path in sorted(folder.rglob("*"))
    }


def rewrite(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Write the manifest again, changed and without its seal, as a stranger can."""
    path = folder / "manifest.json"
    content = json.loads(path.read_bytes())
    del content["document_sha256"]
    changed = change(content)
    path.write_text(json.dumps(content if changed is None else changed))


def put(content: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = path.split("/")
    place: Any = content
    for name in parents:
        place = place[int(name) if name.isdigit() else name]
    place[last] = value


EVIL_NAMES = [
    "../planted.tar",
    "/tmp/synshards-planted.tar",
    "sub/planted.tar",
    "..",
    ".",
    "",
    ".bashrc",
    ".hidden.tar",
    "..\\planted.tar",
    "a\0b.tar",
    "a\nb.tar",
    "\x1b[31m.tar",
    "\ud800.tar",
    "x" * 300 + ".tar",
    "manifest.json",
    "manifest.json.tar/../manifest.json",
    "train-000001.tar",
    "TRAIN-000001.tar",
    "val-000000.index.parquet",
    "~/planted.tar",
    "file:///tmp/planted.tar",
]


@pytest.mark.parametrize("name", EVIL_NAMES)
@pytest.mark.parametrize("field", ["name", "index_name"])
def test_names_reach_nothing_outside_the_target(
    altered: Path, tmp_path: Path, name: str, field: str
) -> None:
    if field == "index_name":
        name = name.replace(".tar", ".index.parquet")
    (tmp_path / "planted.tar").write_bytes((altered / TAR).read_bytes())
    rewrite(altered, lambda content: put(content, f"splits/train/shards/0/{field}", name))
    before = everything(tmp_path)
    for use in (
        lambda: copy(str(altered), str(tmp_path / "target/sub")),
        lambda: open_shards(str(altered)),
        lambda: verify(str(altered)),
    ):
        with pytest.raises(ValueError, match=r"manifest.json: not a readable manifest") as caught:
            use()
        assert "\n" not in str(caught.value)
        assert str(caught.value).isprintable()
    assert everything(tmp_path) == before


ODD_MANIFESTS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "list": lambda c: [],
    "text": lambda c: "x",
    "number": lambda c: 7,
    "empty": lambda c: {},
    "splits_list": lambda c: put(c, "splits", []),
    "splits_empty": lambda c: put(c, "splits", {}),
    "split_null": lambda c: put(c, "splits/train", None),
    "split_name": lambda c: put(c, "splits/trial", c["splits"]["train"]),
    "shards_text": lambda c: put(c, "splits/train/shards", "x"),
    "bytes_text": lambda c: put(c, "splits/train/shards/0/bytes", "10"),
    "bytes_huge": lambda c: put(c, "splits/train/shards/0/bytes", 2**70),
    "bytes_negative": lambda c: put(c, "splits/train/shards/0/bytes", -1),
    "samples_huge": lambda c: put(c, "splits/train/shards/0/num_samples", 10**12),
    "samples_bool": lambda c: put(c, "splits/train/shards/0/num_samples", True),
    "sums": lambda c: put(c, "splits/train/num_samples", 1),
    "classes_sum": lambda c: put(c, "splits/train/class_counts", {"inhibitory": 1}),
    "hash_path": lambda c: put(c, "splits/train/shards/0/sha256", "../" * 10 + "x"),
    "hash_upper": lambda c: put(c, "splits/train/shards/0/sha256", "A" * 64),
    "hash_number": lambda c: put(c, "splits/train/shards/0/index_sha256", 1),
    "shape_huge": lambda c: put(c, "image/shape", [1, 10**6, 10**6]),
    "shape_bool": lambda c: put(c, "image/shape", [True, 9, 7]),
    "shape_flat": lambda c: put(c, "image/shape", [9, 7]),
    "dtype": lambda c: put(c, "image/dtype", "O"),
    "channels": lambda c: put(c, "image/channels", []),
    "mean_nan": lambda c: put(c, "mean", [float("nan")] * 2),
    "mean_missing": lambda c: put(c, "mean", [1.0]),
    "mean_text": lambda c: put(c, "mean", "1"),
    "mean_high": lambda c: put(c, "mean", [1e9, 1.0]),
    "class_names_twice": lambda c: put(c, "class_names", ["a", "a"]),
    "class_names_escape": lambda c: put(c, "class_names", ["\x1b]0;x", "b"]),
    "pack_list": lambda c: put(c, "pack", []),
    "left_out_list": lambda c: put(c, "pack/left_out", [1]),
    "encoded_text": lambda c: put(c, "pack/encoded", "yes"),
    "dataset_null": lambda c: put(c, "dataset", None),
    "unknown_key": lambda c: put(c, "more", 1),
    "version_text": lambda c: put(c, "schema_version", "1"),
    "version_new": lambda c: put(c, "schema_version", 2),
}


@pytest.mark.parametrize("name", ODD_MANIFESTS)
def test_a_manifest_of_any_shape_is_one_line(
    altered: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    rewrite(altered, ODD_MANIFESTS[name])
    assert run_command(main, ["inspect", str(altered)]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {altered}/manifest.json: ")
    assert error.count("\n") == 1
    assert "defect" not in error


@pytest.mark.parametrize("text", ["null", "", "{", "[" * 100_000, "\ud800"])
def test_a_manifest_that_is_no_json_is_one_line(altered: Path, text: str) -> None:
    (altered / "manifest.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(ValueError, match="not a readable manifest"):
        open_shards(str(altered))


def test_a_manifest_without_a_seal_is_read(altered: Path) -> None:
    path = altered / "manifest.json"
    assert SEAL_PATTERN.search(path.read_bytes())
    rewrite(altered, lambda content: None)
    assert verify(str(altered)) == []


def test_links_in_the_target_are_replaced_and_not_followed(altered: Path, tmp_path: Path) -> None:
    outside, target = tmp_path / "outside", tmp_path / "target"
    outside.mkdir()
    target.mkdir()
    (outside / "precious").write_bytes(b"mine")
    shutil.copy(altered / "manifest.json", target)
    for name in (TAR, INDEX):
        (target / name).symlink_to(outside / "precious")
    (target / ".lock").symlink_to(outside / "lock")
    with pytest.raises((ValueError, OSError)):
        copy(str(altered), str(target))
    (target / ".lock").unlink()
    copy(str(altered), str(target))
    assert verify(str(target)) == []
    assert everything(outside) == {"precious": b"mine"}


def seal_index(folder: Path, table: pa.Table) -> None:
    """Replace an index by a stranger's and let the manifest agree."""
    pq.write_table(table, folder / INDEX)
    digest = hashlib.sha256((folder / INDEX).read_bytes()).hexdigest()
    rewrite(folder, lambda c: put(c, "splits/train/shards/0/index_sha256", digest))


def column(table: pa.Table, name: str, values: list[Any], kind: pa.DataType) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, pa.array(values, kind))


ODD_INDICES: dict[str, Callable[[pa.Table], pa.Table]] = {
    "missing_column": lambda t: t.drop_columns(["label"]),
    "other_type": lambda t: column(t, "label", [0.5] * len(t), pa.float64()),
    "label_high": lambda t: column(t, "label", [7] * len(t), pa.int16()),
    "label_low": lambda t: column(t, "label", [-2] * len(t), pa.int16()),
    "nulls": lambda t: column(t, "neuron_id", [None] * len(t), pa.int64()),
    "offset_huge": lambda t: column(t, "offset", [2**63 - 1] * len(t), pa.int64()),
    "offset_negative": lambda t: column(t, "offset", [-1] * len(t), pa.int64()),
    "length_negative": lambda t: column(t, "length", [-1] * len(t), pa.int64()),
    "fewer_rows": lambda t: t.slice(1),
    "more_rows": lambda t: pa.concat_tables([t] * 1000),
    "long_text": lambda t: column(t, "label_tier", ["x" * 2**22] * len(t), pa.string()),
    "no_notes": lambda t: t.replace_schema_metadata(None),
    "odd_notes": lambda t: t.replace_schema_metadata({b"synshards": b"[]"}),
    "old_notes": lambda t: t.replace_schema_metadata({b"synshards": b'{"schema_version": 9}'}),
    "other_label": lambda t: column(t, "label", [0] * len(t), pa.int16()),
}


@pytest.mark.parametrize("name", ODD_INDICES)
def test_an_index_of_any_shape_is_one_line(altered: Path, name: str) -> None:
    seal_index(altered, ODD_INDICES[name](pq.read_table(altered / INDEX)))
    faults = verify(str(altered))
    assert any(INDEX in fault for fault in faults)
    if name != "other_label":  # whose hash a stranger may give as well
        with open_shards(str(altered)) as shards, pytest.raises(ValueError, match=INDEX):
            shards.index("train")


def test_an_index_that_is_no_parquet_is_one_line(altered: Path) -> None:
    (altered / INDEX).write_bytes(b"PAR1" + bytes(100) + b"PAR1")
    digest = hashlib.sha256((altered / INDEX).read_bytes()).hexdigest()
    rewrite(altered, lambda c: put(c, "splits/train/shards/0/index_sha256", digest))
    with open_shards(str(altered)) as shards, pytest.raises(ValueError, match="not readable as pa"):
        shards.index("train")


def test_files_of_others_are_never_replaced(store: Path, altered: Path, tmp_path: Path) -> None:
    options, target = PackOptions(samples_per_shard=16), tmp_path / "target"
    target.mkdir()
    for name, content in ((TAR, b"somebody's"), ("manifest.json", b'{"mine": 1}')):
        (target / name).write_bytes(content)
        before = everything(target)
        with pytest.raises(ValueError, match=f"{name} is not of this packing"):
            pack(store, "cube", str(target), options)
        with pytest.raises(ValueError, match=r"is a file of another set|holds another shard set"):
            copy(str(altered), str(target))
        assert everything(target) == before
        (target / name).unlink()


def test_bit_rot_in_an_index_does_not_survive_packing_again(
    store: Path, altered: Path, packed: Callable[[str], Path], digests: Digests
) -> None:
    table = pq.read_table(altered / INDEX)
    labels = [1 - label for label in table["label"].to_pylist()]
    pq.write_table(column(table, "label", labels, pa.int16()), altered / INDEX)
    pack(store, "cube", str(altered), PackOptions(samples_per_shard=16))
    assert digests(altered) == digests(packed("cube"))


class Stuck(RangeHandler):
    """Answers with the manifest, and with nothing else."""

    def answer(self, *, with_body: bool) -> None:
        if not self.path.endswith("manifest.json") and with_body:
            time.sleep(30)
        super().answer(with_body=with_body)


def test_ctrl_c_stops_a_copy_at_once(altered: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    with serving(altered, handler=Stuck) as url:
        pid, started = os.getpid(), time.monotonic()
        threading.Timer(1.0, os.kill, (pid, 2)).start()
        with pytest.raises(KeyboardInterrupt):
            copy(url, str(target))
        assert time.monotonic() - started < 8  # a silent server is given up after 10 s
    assert everything(target) == {}


def test_two_writers_of_one_folder(
    store: Path, altered: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, created = tmp_path / "target", LocalStorage.create
    refused: list[str] = []

    def while_it_is_written(self: LocalStorage, name: str) -> Any:
        if not refused:
            refused.append("")
            with pytest.raises(ValueError, match="is being written by process") as caught:
                pack(store, "cube", str(target), PackOptions())
            refused[0] = str(caught.value)
        return created(self, name)

    monkeypatch.setattr(LocalStorage, "create", while_it_is_written)
    copy(str(altered), str(target), workers=1)
    assert str(os.getpid()) in refused[0]
    assert verify(str(target)) == []


def test_a_full_disk_is_named_and_leaves_no_litter(
    altered: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: .*target/t[a-z]+-0") as caught:
        copy(str(altered), str(tmp_path / "target"), workers=1)
    assert Path(str(caught.value.filename)).parent == tmp_path / "target"
    assert everything(tmp_path / "target") == {}
