"""Every recipe trains, is stopped, goes on and predicts, at the smallest size that it works at."""

import json
import shutil
import signal
from pathlib import Path

import pytest
import torch

from eval.inputs.predictions import read_predictions
from shards.stream.stream import Batch
from trainer.__main__ import main
from trainer.checkpoint.load import load_trained
from trainer.recipes import RECIPES
from trainer.train.run_state import Session
from trainer.train.signals import REQUEUE
from trainer.train.step import train_step

SMALL = (
    "--epochs", "1", "--batch-size", "2", "--width", "2", "--weights", "none", "--threads", "1",
    "--optimizer", "sgd", "--lr", "1e-4", "--memory-format", "contiguous",
)  # fmt: skip


@pytest.fixture(scope="module")
def few(make_shards: object, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Shard sets of four training samples, by view."""
    counts = {"train": 4, "val": 2, "test": 2}
    folder = tmp_path_factory.mktemp("few")
    shapes = {"patch": (1, 16, 16), "cube": (1, 8, 16, 16)}
    return {
        view: make_shards(folder / view, view, counts=counts, shape=shape)  # type: ignore[operator]
        for view, shape in shapes.items()
    }


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_a_recipe_trains_goes_on_and_predicts(
    name: str, few: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, steps = RECIPES[name](), []

    def step(session: Session, batch: Batch) -> torch.Tensor:
        steps.append(batch.step)
        if len(steps) == 1:
            signal.raise_signal(signal.SIGTERM)
        return train_step(session, batch)

    monkeypatch.setattr("trainer.train.loop.train_step", step)
    # Checkpoints of all recipes are some GB.
    monkeypatch.setattr("trainer.checkpoint.checkpoint.fsync", lambda path: None)
    crop = ("16", "16") if recipe.view == "patch" else (str(min([8, *recipe.crop])), "16", "16")
    out = tmp_path / "run"
    command = [name, *SMALL, "--crop", *crop, "--data", few[recipe.view], "--out", str(out)]
    with pytest.raises(SystemExit) as stopped:
        main(command)
    assert stopped.value.code == REQUEUE
    main(command)
    assert steps == [0, 1]
    assert json.loads((out / "run.json").read_text())["status"] == "finished"
    main(["predict", str(out), "--split", "test", "--tta", "--threads", "1"])
    frame, info = read_predictions(out / "predictions" / "test.parquet")
    assert (len(frame), info.tta) == (2, 8)
    assert load_trained(out / "checkpoints" / "last").config.model == recipe.model
    shutil.rmtree(out)
