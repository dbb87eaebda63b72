"""Documents: whatever a file holds is a record or one line."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.contract.documents import (
    document,
    load_yaml,
    parse_json,
    parse_plain,
    read_document,
    sealed_json,
    write_document,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    size: int
    scale: tuple[float, float] = (1.0, 2.0)

    def __post_init__(self) -> None:
        if self.size < 0:
            raise ValueError(f"size must not be negative, got {self.size}")


@document
@dataclass(frozen=True, kw_only=True, slots=True)
class Whole:
    part: Part
    names: tuple[str, ...] = ()
    counts: dict[str, int] = field(default_factory=dict)


WHOLE = Whole(part=Part(size=3), names=("a", "ß"), counts={"x": 2**60})
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["part", "size", "names", "scale", "?"]), inner)
    ),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"[]", "found [], expected"),
        (b"null", "found None, expected"),
        (b'"x"', "found 'x', expected"),
        (b"", "not readable as JSON"),
        (b"\xff\xfe", "not readable as JSON"),
        (b"[" * 100_000, "not readable as JSON (recursion limit"),
        (b"{}", "key part is missing"),
        (b'{"part": {"size": "3"}}', "part.size is '3', expected a valid integer"),
        (b'{"part": {"size": true}}', "part.size is True, expected a valid integer"),
        (b'{"part": {"size": -1}}', "size must not be negative, got -1"),
        (b'{"part": {"size": 1, "sise": 2}}', "unknown key part.sise"),
        (b'{"part": {"size": 1, "scale": [1, NaN]}}', "part.scale[1] is nan, expected a finite"),
    ],
)
def test_a_wrong_document_is_one_line(text: bytes, expected: str) -> None:
    with pytest.raises(ValueError, match=r"f\.json: .*; write it again") as caught:
        parse_json(Whole, text, where="f.json", cure="write it again")
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


@given(value=JSON)
def test_any_json_is_a_record_or_one_line(value: object) -> None:
    try:
        parse_plain(Whole, value, where="f", cure="c")
    except ValueError as error:
        message = str(error)
    else:
        return
    assert message.startswith("f: ")
    assert "\n" not in message


def test_a_sealed_document_comes_back_and_no_flipped_bit_changes_it(tmp_path: Path) -> None:
    path = tmp_path / "whole.json"
    write_document(path, WHOLE)
    assert read_document(Whole, path, what="whole", cure="c") == WHOLE
    sealed = sealed_json(WHOLE)
    assert path.read_bytes() == sealed
    refused = 0
    for bit in range(8 * len(sealed)):
        damaged = bytearray(sealed)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            assert parse_json(Whole, bytes(damaged), where="f", cure="c") == WHOLE
        except ValueError:
            refused += 1
    assert refused > 8 * len(sealed) - 20  # the others turn white space into other white space


def test_a_yaml_key_that_comes_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("part:\n  size: 1\n  size: 2\n")
    with pytest.raises(ValueError, match=r"job\.yaml: not readable as YAML: .*size comes twice"):
        load_yaml(path, what="job", cure="correct it")


def test_yaml_keys_are_read_as_text(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("part: {size: 1}\ncounts: {true: 1, 2: 2}\n")
    whole = parse_plain(Whole, load_yaml(path, what="job", cure="c"), where="job", cure="c")
    assert whole.counts == {"true": 1, "2": 2}
