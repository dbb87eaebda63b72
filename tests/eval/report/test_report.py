"""The whole command on made runs: metrics.json, and one page that holds all it shows."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pytest

from eval.__main__ import main
from eval.evaluate import Options, evaluate
from eval.inputs.predictions import PredictionsInfo, read_predictions, write_predictions
from eval.report.gallery import neuroglancer_link, scale_bar
from eval.report.report import metrics_of
from eval.subject import open_subject, read_tags
from shards.cli.command import run_command
from shards.contract.documents import dump_json
from shards.contract.schema import View
from shards.pack.assign import PackOptions
from shards.pack.write_shards import pack
from shards.stream.shardset import open_shards

Make = Callable[..., pd.DataFrame]
Run = Callable[..., Path]


class Page(HTMLParser):
    """Collects what a page refers to, and its images."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.ids: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        self.ids += [named["id"] or ""] if "id" in named else []
        if tag == "a":
            self.links.append(named.get("href") or "")
        elif named.get("src") is not None:
            self.loaded.append(named["src"] or "")
        if tag == "img":
            self.images.append(named)
        assert tag != "link"


def document(*paths: Path, tags: Path | None = None, **options: Any) -> Any:
    """Return metrics.json without drawing the page."""
    read = read_tags(tags) if tags else None
    found = [
        evaluate(replace(open_subject(path), tags=read), Options(**options), lambda step: None)
        for path in paths
    ]
    return json.loads(dump_json(metrics_of(found, [])))


@pytest.fixture(scope="module")
def both(runs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the report of both runs."""
    out = tmp_path_factory.mktemp("both")
    assert run_command(main, [str(runs["2d"]), str(runs["3d"]), "--out", str(out)]) == 0
    return out


def test_metrics_json_holds_every_run(both: Path) -> None:
    written = json.loads((both / "metrics.json").read_text())
    assert written["schema_version"] == 1
    assert [run["name"] for run in written["runs"]] == ["2d", "3d"]
    for run in written["runs"]:
        for metric in ("balanced_accuracy", "auroc", "f1", "mcc", "log_loss"):
            found = run["metrics"][metric]
            assert found["low"] <= found["value"] <= found["high"], metric
        assert run["tau_from"] == "val"
        assert np.sum(run["confusion"]) == run["n_synapses"]
        assert run["n_neurons"] == 12
        assert set(run["baselines"]) == {
            "majority", "metadata", "connectivity", "connectivity_leaked", "hog_forest",
        }  # fmt: skip
        assert set(run["counts"]) == {"train", "val", "test"}
        assert {finding["check"] for finding in run["audit"]["findings"]} == {
            "shared neurons", "duplicate samples", "overlapping boxes", "duplicate images",
        }  # fmt: skip
        assert not any(finding["found"] for finding in run["audit"]["findings"])
        assert run["baselines"]["connectivity"]["metrics"]["balanced_accuracy"]["value"] < 0.65
    [pair] = written["comparisons"]
    assert (pair["first"], pair["second"]) == ("2d", "3d")
    assert pair["metrics"]["balanced_accuracy"]["low"] > 0
    assert pair["metrics"]["balanced_accuracy"]["p_value"] < 0.05


def test_the_page_stands_alone(both: Path) -> None:
    text = (both / "report.html").read_text()
    page = Page(text)
    assert page.images
    assert all(source.startswith("data:") for source in page.loaded)
    assert not re.search(r"url\((?!data:)|@import|<script src|<iframe", text)
    assert all(image.get("alt") is not None for image in page.images)
    inside = [link[1:] for link in page.links if link.startswith("#")]
    assert set(inside) <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    assert len(text) < 15_000_000


def test_the_page_shows_what_was_measured(both: Path) -> None:
    text = (both / "report.html").read_text()
    written = json.loads((both / "metrics.json").read_text())
    for run in written["runs"]:
        value = run["metrics"]["balanced_accuracy"]
        shown = f'{value["value"]:.3f} <span class="ci">[{value["low"]:.3f}, {value["high"]:.3f}]'
        assert shown in text
    for heading in ("Against the baselines", "Calibration", "Strata", "Split audit", "Gallery"):
        assert text.count(f">{heading}</h3>") == 2
    assert "Learning curves" in text
    assert 'type="range"' in text
    assert "split audit found no leak" in text


def test_the_page_begins_with_what_was_trained_and_on_what(both: Path) -> None:
    text = " ".join((both / "report.html").read_text().split())
    top = text[: text.index("All scores on test")]
    for column in ("recipe", "training", "images", "data"):
        assert f'<th scope="col">{column}</th>' in top
    assert "cube 8×24×24 of 40×8×8 nm" in top
    assert re.search(r"train \d+ \w+ \+ \d+ \w+ of \d+ neurons; val \d+", top)


@pytest.mark.parametrize(
    ("width", "voxel_nm", "bar"),
    [(128, (40, 8, 8), ("200 nm", 200 / 1024)), (256, (40, 8, 8), ("500 nm", 500 / 2048)),
     (512, (8, 8), ("1 µm", 1000 / 4096)), (128, None, ("", 0.0))],
)  # fmt: skip
def test_a_scale_bar_is_a_round_length_and_its_share_of_the_width(
    width: int, voxel_nm: tuple[float, ...] | None, bar: tuple[str, float]
) -> None:
    text, share = scale_bar(width, voxel_nm)
    assert (text, share) == (bar[0], pytest.approx(bar[1]))


def test_pictured_synapses_link_to_their_place(both: Path) -> None:
    links = [link for link in Page((both / "report.html").read_text()).links if "#!" in link]
    assert links
    state = json.loads(unquote(links[0].split("#!")[1]))
    assert state["layers"][0]["source"] == "precomputed://https://example.org/em"
    assert len(state["position"]) == 3
    assert state["dimensions"]["x"] == [1e-9, "m"]


@pytest.mark.parametrize(
    ("asked", "source"),
    [(None, "gs://example/seg"), ("https://example.org/seg", "https://example.org/seg")],
)
def test_segmentation_shows_both_partners(
    runs: dict[str, Path], asked: str | None, source: str
) -> None:
    subject = open_subject(runs["2d"])
    frame = subject.test.frame.select_dtypes("number")  # as a CSV of numbers alone has it
    link = neuroglancer_link(subject, frame, 0, asked)
    assert link is not None
    layer = json.loads(unquote(link.split("#!")[1]))["layers"][1]
    assert layer["source"] == f"precomputed://{source}"
    assert layer["segments"] == [str(frame[f"{side}_root_id"].iloc[0]) for side in ("pre", "post")]
    assert int(layer["segments"][0]) > 2**58  # with its last digits


def test_a_csv_alone_is_evaluated(
    make_predictions: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frame = make_predictions(1)[["synapse_id", "probability", "label", "neuron_id"]]
    frame.rename(columns={"neuron_id": "neuron"}).to_csv(tmp_path / "p.csv", index=False)
    assert run_command(main, [str(tmp_path / "p.csv")]) == 0
    said = capsys.readouterr().out
    run = json.loads((tmp_path / "metrics.json").read_text())["runs"][0]
    assert run["tau"] == 0.5
    assert run["tau_from"] == "default"
    assert any("No validation predictions: the threshold is 0.5" in note for note in run["notes"])
    assert any("No shard set was opened" in note for note in run["notes"])
    assert f"{run['metrics']['balanced_accuracy']['value']:.3f}" in said
    assert "baseline: majority class" in said


def test_splits_in_one_file_are_told_apart(make_predictions: Make, tmp_path: Path) -> None:
    parts = [
        make_predictions(1).assign(split="val"),
        make_predictions(2, first_neuron=500).assign(split="test"),
    ]
    write_predictions(tmp_path / "p.parquet", pd.concat(parts), PredictionsInfo())
    run = document(tmp_path / "p.parquet")["runs"][0]
    assert run["n_synapses"] == len(parts[1])
    assert run["tau_from"] == "val"


def test_four_classes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    names = ("ach", "gaba", "glut", "da")
    for split in ("val", "test"):
        groups = np.repeat(np.arange(40), 6)
        values = 0.6 * rng.dirichlet([1] * 4, 240) + 0.4 * np.eye(4)[groups % 4]
        frame = pd.DataFrame(
            {"synapse_id": np.arange(240), "neuron_id": groups + 1, "label": groups % 4}
            | {f"probability_{name}": values[:, c] for c, name in enumerate(names)}
        )
        write_predictions(tmp_path / f"{split}.parquet", frame, PredictionsInfo(class_names=names))
    assert run_command(main, [str(tmp_path / "test.parquet")]) == 0
    run = json.loads((tmp_path / "metrics.json").read_text())["runs"][0]
    assert run["tau"] is None
    assert np.shape(run["confusion"]) == (4, 4)
    assert run["calibration"]["chosen"] in {"none", "temperature"}


def test_stress_is_tabled(make_predictions: Make, run_maker: Run, tmp_path: Path) -> None:
    clean, val = make_predictions(1, gain=3.0), make_predictions(2, gain=3.0, first_neuron=500)
    blurred = clean.assign(probability=0.5 + (clean["probability"] - 0.5) * 0.3 - 0.05)
    run_maker(tmp_path, {"val": val, "test": clean, "test.blur": blurred})
    assert run_command(main, [str(tmp_path)]) == 0
    [row] = json.loads((tmp_path / "metrics.json").read_text())["runs"][0]["stress"]
    assert row["name"] == "blur"
    assert row["cost"]["balanced_accuracy"]["value"] < 0
    assert row["cost"]["auroc"]["value"] == pytest.approx(0.0, abs=1e-9)
    assert "Robustness" in (tmp_path / "report.html").read_text()


def test_tags_reach_strata_and_baseline(runs: dict[str, Path], tmp_path: Path) -> None:
    frame, info = read_predictions(runs["2d"] / "predictions" / "test.parquet")
    assert info.data_url
    tags = pd.DataFrame(
        {
            "id": frame["synapse_id"],
            "tag": ["spine", "shaft"] * (len(frame) // 2) + ["shaft"] * (len(frame) % 2),
        }
    )
    tags.to_csv(tmp_path / "tags.csv", index=False)
    run = document(runs["2d"], tags=tmp_path / "tags.csv", images=False)["runs"][0]
    assert {"target compartment"} <= {row["what"] for row in run["strata"]}
    assert "target compartment" in run["baselines"]["metadata"]["note"]
    assert "hog_forest" not in run["baselines"]
    assert any("Pictures were left out" in note for note in run["notes"])


def test_a_leak_makes_a_red_box_and_names_are_not_markup(
    make_predictions: Make, run_maker: Run, tmp_path: Path
) -> None:
    names = ("<b>low</b>", "<script>alert(1)</script>")
    frames = {"val": make_predictions(1), "test": make_predictions(2)}
    run_maker(tmp_path, frames, class_names=names)
    assert run_command(main, [str(tmp_path)]) == 0
    text = (tmp_path / "report.html").read_text()
    assert '<div class="box red" role="alert">' in text
    assert "shared neurons: 30 of 30 neurons shared between val and test" in text

    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(1)" in text


def test_suspects_link_to_where_they_disagree(
    runs: dict[str, Path], run_maker: Run, tmp_path: Path
) -> None:
    frames = {
        split: read_predictions(runs["3d"] / "predictions" / f"{split}.parquet")[0]
        for split in ("val", "test")
    }
    test, info = read_predictions(runs["3d"] / "predictions" / "test.parquet")
    rows = test.index[test["neuron_id"] == test["neuron_id"].value_counts().index[0]]
    test.loc[rows[::2], "probability"] = 1 - test.loc[rows[::2], "probability"]
    noted = {"data_url": info.data_url, "manifest_sha256": info.manifest_sha256}
    run = run_maker(tmp_path, frames | {"test": test}, **noted)
    assert run_command(main, [str(run), "--no-images"]) == 0
    page = Page((run / "report.html").read_text())
    [listed] = json.loads((run / "metrics.json").read_text())["runs"][0]["suspects"][
        "mixed_neurons"
    ]["listed"]
    assert listed["neuron_id"] == test["neuron_id"][rows[0]]
    states = [json.loads(unquote(link.split("#!")[1])) for link in page.links if "#!" in link]
    assert states
    position = states[0]["position"]
    own = test.loc[rows, [f"center_{axis}_nm" for axis in "xyz"]]
    assert position in own.to_numpy().tolist()
    label = test["label"][rows[0]]
    like = test.loc[rows, "probability"] if label else 1 - test.loc[rows, "probability"]
    assert position == own.loc[like.idxmin()].tolist()


def test_no_card_contradicts_another_at_an_extreme_threshold(
    runs: dict[str, Path], run_maker: Run, tmp_path: Path
) -> None:
    frames = {}
    for split in ("val", "test"):
        frame, info = read_predictions(runs["2d"] / "predictions" / f"{split}.parquet")
        frames[split] = frame.assign(probability=1.0 - 10.0 ** (-6.0 - 4.0 * frame["probability"]))
    noted = {"data_url": info.data_url, "manifest_sha256": info.manifest_sha256}
    run = run_maker(tmp_path / "run", frames, **noted)
    assert run_command(main, [str(run)]) == 0
    text = (run / "report.html").read_text()
    cards = re.findall(
        r"predicted <b>(\w+)</b></p>\s*<p class=\"soft\">"
        r"P\(excitatory\) = 1 − (\S+?); τ = 1 − ([^<]+)<",
        text,
    )
    assert len(cards) > 20
    for predicted, below_one, tau_below_one in cards:
        assert (float(below_one) <= float(tau_below_one)) == (predicted == "excitatory")
    assert len({tau for _, _, tau in cards}) == 1


ERRORS: list[tuple[dict[str, Any], str]] = [
    ({"label": 1}, "no labelled sample of class inhibitory"),
    ({"neuron_id": 7}, "all .* samples are of one neuron, 7"),
    ({"label": -1}, "no sample has a label .*, so there is nothing to score; .*eval export"),
]


@pytest.mark.parametrize(("change", "message"), ERRORS)
def test_too_little_to_score_is_said(
    make_predictions: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    change: dict[str, Any], message: str,
) -> None:  # fmt: skip
    path = tmp_path / "p.parquet"
    write_predictions(path, make_predictions(1).assign(**change), PredictionsInfo())
    assert run_command(main, [str(path)]) == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert re.search(message, said)
    assert str(path) in said


def test_errors_name_the_cure(
    make_predictions: Make, run_maker: Run, shards_of: Callable[[View], str],
    tmp_path: Path, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    frame = make_predictions(1)
    cases = {
        "no such predictions file": [str(tmp_path / "none.parquet")],
        "no such run description": [str(tmp_path)],
        "at least 2 runs": ["compare", str(tmp_path)],
        "seg cannot be linked to; give the URL": [str(tmp_path), "--segmentation", "seg"],
    }
    run = run_maker(tmp_path / "run", {"val": frame})
    cases["make them with `python -m trainer predict"] = [str(run)]
    other = run_maker(tmp_path / "other", {"test": frame}, manifest_sha256="0" * 64)
    cases["has .*; give that set with --data"] = [str(other), "--data", shards_of("patch")]
    alien = run_maker(tmp_path / "alien", {"test": frame})
    cases["predicted samples are not in the test split"] = [
        str(alien),
        "--data",
        shards_of("patch"),
    ]
    for message, args in cases.items():
        assert run_command(main, args) == (2 if message == "at least 2 runs" else 1), message
        said = capsys.readouterr().err.strip().splitlines()[-1]
        assert said.startswith("error: ")
        assert re.search(message, said), said


def test_predictions_of_a_fold_are_compared_with_its_set(
    shards_of: Callable[[View], str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, url = Path(shards_of("patch")).parent / "dataset-patch", str(tmp_path / "cv")
    pack(store, "patch", url, PackOptions(folds=3, samples_per_shard=64), workers=1)
    with open_shards(url, fold=1) as shards:
        frame = shards.index("test").table.to_pandas()[["synapse_id", "neuron_id", "label"]]
    frame.assign(probability=frame.label * 0.5 + 0.2).to_csv(tmp_path / "p.csv", index=False)
    said = [str(tmp_path / "p.csv"), "--data", url, "--no-images"]
    assert run_command(main, [*said, "--fold", "1"]) == 0
    assert run_command(main, said) == 1
    assert "choose one with --fold 0" in capsys.readouterr().err
    assert run_command(main, [*said, "--fold", "0"]) == 1
    assert "not in the test split" in capsys.readouterr().err
    assert run_command(main, [*said, "--fold", "1", "--no-use-data"]) == 2


def test_runs_that_disagree_about_labels_are_not_compared(
    make_predictions: Make, run_maker: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frame = make_predictions(1)
    first = run_maker(tmp_path / "a", {"test": frame})
    second = run_maker(tmp_path / "b", {"test": frame.assign(label=1 - frame["label"])})
    assert run_command(main, ["compare", str(first), str(second)]) == 1
    assert "disagree about the labels" in capsys.readouterr().err


def test_runs_without_common_samples_are_shown_unpaired(
    make_predictions: Make, run_maker: Run, tmp_path: Path
) -> None:
    first = run_maker(tmp_path / "a", {"test": make_predictions(1)})
    second = run_maker(tmp_path / "b", {"test": make_predictions(2, first_neuron=500)})
    [pair] = document(first, second)["comparisons"]
    assert pair["not_paired"] == "they have no sample in common"


@pytest.mark.parametrize("args", [["compare", "--help"], ["export", "--help"]])
def test_help_has_an_example(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(args)
    assert stop.value.code == 0
    assert "Example: python -m eval" in capsys.readouterr().out


def test_help_of_the_command_names_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--help"])
    said = capsys.readouterr().out
    assert "Example: python -m eval" in said
    assert "compare" in said
