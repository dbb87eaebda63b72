"""Collapse, damaged checkpoints, and what a machine cannot do."""

import json
import shutil
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from torch import nn

from eval.inputs.predictions import read_predictions
from tests.trainer.conftest import main
from trainer.checkpoint.load import load_trained
from trainer.models.classifier import Classifier
from trainer.models.nets3d import UNetEncoder3D
from trainer.models.norms import set_norm
from trainer.train.validation import Scores

TINY = (
    "unet3d_small", "--crop", "4", "16", "16", "--width", "2", "--epochs", "3",
    "--batch-size", "32", "--threads", "1", "--schedule", "constant",
)  # fmt: skip


@pytest.fixture(scope="module")
def trained(cubes: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "run"
    main([*TINY, "--epochs", "1", "--memory-format", "channels_last", "--data", cubes,
          "--out", str(out)])  # fmt: skip
    return out


def train(cubes: str, out: Path, *arguments: str) -> dict[str, Any]:
    """Train, and return run.json."""
    main([*TINY, "--memory-format", "contiguous", *arguments, "--data", cubes, "--out", str(out)])
    document: dict[str, Any] = json.loads((out / "run.json").read_text())
    return document


@pytest.fixture
def collapsed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every validation but the first find one class alone."""
    seen = []

    def scores(*_: object) -> Scores:
        seen.append(0)
        recalls = (0.9, 0.9) if len(seen) == 1 else (1.0, 0.0)
        mean = sum(recalls) / 2
        by_class = dict(zip("ab", recalls, strict=True))
        return Scores(loss=1.0, accuracy=mean, balanced_accuracy=mean, recalls=by_class)

    monkeypatch.setattr("trainer.train.validation.scores", scores)


@pytest.mark.usefixtures("collapsed")
def test_a_collapse_is_warned_of_or_stops_the_run(
    cubes: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "the model calls everything one class, 2 epochs in a row"
    assert train(cubes, tmp_path / "warn", "--epochs", "4")["ended"] is None
    assert f"warning: {text}" in capsys.readouterr().err
    stopped = train(cubes, tmp_path / "stop", "--epochs", "5", "--on-collapse", "stop")
    assert stopped["ended"] == text


@pytest.fixture(scope="module")
def ten_to_one(make_shards: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> str:
    """Cubes of which one in eleven is of class 0, in each split."""
    counts = {"train": 440, "val": 44, "test": 440}
    folder = tmp_path_factory.mktemp("rare")
    return make_shards(folder, "cube", counts=counts, shape=(1, 4, 16, 16), rare=11)


def test_a_rare_class_is_called_when_classes_weigh_the_same(
    ten_to_one: str, tmp_path: Path
) -> None:
    # One frequent sample in seven looks rare, so of those that look rare 41 % are.
    recalls = {}
    for weights in ("none", "inverse"):
        out = tmp_path / weights
        train(ten_to_one, out, "--loss", "bce", "--class-weights", weights, "--epochs", "10",
              "--batch-size", "20", "--width", "4", "--schedule", "one_cycle")  # fmt: skip
        main(["predict", str(out), "--checkpoint", "last", "--threads", "1"])
        frame, _ = read_predictions(out / "predictions" / "test.parquet")
        right = (frame["probability"] >= 0.5) == frame["label"]
        recalls[weights] = right.groupby(frame["label"]).mean()
    assert recalls["none"][0] < 0.5
    assert recalls["inverse"].min() > 0.8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda state: state.pop("inputs"),
            r"state\.json: not a checkpoint: key inputs is missing",
        ),
        (lambda state: state["inputs"].pop("mean"), "key inputs.mean is missing"),
        (lambda state: state["inputs"].update(std=[0.0]), "inputs: mean and std must be 1 num"),
        (lambda state: state["config"].pop("model"), "key config.model is missing"),
        (lambda state: state["config"].update(speed=3), "unknown key config.speed"),
        (lambda state: state["config"].update(lr="3"), "config.lr is '3', expected a valid number"),
        (lambda state: state["progress"].update(best=[1]), r"progress.best is \[1\], expected a"),
        (lambda state: state["config"].update(width=3), r"safetensors: not the weights of the mod"),
        (lambda state: state["config"].update(model="x"), r"state\.json: unknown model 'x'; known"),
        (lambda state: state.update(schema_version=9), "schema version 9, this"),
        (lambda state: state.update(document_sha256="0" * 64), "altered since it was written"),
    ],
)
def test_a_checkpoint_that_is_not_whole_is_refused(
    change: Callable[[dict[str, Any]], object], message: str, trained: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(trained / "checkpoints" / "best", folder)
    state = json.loads((folder / "state.json").read_text())
    del state["document_sha256"]  # as another tool would write it
    change(state)
    (folder / "state.json").write_text(json.dumps(state))
    with pytest.raises(ValueError, match=message) as error:
        load_trained(folder)
    assert "\n" not in str(error.value)


def test_damaged_weights_are_refused(trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(trained / "checkpoints" / "best", folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"model\.safetensors: damaged"):
        load_trained(folder)
    weights.unlink()
    with pytest.raises(ValueError, match=r"model\.safetensors: the checkpoint lacks this file"):
        load_trained(folder)


def test_the_memory_format_is_timed_logged_and_forced(
    trained: Path, cubes: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    forced = json.loads((trained / "run.json").read_text())
    assert forced["memory_format"] == "channels_last"
    capsys.readouterr()
    main([*TINY, "--epochs", "1", "--data", cubes, "--out", str(tmp_path / "run")])
    (line,) = [n for n in capsys.readouterr().err.splitlines() if n.startswith("memory format")]
    chosen = json.loads((tmp_path / "run" / "run.json").read_text())["memory_format"]
    assert line.startswith(f"memory format {chosen} (contiguous ")
    assert "channels_last " in line


def test_norms_that_share_statistics_are_batch_norms_on_one_rank(
    cubes: str, tmp_path: Path
) -> None:
    model = nn.Sequential(nn.Conv3d(1, 4, 3), nn.BatchNorm3d(4))
    x = torch.rand(3, 1, 5, 6, 6)
    expected = model(x)
    synced, names = set_norm(model, "sync")
    assert names == ["1"]
    assert isinstance(synced[1], nn.SyncBatchNorm)
    torch.testing.assert_close(synced(x), expected)
    train(cubes, tmp_path / "run", "--norm", "sync", "--epochs", "1")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="compiling for the CPU needs g++")
def test_a_compiled_3d_model_learns_the_same() -> None:
    torch.manual_seed(0)
    plain = UNetEncoder3D(1, 2, width=2, pools=())
    compiled = deepcopy(plain)
    compiled.compile()
    x = torch.rand(2, 1, 4, 8, 8)
    for model in (plain, compiled):
        model(x).square().sum().backward()
    for a, b in zip(plain.parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(b.grad, a.grad, atol=1e-5, rtol=1e-3)


def test_a_run_is_compiled_by_choice(
    cubes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[nn.Module] = []

    def compiled(model: nn.Module) -> None:
        asked.append(model)

    monkeypatch.setattr(nn.Module, "compile", compiled)
    train(cubes, tmp_path / "plain", "--epochs", "1")
    assert not asked
    train(cubes, tmp_path / "compiled", "--epochs", "1", "--compile")
    (model,) = asked
    assert isinstance(model, Classifier)


@pytest.fixture
def own_precision() -> Iterator[None]:
    """Let a test choose a precision, to which Accelerate else holds the whole process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.usefixtures("own_precision")
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_bf16_keeps_weights_in_full_precision_and_is_emulated_in_training_alone(
    cubes: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.ops.mkldnn._is_mkldnn_bf16_supported", lambda: False)
    run = tmp_path / "run"
    document = train(cubes, run, "--epochs", "1", "--precision", "bf16")
    assert document["status"] == "finished"
    assert "this device emulates bf16" in capsys.readouterr().err
    model = load_trained(run / "checkpoints" / "best").model
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    AcceleratorState._reset_state(reset_partial_state=True)
    main(["predict", str(run), "--split", "val"])
    assert "does not compute in bf16" in capsys.readouterr().err
    found = read_predictions(run / "predictions" / "val.parquet")[0]["probability"]
    assert found.between(0.0, 1.0).all()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_half_precision_needs_a_gpu(cubes: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="precision fp16 needs a GPU and there is none"):
        train(cubes, tmp_path / "run", "--precision", "fp16")
