import re
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from eval.inputs.predictions import (
    PredictionsInfo,
    probability_matrix,
    read_predictions,
    write_predictions,
)

GOOD = pd.DataFrame(
    {
        "key": ["a", "b", "c"],
        "synapse_id": [2**62 + 1, 2**62 + 2, 2**62 + 3],
        "neuron_id": [5, 5, 6],
        "label": np.array([0, 1, -1], np.int16),
        "probability": [0.0, 1.0, 0.25],
    }
)
THREE = ("gaba", "glutamate", "peptide")


def of_three(values: np.ndarray) -> pd.DataFrame:
    columns = [f"probability_{name}" for name in THREE]
    return GOOD.drop(columns="probability").join(pd.DataFrame(values, columns=columns))


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path, info = tmp_path / "p.parquet", PredictionsInfo(run="runs/x", checkpoint="best", tta=8)
    write_predictions(path, GOOD, info)
    frame, found = read_predictions(path)
    assert found == info
    pd.testing.assert_frame_equal(frame, GOOD, check_dtype=False)
    assert frame["label"].dtype == np.int16


def test_three_classes(tmp_path: Path) -> None:
    values = np.random.default_rng(0).dirichlet([1, 1, 1], 3)
    table = of_three(values)
    write_predictions(
        tmp_path / "p.parquet", pa.Table.from_pandas(table), PredictionsInfo(class_names=THREE)
    )
    frame, info = read_predictions(tmp_path / "p.parquet")
    np.testing.assert_array_equal(probability_matrix(frame, info.class_names), values)


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("synapse_id,probability,label,neuron\n1,0.5,1,3\n2,0.1,0,\n3,0.3,,4\n", [1, 0, -1]),
        (
            "id,probability_1,label,neuron\n1,0.5,excitatory,3\n2,0.1,inhibitory,\n3,0,,4\n",
            [1, 0, -1],
        ),
    ],
)
def test_a_csv_of_four_columns_is_enough(tmp_path: Path, text: str, labels: list[int]) -> None:
    path = tmp_path / "p.csv"
    path.write_text(text)
    frame, info = read_predictions(path)
    assert frame["label"].tolist() == labels
    assert frame["neuron_id"].tolist() == [3, 0, 4]
    assert info.class_names == ("inhibitory", "excitatory")


def test_ids_with_gaps_keep_every_digit(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text("synapse_id,probability,label,neuron\n1,0.5,1,864691135572530981\n2,0.5,0,\n")
    assert read_predictions(path)[0]["neuron_id"].tolist() == [864691135572530981, 0]


BAD: list[tuple[dict[str, object], str]] = [
    ({"probability": [0.5, np.nan, 0.5]}, r"first nan in data row 2 .*leave such rows out"),
    ({"probability": [0.5, 0.5, 100.5]}, r"first 100\.5 in data row 3 .*no logits"),
    ({"probability": [99.0, 1.0, 50.0]}, r"first 99\.0 in data row 1 .*divide them by 100"),
    ({"probability": ["0.5", "high", "1"]}, "probability, data row 2: found 'high'"),
    ({"probability": [-0.1, 0.5, 0.5]}, r"first -0\.1 in data row 1.*softmax"),
    ({"key": ["a", "a", "b"]}, "1 rows repeat a key, first key a in data row 2"),
    ({"label": [0, 1, 7]}, "label 7 in data row 3 is not a class; expected 0 to 1"),
    ({"label": ["inhibitory", "odd", "0"]}, "label odd in data row 2"),
    ({"label": [0.0, 0.7, 1.0]}, r"label 0\.7 in data row 2"),
    ({"label": [[0, 1], [1, 0], [1, 0]]}, "column label, data row 1: found .0, 1."),
    ({"neuron_id": ["5", "y", "z"]}, "neuron_id, data row 2: found 'y'"),
    ({"neuron_id": [5.0, 5.5, 6.0]}, r"neuron_id, data row 1: found 5\.0 .*lose the last digits"),
    ({"neuron_id": [[5], [5], [6]]}, r"neuron_id, data row 1: found \[5\]"),
    ({"key": [None, "a", "b"]}, "1 rows have no key, first data row 1; give every row one"),
    ({"split": ["a", "b", "c"], "Split": ["a", "b", "c"]}, "several columns are called split"),
]


@pytest.mark.parametrize(("change", "message"), BAD)
def test_bad_values_are_named(tmp_path: Path, change: dict[str, object], message: str) -> None:
    path = tmp_path / "p.parquet"
    pq.write_table(pa.Table.from_pandas(GOOD.assign(**change)), path)
    with pytest.raises(ValueError, match=rf"p\.parquet: .*{message}"):
        read_predictions(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,probability\n1,0.5\n,0.5\n,0.4\n", "2 rows have no synapse_id, first data row 2"),
        ("key,id,probability\na,1,0.5\n,2,0.5\n", "1 rows have no key, first data row 2; give"),
        ("id,neuron,neuron,probability\n1,3,4,0.5\n", "several columns are called neuron "),
        ("id,probability,label,neuron\n1,0.5,1,3.0\n2,0.5,0,\n", "column neuron, data row 1"),
        ("synapse_id,probability\n", "a table without rows"),
        ("", "an empty file"),
    ],
)  # fmt: skip
def test_what_tells_rows_apart_must_be_there(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "p.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"p\.csv: {message}"):
        read_predictions(path)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (GOOD.drop(columns="probability"), "column probability is missing"),
        (GOOD.drop(columns=["key", "synapse_id"]), "no synapse_id or key column"),
        (GOOD.iloc[:0], "the file has no rows"),
        (GOOD.drop(columns="key").assign(synapse_id=4), "2 rows repeat a synapse_id"),
    ],
)
def test_nothing_malformed_is_written(tmp_path: Path, table: pd.DataFrame, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_predictions(tmp_path / "p.parquet", table, PredictionsInfo())
    assert not list(tmp_path.iterdir())


def test_probabilities_of_more_classes_add_up(tmp_path: Path) -> None:
    table = of_three(np.full((3, 3), 0.3))
    with pytest.raises(ValueError, match=r"data row 1 add up to 0\.9, expected 1"):
        write_predictions(tmp_path / "p.parquet", table, PredictionsInfo(class_names=THREE))


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such predictions file"):
        read_predictions(tmp_path / "none.parquet")
    for name, content, message in (
        ("bad.parquet", b"nonsense", "not a parquet file"),
        ("bad.csv.gz", b"\x1f\x8bnonsense", r"bad\.csv\.gz"),
        ("bad.xlsx", b"PK", r"unknown kind of table, expected one of \.parquet"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=message):
            read_predictions(tmp_path / name)


@pytest.mark.parametrize("left", [0, 3, 100, 0.5, 0.9, -1])
@pytest.mark.parametrize("may_be_empty", [False, True])
def test_files_cut_short_are_named(tmp_path: Path, left: float, *, may_be_empty: bool) -> None:
    path = tmp_path / "test.parquet"
    write_predictions(path, GOOD, PredictionsInfo())
    data = path.read_bytes()
    path.write_bytes(data[: int(left * len(data)) if 0 < left < 1 else int(left)])
    with pytest.raises(ValueError, match=rf"^{re.escape(str(path))}.*; .+"):
        read_predictions(path, may_be_empty=may_be_empty)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (b'{"schema_version": 9}', "schema version 9 is unknown"),
        (b"[]", "expected"),
        (b"null", "expected"),
        (b'{"class_names": "ab"}', "class_names is 'ab'"),
        (b'{"class_names": ["a", "a"]}', "two or more different ones"),
        (b'{"tta": NaN}', "tta"),
        (b"\xff", "not readable as JSON"),
    ],
)
def test_metadata_of_any_shape_is_one_line(tmp_path: Path, document: bytes, message: str) -> None:
    path = tmp_path / "p.parquet"
    pq.write_table(
        pa.Table.from_pandas(GOOD).replace_schema_metadata({b"synshards": document}), path
    )
    with pytest.raises(ValueError, match=rf"p\.parquet: metadata synshards.*{message}"):
        read_predictions(path)


@pytest.mark.parametrize("names", [("one",), ("same", "same")])
def test_class_names_are_two_or_more(names: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="two or more different ones"):
        PredictionsInfo(class_names=names)
