"""Learning, chance, predictions and errors, in this process."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from eval.evaluate import Options, evaluate
from eval.inputs.predictions import probability_matrix, read_predictions
from eval.metrics.metrics import balanced_accuracy
from eval.subject import open_subject
from shards.contract.documents import dump_json
from shards.stream.shardset import open_shards
from tests.trainer.conftest import main
from trainer.checkpoint.load import load_trained

TINY = (
    "unet3d_small", "--crop", "8", "24", "24", "--width", "4", "--epochs", "7",
    "--batch-size", "16", "--memory-format", "contiguous", "--augment.shift-vx", "0",
    "--threads", "1",
)  # fmt: skip
TINY_2D = (
    "resnet18_2d", "--weights", "none", "--crop", "32", "32", "--epochs", "1",
    "--batch-size", "16", "--memory-format", "contiguous", "--threads", "1",
)  # fmt: skip
MakeShards = Callable[..., str]


@pytest.fixture(scope="module")
def trained(cubes: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "run"
    main([*TINY, "--data", cubes, "--out", str(out)])
    return out


def score(path: Path) -> float:
    frame, info = read_predictions(path)
    found = probability_matrix(frame, info.class_names)
    return balanced_accuracy(frame["label"].to_numpy(), found.argmax(axis=1))


def test_it_learns_and_predicts_each_sample_once(trained: Path, cubes: str) -> None:
    main(["predict", str(trained), "--split", "val", "test"])
    for split, count in (("val", 40), ("test", 24)):
        frame, info = read_predictions(trained / "predictions" / f"{split}.parquet")
        with open_shards(cubes) as shards:
            keys = shards.index(split).column("key")
        assert frame["key"].tolist() == keys.tolist()
        assert len(set(keys)) == count
        assert info.tta == 1
        assert info.checkpoint == "best"
    assert score(trained / "predictions" / "test.parquet") >= 0.9


def test_shuffled_labels_stay_at_chance(make_shards: MakeShards, tmp_path: Path) -> None:
    counts = {"train": 96, "val": 40, "test": 200}
    url = make_shards(tmp_path, "cube", shuffled_labels=True, counts=counts)
    main([*TINY, "--data", url, "--out", str(tmp_path / "run")])
    main(["predict", str(tmp_path / "run")])
    # 200 coin flips lie this close to one half in 99.9 % of cases.
    assert abs(score(tmp_path / "run" / "predictions" / "test.parquet") - 0.5) < 0.117


def test_tta_is_the_mean_over_transformed_images(trained: Path, cubes: str) -> None:
    main(["predict", str(trained), "--tta"])
    frame, info = read_predictions(trained / "predictions" / "test.parquet")
    assert info.tta == 8
    with open_shards(cubes) as shards:
        model = load_trained(trained / "checkpoints" / "best").model
        x = shards.read_images("test", np.arange(24))
    found = np.zeros(24)
    for axes in ((), (2,), (3,), (4,), (2, 3), (2, 4), (3, 4), (2, 3, 4)):
        with torch.inference_mode():
            logits = model(torch.from_numpy(np.flip(x, axes).copy()))
        found += logits.softmax(dim=1)[:, 1].double().numpy() / 8
    np.testing.assert_allclose(frame["probability"], found, atol=1e-6)


def test_stress_is_predicted_beside_the_plain_and_tabled(trained: Path, tmp_path: Path) -> None:
    main(["predict", str(trained), "--split", "val", "test", "--out", str(tmp_path)])
    stressed = ["predict", str(trained), "--out", str(tmp_path), "--stress", "jpeg", "missing"]
    main(stressed)
    places = tmp_path / "predictions"
    plain = read_predictions(places / "test.parquet")[0]
    first = {
        name: read_predictions(places / f"test.{name}.parquet") for name in ("jpeg", "missing")
    }
    main([*stressed, "--batch-size", "5"])
    for name, (frame, info) in first.items():
        assert info.stress == name
        assert frame["key"].tolist() == plain["key"].tolist()
        assert not np.allclose(frame["probability"], plain["probability"], atol=1e-3)
        again = read_predictions(places / f"test.{name}.parquet")[0]
        np.testing.assert_allclose(again["probability"], frame["probability"], atol=1e-6)
    (tmp_path / "run.json").write_bytes((trained / "run.json").read_bytes())
    assert {row["name"] for row in _evaluated(tmp_path)["stress"]} == {"jpeg", "missing"}


def test_runs_that_look_at_other_crops_are_not_stressed_together(
    trained: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(trained, other)
    state = other / "checkpoints" / "best" / "state.json"
    values = json.loads(state.read_text())
    del values["document_sha256"]
    values["config"]["crop"] = [8, 16, 16]
    state.write_text(json.dumps(values))
    runs = ["predict", str(trained), str(other), "--out", str(tmp_path), "--stress", "blur"]
    with pytest.raises(ValueError, match=r"crops of different sizes.*one at a time"):
        main(runs)


def _evaluated(run: Path) -> dict[str, Any]:
    found = evaluate(open_subject(run, use_data=False), Options(), lambda step: None)
    return json.loads(dump_json(found.run))


def test_an_exported_model_predicts_the_same(trained: Path, cubes: str, tmp_path: Path) -> None:
    main(["export", str(trained), str(tmp_path / "model")])
    main(["predict", str(tmp_path / "model"), "--data", cubes])
    main(["predict", str(trained)])
    found, _ = read_predictions(tmp_path / "model" / "predictions" / "test.parquet")
    expected, _ = read_predictions(trained / "predictions" / "test.parquet")
    np.testing.assert_allclose(found["probability"], expected["probability"], atol=1e-6)
    program = torch.export.load(tmp_path / "model" / "model.pt2").module()
    with open_shards(cubes) as shards:
        x = torch.from_numpy(shards.read_images("test", np.arange(24)))
    outside = program(x)[:, 1].detach().numpy()
    np.testing.assert_allclose(outside, expected["probability"], atol=1e-5)
    assert "central crop (8, 24, 24)" in (tmp_path / "model" / "README.md").read_text()


def test_an_ensemble_is_the_mean_of_its_runs(trained: Path, cubes: str, tmp_path: Path) -> None:
    other = tmp_path / "other"
    main([*TINY, "--epochs", "1", "--ema", "0.9", "--data", cubes, "--out", str(other)])
    main(["predict", str(trained), str(other), "--out", str(tmp_path)])
    both, _ = read_predictions(tmp_path / "predictions" / "test.parquet")
    parts = []
    for run in (trained, other):
        main(["predict", str(run)])
        parts.append(read_predictions(run / "predictions" / "test.parquet")[0]["probability"])
    np.testing.assert_allclose(both["probability"], (parts[0] + parts[1]) / 2, atol=1e-6)
    main(["predict", str(other), "--raw", "--out", str(tmp_path / "raw")])
    raw, _ = read_predictions(tmp_path / "raw" / "predictions" / "test.parquet")
    assert not np.allclose(raw["probability"], parts[1])
    with pytest.raises(ValueError, match="say --out FOLDER"):
        main(["predict", str(trained), str(other)])


def test_parts_of_a_batch_add_up_to_it(cubes: str, tmp_path: Path) -> None:
    common = [*TINY, "--norm", "group", "--dropout", "0", "--epochs", "1", "--batch-size", "32"]
    weights = []
    for parts in ("1", "4"):
        out = tmp_path / parts
        main([*common, "--accumulate", parts, "--data", cubes, "--out", str(out)])
        weights.append(load_trained(out / "checkpoints" / "last").model.state_dict())
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, atol=1e-5, rtol=1e-4)


def test_a_run_ends_early_when_nothing_improves(cubes: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = [*TINY, "--lr", "1e-12", "--patience", "2", "--data", cubes, "--out", str(out)]
    main(command)
    document = json.loads((out / "run.json").read_text())
    assert document["ended"] == "no better validation in 2 epochs"
    assert len([v for v in (out / "metrics.jsonl").read_text().splitlines() if '"val"' in v]) == 3


def test_a_loss_that_is_not_a_number_stops_the_run(cubes: str, tmp_path: Path) -> None:
    bad = ["--lr", "1e30", "--clip-norm", "0", "--optimizer", "sgd", "--data", cubes]
    with pytest.raises(RuntimeError, match="the loss is not a number in epoch 1; lower --lr"):
        main([*TINY, *bad, "--out", str(tmp_path / "stop")])


def test_a_2d_recipe_trains_on_patches(patches: str, tmp_path: Path) -> None:
    main([*TINY_2D, "--data", patches, "--out", str(tmp_path / "run")])
    main(["predict", str(tmp_path / "run"), "--split", "val", "--tta"])
    document = json.loads((tmp_path / "run" / "run.json").read_text())
    assert document["view"] == "patch"
    assert document["num_parameters"] > 11_000_000
    frame, _ = read_predictions(tmp_path / "run" / "predictions" / "val.parquet")
    assert len(frame) == 40


def test_three_classes(make_shards: MakeShards, tmp_path: Path, trained: Path) -> None:
    names = ("inhibitory", "excitatory", "modulatory")
    url = make_shards(tmp_path, "cube", class_names=names)
    main([*TINY, "--epochs", "1", "--data", url, "--out", str(tmp_path / "run")])
    main(["predict", str(tmp_path / "run")])
    frame, info = read_predictions(tmp_path / "run" / "predictions" / "test.parquet")
    assert info.class_names == names
    assert {f"probability_{name}" for name in names} <= set(frame.columns)
    with pytest.raises(ValueError, match=r"tells 2 classes apart .* has 3"):
        main(["predict", str(trained), "--data", url])


def test_another_data_set_is_not_resumed_with(
    make_shards: MakeShards, tmp_path: Path, trained: Path
) -> None:
    url = make_shards(tmp_path, "cube", seed=5)
    with pytest.raises(ValueError, match="cannot resume with other data"):
        main([*TINY, "--data", url, "--out", str(trained)])


def test_another_config_is_not_resumed_with(cubes: str, trained: Path) -> None:
    with pytest.raises(ValueError, match=r"another config \(lr 0\.003 -> 0\.1\)"):
        main([*TINY, "--data", cubes, "--out", str(trained), "--lr", "0.1"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["nonsense", "--data", "x"],
            "unknown recipe or command 'nonsense'; recipes are ",
        ),
        ([*TINY, "--data", "nowhere"], "nowhere"),
        ([*TINY, "--model", "x", "--data", "CUBES"], "unknown model 'x'; known models: .*resnet18"),
        ([*TINY_2D, "--data", "CUBES"], "for patch images but the shards hold cube images"),
        ([*TINY, "--crop", "9", "24", "24", "--data", "CUBES"], "larger than the images"),
        ([*TINY, "--crop", "8", "24", "16", "--data", "CUBES"], "quarter turns need square"),
        (["predict", "nowhere"], "no such run"),
        (["predict", "RUN", "--split", "x"], "no split 'x'; it has train, val, test"),
        (["predict", "RUN", "--checkpoint", "x"], "no such checkpoint"),
    ],
)
def test_errors_name_what_was_wrong(
    arguments: list[str], message: str, cubes: str, trained: Path, tmp_path: Path
) -> None:
    places = {"CUBES": cubes, "RUN": str(trained)}
    asked = [places.get(argument, argument) for argument in arguments]
    if asked[0] != "predict":
        asked += ["--out", str(tmp_path / "run")]
    with pytest.raises(ValueError, match=message) as error:
        main(asked)
    assert "\n" not in str(error.value)


def test_recipes_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    main(["recipes"])
    listed = capsys.readouterr().out
    assert "unet3d_small" in listed
    assert "resnet18_2d" in listed
