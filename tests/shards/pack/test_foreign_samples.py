"""Labels and identity of others' samples: as WebDataset groups them, or one line that says why."""

import gc
import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset

from shards.__main__ import main
from shards.cli.command import run_command
from shards.pack.import_webdataset import ForeignSpec, index_tars
from shards.pack.verify import verify
from shards.stream.shardset import open_shards

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.filterwarnings("ignore:unclosed file"),  # webdataset leaves its files open
]
NAMES = ("inhibitory", "excitatory")
Members = Sequence[tuple[str, bytes]]


def npy(value: int = 7, shape: tuple[int, ...] = (1, 4, 5), dtype: Any = np.uint8) -> bytes:
    file = io.BytesIO()
    np.save(file, np.full(shape, value, dtype))
    return file.getvalue()


def write(path: Path, members: Members) -> None:
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def indexed(
    folder: Path, members: Members, names: tuple[str, ...] = NAMES
) -> tuple[dict[str, int], list[str]]:
    """Index one tar and return label by key, and what was said; verify and webdataset agree."""
    write(folder / "train-0.tar", members)
    said: list[str] = []
    index_tars(str(folder), ForeignSpec(class_names=names), say=said.append)
    assert verify(str(folder)) == []
    with open_shards(str(folder)) as shards:
        index = shards.index("train")
        found = dict(zip(index.column("key").tolist(), index.label.tolist(), strict=True))
    samples = list(webdataset.WebDataset(str(folder / "train-0.tar"), shardshuffle=False))
    gc.collect()
    groups = {s["__key__"]: s for s in samples if any(name.endswith("npy") for name in s)}
    if names == NAMES:
        assert found == {key: oracle(sample) for key, sample in groups.items()}
    return found, said


def oracle(sample: dict[str, Any]) -> int:
    """Return the label of a sample as webdataset grouped it; -1 without one."""
    spelt = {"0": 0, "1": 1, "1.0": 1, "inhibitory": 0, "excitatory": 1, "-1": -1, "null": -1}
    labels = [sample[name].decode("utf-8-sig") for name in sample if name.split(".")[-1] == "cls"]
    for name, content in sample.items():
        if name.split(".")[-1] == "json" and not labels:
            labels.append(str(json.loads(content).get("label", -1)))
    return spelt[labels[0].strip().casefold()] if labels else -1


def pair(stem: str, label: bytes, number: int = 0) -> Members:
    return [(f"{stem}.npy", npy(number)), (f"{stem}.cls", label)]


LABELLED: dict[str, tuple[Members, dict[str, int]]] = {
    "upper_case": ([("a.NPY", npy()), ("a.CLS", b"1")], {"a": 1}),
    "dots_in_keys": ([*pair("n12.5um", b"1"), *pair("n13.5um", b"0")], {"n12": 1, "n13": 0}),
    "label_cls": ([("a.image.npy", npy()), ("a.label.cls", b"1")], {"a": 1}),
    "new_line": (pair("a", b" 1\r\n"), {"a": 1}),
    "decimal": (pair("a", b"1.0"), {"a": 1}),
    "byte_order_mark": (pair("a", b"\xef\xbb\xbf1"), {"a": 1}),
    "class_name": ([*pair("a", b"excitatory\n"), *pair("b", b"Inhibitory")], {"a": 1, "b": 0}),
    "minus_one": ([*pair("a", b"-1"), *pair("b", b"1")], {"a": -1, "b": 1}),
    "json_number": ([("a.npy", npy()), ("a.json", b'{"label": 1}')], {"a": 1}),
    "json_float": ([("a.npy", npy()), ("a.json", b'{"label": 1.0}')], {"a": 1}),
    "json_text": ([("a.npy", npy()), ("a.json", b'{"label": "1"}')], {"a": 1}),
    "json_name": ([("a.npy", npy()), ("a.JSON", b'{"label": "excitatory"}')], {"a": 1}),
    "json_meta": ([("a.npy", npy()), ("a.meta.json", b'{"label": 1}')], {"a": 1}),
    "json_null": ([*pair("a", b"1"), ("a.json", b'{"label": null, "x": [1]}')], {"a": 1}),
    "both_agree": ([*pair("a", b"1"), ("a.json", b'{"label": "excitatory"}')], {"a": 1}),
    "folders": ([*pair("x/a", b"1"), *pair("y/a", b"0")], {"x/a": 1, "y/a": 0}),
    "dots_in_folders": (pair("v1.5/a", b"1"), {"v1.5/a": 1}),
    "current_folder": (pair("./a", b"1"), {"./a": 1}),
    "unicode": (pair("Zelle-ä シ", b"1"), {"Zelle-ä シ": 1}),
    "label_first": ([("a.cls", b"1"), ("a.npy", npy())], {"a": 1}),
    "two_dimensions": ([("a.npy", npy(shape=(4, 5))), ("a.cls", b"1")], {"a": 1}),
    "others_beside": ([*pair("a", b"1"), ("a.txt", b"x"), ("a.pkl", b"x")], {"a": 1}),
}


@pytest.mark.parametrize("name", LABELLED)
def test_labels_are_kept(tmp_path: Path, name: str) -> None:
    members, expected = LABELLED[name]
    found, said = indexed(tmp_path, members)
    assert found == expected
    assert bool(said) == (name == "minus_one")


def test_true_and_false_are_class_names_when_they_are_named_so(tmp_path: Path) -> None:
    members = [("a.npy", npy()), ("a.json", b'{"label": true}')]
    assert indexed(tmp_path, members, ("false", "true"))[0] == {"a": 1}


J = "train-0.tar: sample a: .json"
REFUSED: dict[str, tuple[Members, str]] = {
    "text": (pair("a", b"dog"), r"sample a: .cls is 'dog', expected one class: .* \(inhibitory, e"),
    "empty": (pair("a", b""), r"sample a: .cls is '', expected"),
    "binary": (pair("a", b"\xff\x00"), r"sample a: .cls is '\\xff\\x00', expected"),
    "underscores": (pair("a", b"1_0"), "is '1_0'"),
    "arabic_digits": (pair("a", "١".encode()), "is '\\\\u0661'"),
    "half": (pair("a", b"0.5"), "is '0.5'"),
    "beyond": (
        pair("a", b"2"),
        "sample a: .cls is '2', expected one class: its number from 0 to 1",
    ),
    "minus_two": (pair("a", b"-2"), "is '-2'"),
    "huge": (pair("a", b"9" * 30), "is '9999"),
    "disagree": (
        [*pair("a", b"1"), ("a.json", b'{"label": 0}')],
        r"disagree \(.cls 1, .json",
    ),
    "two_cls": ([*pair("a", b"1"), ("a.other.cls", b"0")], r"disagree \(.cls 1, .other.cls 0\)"),
    "repeated": ([*pair("a", b"1"), *pair("a", b"1")], "sample a has two members .npy"),
    "cases": ([*pair("a", b"1"), ("a.Cls", b"0")], "sample a has two members .cls"),
    "apart": ([*pair("a", b"1"), *pair("b", b"1"), *pair("a", b"1")], "sample a comes twice"),
    "label_apart": ([("a.npy", npy()), *pair("b", b"1"), ("a.cls", b"1")], "sample a comes twice"),
    "dots_merge": ([*pair("n1.5um", b"1"), *pair("n1.6um", b"0")], "n1 has 2 images .*first dot"),
    "no_image": ([*pair("a", b"1"), ("b.cls", b"1")], "sample b has 0 images"),
    "json_alone": ([*pair("a", b"1"), ("b.json", b"{}")], "sample b has 0 images"),
    "shapes": ([*pair("a", b"1"), ("b.npy", npy(shape=(1, 4, 6)))], "b has shape .*1, 4, 6"),
    "float32": ([("a.npy", npy(dtype=np.float32))], r"a: float32 \(1, 4, 5\) cannot be streamed"),
    "object": ([("a.npy", npy(dtype=np.uint8).replace(b"|u1", b"|O "))], "a: (object|.npy has no)"),
    "no_npy": ([("a.npy", b"")], "sample a: .npy has no readable header"),
    "torn_npy": ([("a.npy", npy()[:40])], "sample a: .npy has no readable header"),
    "cut_npy": ([("a.npy", npy()[:-1])], "sample a: .npy holds 19 voxels, its header says"),
    "garbled": ([("a.npy", npy().replace(b"{", b"["))], "a: .npy has no readable header"),
    "bool_shape": (
        [("a.npy", npy().replace(b"(1, 4, 5), ", b"(True,4,5),"))],
        "holds 20 voxels, it",
    ),
    "huge_shape": ([("a.npy", npy().replace(b"(1, 4, 5)", b"(9**9, 4)"))], "no readable header"),
    "no_voxels": ([("a.npy", npy(shape=(1, 0, 5)))], "sample a: .npy holds 0 voxels"),
    "picture": ([("a.png", b"no picture")], "sample a: .png: not a readable image"),
    "json_broken": ([*pair("a", b"1"), ("a.json", b'{"neuron_id":')], f"{J} is not readable"),
    "json_latin": ([*pair("a", b"1"), ("a.json", b'{"a": "\xff"}')], f"{J} is not readable"),
    "json_deep": ([*pair("a", b"1"), ("a.json", b"[" * 100_000)], f"{J} is not readable"),
    "json_list": ([*pair("a", b"1"), ("a.json", b"[1]")], f"{J} holds a list, expected an object"),
    "json_twice": ([*pair("a", b"1"), ("a.json", b'{"a":1,"a":2}')], "a name comes twice"),
    "json_bool": ([("a.npy", npy()), ("a.json", b'{"label": true}')], "label is 'true', expected"),
    "json_object": ([("a.npy", npy()), ("a.json", b'{"label": {}}')], "label is '{}', expected"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_right_is_one_line(tmp_path: Path, name: str) -> None:
    members, message = REFUSED[name]
    with pytest.raises(ValueError, match=message) as caught:
        indexed(tmp_path, members)
    assert "train-0.tar" in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["train-0.tar"]


BIG = 864691135463510246
IDENTITY: dict[str, tuple[str, Any]] = {
    "number": (f'{{"neuron_id": {BIG}}}', BIG),
    "text": (f'{{"neuron_id": "{BIG}"}}', BIG),
    "small_float": ('{"neuron_id": 5.0}', 5),
    "null": ('{"neuron_id": null}', 0),
    "empty": ('{"neuron_id": ""}', 0),
    "highest": (f'{{"neuron_id": {2**63 - 1}}}', 2**63 - 1),
    "missing": ("{}", 0),
    "nucleus": (f'{{"nucleus_id": {BIG}, "pre_root_id": 7}}', BIG),
    "root": (f'{{"neuron_id": 0, "pre_root_id": "{BIG}"}}', BIG),
    "below_0": ('{"neuron_id": -1}', "expected a whole number of 64 bits from 0"),
    "float": (f'{{"neuron_id": {BIG}.0}}', "expected a whole number of 64 bits"),
    "exponent": ('{"neuron_id": 8.6e17}', "expected a whole number"),
    "half": ('{"neuron_id": 1.5}', "expected a whole number"),
    "unsigned": ('{"neuron_id": 18446744073709551615}', "neuron_id is '18446744073709551615', exp"),
    "beyond": (f'{{"neuron_id": "{2**63}"}}', "expected a whole number of 64 bits"),
    "infinity": ('{"neuron_id": Infinity}', "Infinity is no JSON"),
    "nan": ('{"neuron_id": NaN}', "NaN is no JSON"),
    "bool": ('{"neuron_id": true}', "neuron_id is 'True', expected a whole number"),
    "list": ('{"neuron_id": [1]}', "expected a whole number"),
    "words": ('{"neuron_id": "dog"}', "neuron_id is 'dog', expected"),
    "other_bool": ('{"size": false}', "size is 'False', expected a finite number"),
    "other_huge": ('{"size": 1e999}', "expected a finite number"),
    "other_list": ('{"size": [3, 4]}', "size is .*, expected a finite number"),
    "surrogate": ('{"label_tier": "\\ud800"}', "label_tier is .*, expected printable text"),
}


@pytest.mark.parametrize("name", IDENTITY)
def test_ids_in_json_are_exact_or_refused(tmp_path: Path, name: str) -> None:
    text, expected = IDENTITY[name]
    members = [*pair("a", b"1"), ("a.json", text.encode())]
    if isinstance(expected, str):
        with pytest.raises(ValueError, match=f"train-0.tar: sample a: .json.*{expected}"):
            indexed(tmp_path, members)
        return
    indexed(tmp_path, members)
    with open_shards(str(tmp_path)) as shards:
        assert shards.index("train").neuron_id.tolist() == [expected]


def test_a_key_in_two_tars_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "train-0.tar", pair("a", b"1"))
    write(tmp_path / "val-0.tar", pair("a", b"0"))
    with pytest.raises(ValueError, match=r"val-0.tar: sample a is in train-0.tar too"):
        index_tars(str(tmp_path), ForeignSpec(class_names=NAMES))


def test_what_is_no_sample_is_skipped_and_said(tmp_path: Path) -> None:
    others = [".DS_Store", "._a.npy", "README", "README.md", "x/.hidden", "Thumbs.db"]
    members = [*((name, b"x") for name in others), *pair("a", b"1")]
    write(tmp_path / "train-0.tar", members)
    said: list[str] = []
    index_tars(str(tmp_path), ForeignSpec(class_names=NAMES), say=said.append)
    assert len(said) == 1
    assert said[0].startswith("note: train-0.tar: no samples, skipped: .DS_Store, ._a.npy, README")
    with open_shards(str(tmp_path)) as shards:
        assert shards.index("train").column("key").tolist() == ["a"]


def test_missing_labels_are_said_loudly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    members = [("a.npy", npy()), ("a.json", b'{"class": "excitatory"}')]
    write(tmp_path / "train-0.tar", members)
    assert run_command(main, ["index", str(tmp_path), "--class-names", *NAMES]) == 0
    warning = next(line for line in capsys.readouterr().err.splitlines() if "WARNING" in line)
    assert "NONE of 1 samples has a label" in warning
    assert "'class' in .json" in warning
    write(tmp_path / "train-0.tar", [*members, *pair("b", b"1")])
    assert run_command(main, ["index", str(tmp_path), "--class-names", *NAMES]) == 0
    assert "WARNING: 1 only of 2 samples have a label" in capsys.readouterr().err


@pytest.mark.parametrize("content", ['{"mine": 1}', "[]", "", "\x00"])
def test_a_manifest_of_somebody_else_is_kept(tmp_path: Path, content: str) -> None:
    manifest = tmp_path / "manifest.json"
    manifest.write_text(content)
    write(tmp_path / "train-0.tar", pair("a", b"1"))
    with pytest.raises(
        ValueError, match=r"did not write.*; move it elsewhere, or --force"
    ) as caught:
        index_tars(str(tmp_path), ForeignSpec())
    assert "schema_version" not in str(caught.value)
    assert manifest.read_text() == content
    index_tars(str(tmp_path), ForeignSpec(), force=True)
    index_tars(str(tmp_path), ForeignSpec(class_names=NAMES))  # its own may be written again
    assert json.loads(manifest.read_text())["class_names"] == list(NAMES)


def test_the_manifest_of_a_packed_set_is_kept(altered: Path) -> None:
    before = (altered / "manifest.json").read_bytes()
    with pytest.raises(ValueError, match=r"manifest.json is that of a packed set"):
        index_tars(str(altered), ForeignSpec())
    (altered / "manifest.json").unlink()
    with pytest.raises(ValueError, match="is that of an unfinished packing"):
        index_tars(str(altered), ForeignSpec())
    (altered / "manifest.json").write_bytes(before)
