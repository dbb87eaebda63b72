"""Run folders of any shape, passwords, bit rot, and two evaluations at once."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from eval.__main__ import main
from eval.inputs.runs import read_learning
from eval.results import Metrics
from shards.cli.command import run_command
from shards.contract.documents import read_document
from shards.storage.locks import sole_writer_of_file

Make = Callable[..., pd.DataFrame]
Run = Callable[..., Path]


@pytest.fixture
def run(make_predictions: Make, run_maker: Run, tmp_path: Path) -> Path:
    """Return a run of few neurons."""
    frames = {
        "val": make_predictions(1, neurons=8, synapses=5),
        "test": make_predictions(2, neurons=8, synapses=5, first_neuron=500),
    }
    return run_maker(tmp_path / "run", frames)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "expected"),
        ("null", "expected"),
        ('"x"', "expected"),
        ("{", "not readable as JSON"),
        ('{"data_url": 5}', "data_url is 5"),
        ('{"manifest_sha256": ["a"]}', "manifest_sha256 is"),
        ("", "not readable as JSON"),
        ("\xff", "not readable as JSON"),
    ],
)
def test_a_run_description_of_any_shape_is_one_line(
    run: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    (run / "run.json").write_bytes(text.encode("latin-1"))
    assert run_command(main, [str(run)]) == 1
    [line] = capsys.readouterr().err.strip().splitlines()[-1:]
    assert line.startswith("error: ")
    assert "run.json: not a run description" in line
    assert message in line


def test_learning_curves_leave_out_what_is_not_readable(tmp_path: Path) -> None:
    rows = [
        '{"kind": "val", "epoch": 0, "train_loss": 0.5, "balanced_accuracy": 0.7, "x": [1]}',
        '{"kind": "val", "epoch": 1, "train_loss": NaN, "balanced_accuracy": 0.8}',
        '{"kind": "val", "epoch": "two", "train_loss": 0.4}',
        '{"kind": "train", "epoch": 2, "train_loss": 0.4}',
        "[1, 2]",
        "text",
        '{"kind": "val", "epo',
    ]
    (tmp_path / "metrics.jsonl").write_text("\n".join(rows) + "\n")
    curves, bad = read_learning(tmp_path)
    assert curves == {
        "training loss": [(1.0, 0.5)],
        "validation balanced accuracy": [(1.0, 0.7), (2.0, 0.8)],
    }
    assert bad == 4


def test_a_run_is_compared_with_predictions_that_no_run_of_ours_made(run: Path) -> None:
    others = run.parent / "others.parquet"
    (run / "predictions" / "test.parquet").rename(others)
    (run / "predictions" / "test.parquet").write_bytes(others.read_bytes())
    out = run.parent / "out"
    assert run_command(main, ["compare", str(run), str(others), "--out", str(out)]) == 0
    assert "Learning curves" in (out / "report.html").read_text()


def test_no_password_reaches_page_or_metrics(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    secret = "https://ada:s3cr3t@example.org/data"
    description = json.loads((run / "run.json").read_text()) | {
        "data_url": secret, "command": ["train", "--data", secret]
    }  # fmt: skip
    (run / "run.json").write_text(json.dumps(description))
    assert run_command(main, [str(run), "--no-use-data", "--segmentation", secret]) == 0
    written = (run / "report.html").read_text() + (run / "metrics.json").read_text()
    said = capsys.readouterr()
    for text in (written, said.out, said.err):
        assert "s3cr3t" not in text
        assert "ada:" not in text
    assert "https://example.org/data" in written


def test_a_second_evaluation_in_a_folder_names_the_first(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with sole_writer_of_file(run / "report.html"):
        assert run_command(main, [str(run)]) == 1
    assert "report.html is being written by process" in capsys.readouterr().err
    assert not (run / "metrics.json").exists()
    (run / ".report.html.1.abcdef00.tmp").write_text("left by a killed evaluation")
    assert run_command(main, [str(run), "--no-images"]) == 0
    assert not [path for path in run.iterdir() if path.name.startswith(".")]


def test_metrics_are_sealed(run: Path) -> None:
    assert run_command(main, [str(run)]) == 0
    path = run / "metrics.json"

    def read() -> Metrics:
        return read_document(Metrics, path, what="metrics", cure="evaluate again")

    data, metrics = path.read_bytes(), read()
    assert metrics.runs[0].n_neurons == 8
    rng = np.random.default_rng(0)
    noticed = 0
    for bit in rng.integers(0, 8 * len(data), 120):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << (bit % 8)
        path.write_bytes(changed)
        try:
            assert read() == metrics
        except ValueError:
            noticed += 1
    assert noticed > 110
