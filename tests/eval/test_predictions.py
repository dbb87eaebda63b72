from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from eval.predictions import (
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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"probability": [0.5, np.nan, 0.5]},
            r"in \[0, 1\], first nan in row 1 .*leave such rows out",
        ),
        ({"probability": [0.5, 0.5, 1.5]}, r"first 1\.5 in row 2 .*no logits"),
        ({"probability": ["0.5", "high", "1"]}, "first high in row 1 .*leave such rows out"),
        ({"probability": [-0.1, 0.5, 0.5]}, r"first -0\.1 in row 0"),
        ({"key": ["a", "a", "b"]}, "1 rows repeat a key, first key a in row 1"),
        ({"label": [0, 1, 7]}, "label 7 in row 2 is not a class; expected 0 to 1"),
        ({"label": ["inhibitory", "odd", "0"]}, "label odd in row 1"),
        ({"neuron_id": ["5", "y", "z"]}, "neuron_id must hold integer ids, found y in row 1"),
        ({"neuron_id": [5.0, 5.5, 6.0]}, r"integer ids, found 5\.5 in row 1; write whole numbers"),
        ({"neuron_id": [[5], [5], [6]]}, r"integer ids, found \[5\] in row 0"),
        ({"pre_root_id": [5.0, 6.0, 2.0**59]}, r"pre_root_id .* in row 2; .* none as a float"),
    ],
)
def test_bad_values_are_named(
    tmp_path: Path, change: dict[str, list[object]], message: str
) -> None:
    path = tmp_path / "p.parquet"
    pq.write_table(pa.Table.from_pandas(GOOD.assign(**change)), path)
    with pytest.raises(ValueError, match=message):
        read_predictions(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("synapse_id,probability\n1,0.5\n,0.5\n,0.4\n", "2 rows have no synapse_id, first row 1;"),
        ("key,synapse_id,probability\na,1,0.5\n,2,0.5\n", "1 rows have no key, first row 1; give"),
        ("id,neuron,neuron,probability\n1,3,4,0.5\n", "several columns are called neuron; keep"),
    ],
)
def test_what_tells_rows_apart_must_be_there(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "p.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"p\.csv: {message}"):
        read_predictions(path)


def test_whole_numbers_in_a_column_of_floats_are_ids(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text("synapse_id,probability,label,neuron\n1,0.5,1,3.0\n2,0.5,0,\n")
    assert read_predictions(path)[0]["neuron_id"].tolist() == [3, 0]


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
    with pytest.raises(ValueError, match=r"row 0 add up to 0\.9, expected 1"):
        write_predictions(tmp_path / "p.parquet", table, PredictionsInfo(class_names=THREE))


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such predictions file"):
        read_predictions(tmp_path / "none.parquet")
    (tmp_path / "bad.parquet").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="not a readable parquet file"):
        read_predictions(tmp_path / "bad.parquet")


def test_an_unknown_schema_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    table = pa.Table.from_pandas(GOOD).replace_schema_metadata(
        {b"synshards": b'{"schema_version": 9}'}
    )
    pq.write_table(table, path)
    with pytest.raises(ValueError, match="schema version 9 is unknown"):
        read_predictions(path)


@pytest.mark.parametrize("names", [("one",), ("same", "same")])
def test_class_names_are_two_or_more(names: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="two or more different ones"):
        PredictionsInfo(class_names=names)
