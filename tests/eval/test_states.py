"""What is unknown is left out and said; what is odd is scored rightly or refused in one line."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from eval.__main__ import main
from eval.checks.audit import graded
from eval.inputs.predictions import PredictionsInfo, read_predictions, write_predictions
from eval.metrics.bootstrap import Scored
from eval.report.gallery import choose_rows
from eval.report.text import show_probability
from eval.results import Finding
from shards.cli.command import run_command

Make = Callable[..., pd.DataFrame]
IDS = ["synapse_id", "neuron_id", "post_root_id"]


@pytest.fixture(scope="module")
def both(make_predictions: Make) -> pd.DataFrame:
    """Return validation and test in one table, of other neurons each."""
    parts = [
        make_predictions(1, neurons=12, gain=2.5).assign(split="val"),
        make_predictions(2, neurons=12, gain=2.5, first_neuron=500).assign(split="test"),
    ]
    return pd.concat(parts, ignore_index=True)


def evaluated(path: Path, *args: str) -> tuple[dict[str, Any], str]:
    """Return the run of metrics.json and the page."""
    assert run_command(main, [str(path), "--out", str(path.parent), *args]) == 0
    document = json.loads((path.parent / "metrics.json").read_text())
    return document["runs"][0], " ".join((path.parent / "report.html").read_text().split())


def refused(path: Path, capsys: pytest.CaptureFixture[str], *args: str) -> str:
    """Return the one line that refuses a table."""
    assert run_command(main, [str(path), *args]) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert len(lines) == 1
    assert not (path.parent / "metrics.json").exists()
    return lines[0]


UNKNOWN: dict[str, Callable[[pd.DataFrame], pd.DataFrame]] = {
    "zero": lambda frame: frame.assign(neuron_id=0),
    "no column": lambda frame: frame.drop(columns="neuron_id"),
    "one known": lambda frame: frame.assign(neuron_id=np.where(np.arange(len(frame)) < 9, 7, 0)),
}


@pytest.mark.parametrize("change", UNKNOWN.values(), ids=UNKNOWN)
def test_unknown_neurons_are_not_spoken_of(
    both: pd.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    change: Callable[[pd.DataFrame], pd.DataFrame],
) -> None:  # fmt: skip
    change(both).to_csv(tmp_path / "p.csv", index=False)
    run, page = evaluated(tmp_path / "p.csv")
    said = capsys.readouterr().out
    assert run["n_neurons"] is run["neurons"] is run["suspects"] is None
    assert run["interval_unit"] == "synapse"
    assert list(run["coverage"]) == ["synapses"]
    assert all(count["neurons"] is None for count in run["counts"]["test"].values())
    assert all(stratum["neurons"] is None for stratum in run["strata"])
    assert "synapses of unknown neurons" in said
    for text in (said, page):
        assert text.count("Presynaptic neurons are unknown") == 1
        for claim in ("by consensus", "neuron 0", "within an axon", "1 neurons", "0 neurons"):
            assert claim not in text
    assert "shared neurons" in run["audit"]["unchecked"]
    assert "bootstrap over synapses" in page


def test_half_known_neurons_are_spoken_of_alone(both: pd.DataFrame, tmp_path: Path) -> None:
    frame = both.copy()
    frame.loc[::2, "neuron_id"] = 0
    frame.to_csv(tmp_path / "p.csv", index=False)
    run, page = evaluated(tmp_path / "p.csv")
    assert run["n_neurons"] == 12
    assert run["neurons"]["by_synapses"][0]["neurons"] == 12
    assert run["neurons"]["correlation"] is not None
    assert any("test synapses have no known neuron" in note for note in run["notes"])
    assert "bootstrap over presynaptic neurons" in page


def test_a_correlation_that_validation_cannot_give_is_not_stated(
    both: pd.DataFrame, tmp_path: Path
) -> None:
    is_val = both["split"] == "val"
    both.assign(neuron_id=both["neuron_id"].where(~is_val, 0)).to_csv(tmp_path / "p.csv")
    run, page = evaluated(tmp_path / "p.csv")
    assert run["neurons"]["correlation"] is None
    assert "is not measured" in page
    assert "from validation: 1.00" not in page


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ((0.25, 0.75), ("0.250", "0.750")),
        ((0.49996, 0.49997), ("0.49996", "0.49997")),
        ((1 - 2e-9, 1 - 3e-9), ("1 − 2.0e-09", "1 − 3.0e-09")),
        ((1 - 2.01e-9, 1 - 2.04e-9), ("1 − 2.01e-09", "1 − 2.04e-09")),
        ((1.0, 1 - 1e-16), ("1", "1 − 1.1e-16")),
        ((0.0, 5e-324), ("0", "4.9e-324")),
        ((3e-9, 0.5), ("3.0e-09", "0.500")),
    ],
)
def test_a_probability_is_told_from_its_threshold(
    values: tuple[float, float], shown: tuple[str, str]
) -> None:
    value, tau = values
    assert (show_probability(value, tau), show_probability(tau, value)) == shown


def test_uncertain_is_near_the_threshold_however_extreme() -> None:
    ones = np.array([1.0, 1 - 1e-9, 1 - 4e-9, 1 - 6e-9, 0.9, 0.0])
    scored = Scored(
        labels=np.array([1, 0, 1, 1, 1, 0]),
        probabilities=np.stack([1 - ones, ones], axis=1),
        groups=np.arange(6),
        num_groups=6,
        tau=1 - 5e-9,
    )
    chosen = choose_rows(scored, scored.probabilities, 2)
    assert set(chosen["Most uncertain"]) == {2, 3}
    assert chosen["Most confident and wrong"].tolist() == [4, 1]


def test_extreme_thresholds_are_the_same_everywhere(
    both: pd.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    squeezed = 1.0 - 10.0 ** (-6.0 - 4.0 * both["probability"])
    both.assign(probability=squeezed).to_csv(tmp_path / "p.csv", index=False)
    run, page = evaluated(tmp_path / "p.csv")
    shown = show_probability(run["tau"])
    assert shown.startswith("1 − ")
    assert f"τ = {shown} from val" in capsys.readouterr().out
    assert f"τ = {shown} (from validation)" in page
    assert f"τ = {shown} is the best on validation" in page
    assert "τ = 1.000" not in page
    assert run["metrics"]["balanced_accuracy"]["value"] > 0.7
    majority = run["neurons"]["methods"]["majority"]["balanced_accuracy"]["value"]
    mean_logit = run["neurons"]["methods"]["mean_logit"]["balanced_accuracy"]["value"]
    assert abs(majority - mean_logit) < 0.2


@pytest.mark.parametrize("change", ["equal", "zero and one"])
def test_probabilities_without_a_ranking_are_scored(
    both: pd.DataFrame, tmp_path: Path, change: str
) -> None:
    values = (both["probability"] > 0.5).astype(float)
    both.assign(probability=0.5 if change == "equal" else values).to_csv(tmp_path / "p.csv")
    run, _ = evaluated(tmp_path / "p.csv")
    assert run["tau"] == 0.5
    assert (run["metrics"]["auroc"]["value"] == 0.5) == (change == "equal")


def test_swapped_classes_are_suspected(both: pd.DataFrame, tmp_path: Path) -> None:
    both.assign(probability=1 - both["probability"]).to_csv(tmp_path / "p.csv", index=False)
    run, page = evaluated(tmp_path / "p.csv")
    assert any("the classes may be swapped" in note for note in run["notes"])
    assert "the classes may be swapped" in page


@pytest.mark.parametrize(
    "names",
    [("Train", "Val", "Test"), ("Training", "Validation", "TESTING"), ("train", "valid", " test")],
)
def test_splits_are_known_by_any_name(
    both: pd.DataFrame, tmp_path: Path, names: tuple[str, str, str]
) -> None:
    memorised = both[both["split"] == "val"].assign(
        split=names[0], probability=lambda f: f["label"].astype(float)
    )
    memorised["synapse_id"] += 10**6
    spelt = both.assign(split=both["split"].map({"val": names[1], "test": names[2]}))
    pd.concat([memorised, spelt]).to_csv(tmp_path / "p.csv", index=False)
    run, _ = evaluated(tmp_path / "p.csv")
    assert run["n_synapses"] == (both["split"] == "test").sum()
    assert run["tau_from"] == "val"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("fold1", "fold2"), r"names no split that is known, found fold1 .*fold2 .*--split all"),
        (("train", "val"), r"no row of split test, found train .*val .*name what to score"),
    ],
)
def test_tables_without_test_rows_are_not_scored_in_silence(
    both: pd.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    names: tuple[str, str], message: str,
) -> None:  # fmt: skip
    path = tmp_path / "p.csv"
    both.assign(split=both["split"].map(dict(zip(("val", "test"), names, strict=True)))).to_csv(
        path
    )
    line = refused(path, capsys)
    assert pd.Series([line]).str.contains(message).all(), line
    run, page = evaluated(path, "--split", "all")
    assert run["n_synapses"] == len(both)
    assert run["split"] == "all"
    assert "All rows are scored, of whatever split they are" in page


def test_rows_of_unknown_splits_are_left_out_and_said(both: pd.DataFrame, tmp_path: Path) -> None:
    both.loc[both.index[-20:], "split"] = "holdout"
    both.to_csv(tmp_path / "p.csv", index=False)
    run, _ = evaluated(tmp_path / "p.csv")
    assert any("20 rows name no known split and are left out" in note for note in run["notes"])


def test_a_table_without_splits_is_scored_whole_and_said(
    both: pd.DataFrame, tmp_path: Path
) -> None:
    both.drop(columns="split").to_csv(tmp_path / "p.csv", index=False)
    run, page = evaluated(tmp_path / "p.csv")
    assert run["n_synapses"] == len(both)
    assert "The table names no splits: all" in page
    assert "the threshold is 0.5" in page


def spelt_as(frame: pd.DataFrame, path: Path) -> Path:
    """Write a table as the ending of its name says."""
    ending = path.name.split(".", 1)[1].lower()
    if ending == "parquet":
        frame.to_parquet(path, index=False)
    elif ending in {"feather", "arrow"}:
        pyarrow.feather.write_feather(frame, path)
    else:
        text = frame.to_csv(index=False, sep="\t" if "tsv" in ending else ",")
        path.write_bytes(gzip.compress(text.encode()) if ending.endswith("gz") else text.encode())
    return path


@pytest.mark.parametrize(
    "name", ["p.csv.gz", "p.tsv", "p.tsv.gz", "p.feather", "p.arrow", "P.CSV", "P.PARQUET"]
)
def test_every_kind_of_table_is_read(both: pd.DataFrame, tmp_path: Path, name: str) -> None:
    frame, _ = read_predictions(spelt_as(both, tmp_path / name))
    for column in IDS:
        assert np.array_equal(frame[column], both[column])
    np.testing.assert_allclose(frame["probability"], both["probability"])
    assert np.array_equal(frame["label"], both["label"])


SPELT: dict[str, Callable[[str], str]] = {
    "BOM": lambda text: "\ufeff" + text,
    "semicolon": lambda text: text.replace(",", ";"),
    "windows lines": lambda text: text.replace("\n", "\r\n"),
    "upper-case header": lambda text: text.replace("probability", "Probability").replace(
        "synapse_id", "Synapse_ID"
    ),
    "quoted ids": lambda text: "\n".join(
        f'"{line.split(",")[0]}",' + line.split(",", 1)[1] for line in text.splitlines()
    ),
}


@pytest.mark.parametrize("change", SPELT.values(), ids=SPELT)
def test_text_is_read_however_it_is_written(
    both: pd.DataFrame, tmp_path: Path, change: Callable[[str], str]
) -> None:
    path = tmp_path / "p.csv"
    text = both[["synapse_id", "neuron_id", "label", "probability"]].to_csv(index=False)
    path.write_text(change(text), newline="")
    frame, _ = read_predictions(path)
    assert np.array_equal(frame["synapse_id"], both["synapse_id"])
    np.testing.assert_allclose(frame["probability"], both["probability"])


LABELS: dict[str, Callable[[pd.Series], Any]] = {
    "floats": lambda label: label.astype(float),
    "booleans": lambda label: label == 1,
    "names": lambda label: label.map({0: "inhibitory", 1: "excitatory"}),
    "names in capitals": lambda label: label.map({0: "Inhibitory", 1: "Excitatory"}),
    "text": lambda label: label.astype(str),
    "floats as text": lambda label: label.astype(float).astype(str),
}


@pytest.mark.parametrize("packed", ["p.csv", "p.parquet"])
@pytest.mark.parametrize("change", LABELS.values(), ids=LABELS)
def test_labels_are_known_by_value(
    both: pd.DataFrame, tmp_path: Path, change: Callable[[pd.Series], Any], packed: str
) -> None:
    labels = pd.Series(change(both["label"])).astype(object)
    labels[3] = None
    path = spelt_as(both.assign(label=labels), tmp_path / packed)
    frame, _ = read_predictions(path)
    expected = both["label"].to_numpy(np.int16, copy=True)
    expected[3] = -1
    assert np.array_equal(frame["label"], expected)


def test_numbered_columns_are_classes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = rng.dirichlet([1, 1, 1], 60)
    frame = pd.DataFrame({"id": range(60), "neuron": np.arange(60) // 3 + 1})
    frame = frame.assign(label=frame["neuron"] % 3)
    columns = pd.DataFrame({f"probability_{c}": values[:, c] for c in (2, 0, 1)})
    frame.join(columns).to_csv(tmp_path / "p.csv", index=False)
    run, _ = evaluated(tmp_path / "p.csv")
    assert run["class_names"] == ["0", "1", "2"]
    expected = np.mean(values.argmax(axis=1) == frame["label"])
    assert run["metrics"]["accuracy"]["value"] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("columns", "first"),
    [
        (("probability_0", "probability_1"), "0"),
        (("probability_1", "probability_0"), "1"),
        (("probability_inhibitory", "probability_excitatory"), "0"),
        (("probability_excitatory", "probability_inhibitory"), "1"),
    ],
)
def test_two_columns_are_one_probability(
    both: pd.DataFrame, tmp_path: Path, columns: tuple[str, str], first: str
) -> None:
    ones, zeros = both["probability"], 1 - both["probability"]
    pair = (zeros, ones) if first == "0" else (ones, zeros)
    frame = both.drop(columns="probability").assign(**dict(zip(columns, pair, strict=True)))
    frame.to_csv(tmp_path / "p.csv", index=False)
    found, info = read_predictions(tmp_path / "p.csv")
    assert info.class_names == ("inhibitory", "excitatory")
    np.testing.assert_allclose(found["probability"], ones)


def test_noted_classes_decide_over_the_order_of_columns(tmp_path: Path) -> None:
    names = ("c", "a", "b")
    values = np.random.default_rng(0).dirichlet([1, 1, 1], 30)
    frame = pd.DataFrame({"synapse_id": range(30), "neuron_id": 5, "label": np.arange(30) % 3})
    columns = {f"probability_{names[c]}": values[:, c] for c in (1, 2, 0)}
    write_predictions(
        tmp_path / "p.parquet", frame.assign(**columns), PredictionsInfo(class_names=names)
    )
    found, info = read_predictions(tmp_path / "p.parquet")
    assert info.class_names == names
    np.testing.assert_allclose(found[[f"probability_{name}" for name in names]], values)


def test_a_flipped_bit_never_changes_a_prediction(make_predictions: Make, tmp_path: Path) -> None:
    path, flipped = tmp_path / "p.parquet", tmp_path / "flipped.parquet"
    write_predictions(path, make_predictions(1), PredictionsInfo(run="runs/a"))
    data, (frame, info) = path.read_bytes(), read_predictions(path)
    rng = np.random.default_rng(0)
    bits = np.concatenate([rng.integers(0, 8 * len(data), 150), 8 * len(data) - 1 - np.arange(64)])
    noticed = 0
    for bit in bits:
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << (bit % 8)
        flipped.write_bytes(changed)
        try:
            found, found_info = read_predictions(flipped)
        except ValueError:
            noticed += 1
        else:
            pd.testing.assert_frame_equal(found, frame)
            assert found_info == info
    assert noticed > 0.9 * len(bits)


def test_a_table_that_another_tool_wrote_again_is_read(
    make_predictions: Make, tmp_path: Path
) -> None:
    path = tmp_path / "p.parquet"
    write_predictions(path, make_predictions(1), PredictionsInfo(run="runs/a"))
    table = pq.read_table(path)
    pq.write_table(table.slice(0, 100), path)
    frame, info = read_predictions(path)
    assert len(frame) == 100
    assert info.run == "runs/a"


@pytest.mark.parametrize(
    ("splits", "found", "grade"),
    [
        (("train", "test"), 1, "leak"),
        (("val", "test"), 4, "selection"),
        (("val", "test"), 10, "leak"),
        (("train", "val"), 20, "selection"),
        (("train", "test"), 0, None),
    ],
)
def test_what_splits_share_is_graded(splits: tuple[str, str], found: int, grade: str) -> None:
    finding = Finding(check="overlapping boxes", splits=splits, found=found, of=20, unit="boxes")
    assert graded(finding).grade == grade
