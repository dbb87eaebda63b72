"""What is refused or said before a run starts, and what a run says when it cannot go on."""

import json
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from eval.inputs.predictions import read_predictions
from shards.storage.locks import sole_writer, sole_writer_of_file
from shards.stream.order import OrderSpec
from shards.stream.shardset import open_shards
from shards.stream.stream import Batch
from tests.trainer.conftest import main
from trainer.checkpoint.load import load_trained, model_folder
from trainer.checkpoint.run_folder import read_run
from trainer.config import System
from trainer.recipes import RECIPES
from trainer.setup import faults
from trainer.setup.classes import check_classes
from trainer.setup.distributed import make_accelerator
from trainer.setup.faults import with_cures
from trainer.setup.launcher import check_launcher
from trainer.train.run_state import Session
from trainer.train.trial import recommended, time_batches

TINY = (
    "unet3d_small", "--crop", "4", "16", "16", "--width", "2", "--epochs", "3",
    "--batch-size", "16", "--threads", "1", "--memory-format", "contiguous",
)  # fmt: skip
TURNS = [0, 1] * 16
Shards = Callable[..., str]


@pytest.fixture(scope="module")
def trained(cubes: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "run"
    main([*TINY, "--epochs", "1", "--data", cubes, "--out", str(out)])
    return out


# Classes


def test_validation_on_one_class_is_said_and_decides_nothing(
    make_shards: Shards, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = make_shards(tmp_path, "cube", labels_of={"train": TURNS, "val": [1] * 8, "test": TURNS})
    out = tmp_path / "run"
    main([*TINY, "--patience", "1", "--on-collapse", "stop", "--data", url, "--out", str(out)])
    text = capsys.readouterr().err
    assert "warning: val has no samples of inhibitory: validation says nothing of it" in text
    assert "warning: val holds one class alone" in text
    assert "one class, " not in text, "no verdict of a collapse"
    run = read_run(out)
    assert run.ended is None
    assert run.best.epoch == 2
    names = {(out / "checkpoints" / name).readlink() for name in ("best", "last")}
    assert len(names) == 1
    assert "best is the last epoch, as val holds one class alone" in text


@pytest.mark.parametrize(
    ("train", "val", "expected"),
    [
        ([1] * 8, TURNS, "all 8 samples of train are excitatory, expected samples of inhibitory"),
        ([-1] * 8, TURNS, "all 8 samples of train have no label"),
        ([*TURNS, -1], TURNS, "1 samples of train have no label"),
        (TURNS, [-1, -1], "all 2 samples of val have no label"),
        (TURNS, [], "no split val, which training needs; it has train, test"),
    ],
)
def test_labels_that_cannot_be_learned_from_are_refused(
    train: list[int], val: list[int], expected: str, make_shards: Shards, tmp_path: Path
) -> None:
    labels_of = {"train": train, "test": TURNS} | ({"val": val} if val else {})
    url = make_shards(tmp_path, "cube", labels_of=labels_of)
    with pytest.raises(ValueError, match=expected):
        main([*TINY, "--data", url, "--out", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("train", "val", "expected"),
    [
        (TURNS, TURNS, ["train has no samples of c: it will", "val has no samples of c: val"]),
        ([*TURNS, 2], [0, 2], ["train has 1 samples of c: it will", "val has no samples of b"]),
        ([0, 1, 2] * 5, [0, 1, 2], []),
    ],
)
def test_classes_that_are_absent_or_rare_are_said(
    train: list[int], val: list[int], expected: list[str], make_shards: Shards, tmp_path: Path
) -> None:
    names = ("a", "b", "c")
    labels_of = {"train": train, "val": val, "test": TURNS}
    url = make_shards(tmp_path, "cube", class_names=names, labels_of=labels_of)
    with open_shards(url) as shards:
        warnings = check_classes([shards], OrderSpec())
    assert len(warnings) == len(expected)
    assert all(line.startswith(start) for line, start in zip(warnings, expected, strict=True))


# The launcher


@pytest.mark.parametrize(
    ("environment", "options", "message"),
    [
        ({"MIXED_PRECISION": "no", "DYNAMO_BACKEND": "no"}, {}, ""),
        ({"MIXED_PRECISION": "NO", "GRADIENT_ACCUMULATION_STEPS": "1"}, {}, ""),
        ({"MIXED_PRECISION": "bf16"}, {"precision": "bf16"}, ""),
        ({"MIXED_PRECISION": "no"}, {"precision": "bf16"}, ""),
        ({"GRADIENT_ACCUMULATION_STEPS": "4"}, {"accumulate": 4}, ""),
        ({"DYNAMO_BACKEND": "INDUCTOR"}, {"compile": True}, ""),
        (
            {"MIXED_PRECISION": "bf16"},
            {},
            r"bf16 \(ACCELERATE_MIXED_PRECISION, .* --precision",
        ),
        ({"MIXED_PRECISION": "fp8"}, {"precision": "bf16"}, "asks for fp8 .* for bf16"),
        ({"GRADIENT_ACCUMULATION_STEPS": "4"}, {}, r"asks for 4 .* for 1 \(--accumulate\)"),
        ({"GRADIENT_ACCUMULATION_STEPS": "4"}, {"accumulate": 2}, "asks for 4 .* for 2"),
        ({"DYNAMO_BACKEND": "inductor"}, {}, "give --compile in training, or"),
        ({"DYNAMO_BACKEND": "eager"}, {"compile": True}, "asks for eager .* for inductor"),
        ({"USE_DEEPSPEED": "true"}, {}, r"asks for DeepSpeed \(ACCELERATE_USE_DEEPSPEED\)"),
        ({"USE_FSDP": "true"}, {}, "asks for FSDP"),
    ],
)
def test_the_launcher_agrees_with_the_run_or_is_refused(
    environment: dict[str, str], options: dict[str, Any], message: str
) -> None:
    system = System(compile=options.pop("compile", False))
    config = replace(RECIPES["unet3d_small"](), **options)
    given = {f"ACCELERATE_{name}": value for name, value in environment.items()}
    if not message:
        check_launcher(config, system, given)
        return
    with pytest.raises(ValueError, match=message):
        check_launcher(config, system, given)


def test_accumulation_that_both_ask_for_happens_once(
    cubes: str, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    common = [*TINY, "--epochs", "1", "--accumulate", "2", "--data", cubes, "--out"]
    main([*common, str(tmp_path / "plain")])
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "2")
    main([*common, str(tmp_path / "both")])
    states = [weights_of(model_folder(str(tmp_path / name), "last")) for name in ("plain", "both")]
    assert all(torch.equal(states[1][name], value) for name, value in states[0].items())
    with pytest.raises(ValueError, match="accelerate launch asks for 2"):
        main([*TINY, "--data", cubes, "--out", str(tmp_path / "neither")])
    assert not (tmp_path / "neither").exists()


# Two at once, and folders of something else


def test_a_second_training_prediction_or_export_says_who_holds_the_place(
    cubes: str, trained: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    held = rf"is being written by process {os.getpid()} on host "
    with sole_writer(out), pytest.raises(ValueError, match=rf"{out} {held}"):
        main([*TINY, "--data", cubes, "--out", str(out)])
    path = tmp_path / "predictions" / "test.parquet"
    with sole_writer_of_file(path), pytest.raises(ValueError, match=rf"{path} {held}"):
        main(["predict", str(trained), "--out", str(tmp_path)])
    with sole_writer(out), pytest.raises(ValueError, match=rf"{out} {held}"):
        main(["export", str(trained), str(out)])
    assert not list(tmp_path.rglob("*"))


def test_a_run_is_no_place_for_an_export_or_another_model(
    cubes: str, trained: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="is a run; export into a folder of its own"):
        main(["export", str(trained), str(trained)])
    (tmp_path / "predictions").mkdir()
    with pytest.raises(ValueError, match="holds predictions but no checkpoint: they are another"):
        main([*TINY, "--data", cubes, "--out", str(tmp_path)])


def test_a_checkpoint_that_lost_its_state_is_not_started_anew(
    cubes: str, trained: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(trained, out, symlinks=True)
    (out / "checkpoints" / "last" / "state.json").unlink()
    before = sorted(out.rglob("*"))
    with pytest.raises(ValueError, match=r"last/state\.json: no such checkpoint"):
        main([*TINY, "--data", cubes, "--out", str(out), "--epochs", "1"])
    assert sorted(out.rglob("*")) == before


def test_data_that_changed_under_a_run_is_predicted_on_request_alone(
    make_shards: Shards, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = make_shards(tmp_path, "cube")
    out = tmp_path / "run"
    main([*TINY, "--epochs", "1", "--data", url, "--out", str(out)])
    shutil.rmtree(url)
    shutil.rmtree(tmp_path / "dataset")
    assert make_shards(tmp_path, "cube", seed=3) == url
    with pytest.raises(ValueError, match=r"is not as it was when .* was trained .* say --data"):
        main(["predict", str(out)])
    main(["predict", str(out), "--data", url])
    assert "was trained on another shard set" in capsys.readouterr().err


# run.json and exported models


def test_no_flipped_bit_of_a_run_or_an_exported_model_changes_it_in_silence(
    trained: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    main(["export", str(trained), str(model)])
    assert sorted(p.name for p in model.iterdir()) == [
        "README.md",
        "model.pt2",
        "model.safetensors",
        "state.json",
    ]
    for path, read in (
        (trained / "run.json", lambda: read_run(trained)),
        (model / "state.json", lambda: load_trained(model).state),
        (model / "model.safetensors", lambda: weights_of(model)),
    ):
        _no_silent_flips(path, read)


def weights_of(folder: Path) -> dict[str, Tensor]:
    state: dict[str, Tensor] = load_trained(folder).model.state_dict()
    return state


def _no_silent_flips(path: Path, read: Callable[[], Any]) -> None:
    whole, expected = path.read_bytes(), read()
    rng, refused = random.Random(path.name), []
    for _ in range(100):
        bit = rng.randrange(8 * len(whole))
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            found = read()
        except ValueError as error:
            refused.append(str(error))
            continue
        if isinstance(expected, dict):
            assert all(torch.equal(found[name], value) for name, value in expected.items())
        else:
            assert found == expected
    path.write_bytes(whole)
    assert all(path.name in line and "\n" not in line for line in refused)
    assert len(refused) > 90


@pytest.mark.parametrize(
    "change",
    [
        lambda run: [],
        lambda run: None,
        lambda run: {"data_url": "x"},
        lambda run: {**run, "data_url": ["x"]},
        lambda run: {**run, "config": 3},
        lambda run: {**run, "best": {"monitor": 1}},
    ],
)
def test_a_run_of_another_shape_is_one_line(
    change: Callable[[dict[str, Any]], Any], trained: Path, tmp_path: Path
) -> None:
    run = json.loads((trained / "run.json").read_text())
    del run["document_sha256"]
    (tmp_path / "run.json").write_text(json.dumps(change(run)))
    with pytest.raises(ValueError, match=r"run\.json: not a run: ") as error:
        main(["predict", str(tmp_path)])
    assert "\n" not in str(error.value)


# Memory and batch norms


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has"),
            r"GPU \(2\.00 GiB more asked for\) with 8 images at a time on each rank; lower --batch",
        ),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), "out of memory of the GPU with 8"),
        (
            RuntimeError(
                "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate "
                "memory: you tried to allocate 4096 bytes. Error code 12"
            ),
            r"out of memory \(4096 bytes more asked for\) with 8",
        ),
        (MemoryError("Unable to allocate 3.1 GiB for an array"), r"\(3\.1 GiB more asked for\)"),
        (
            ValueError(f"{faults.ONE_VALUE} when training, got input size torch.Size([1, 8, 1])"),
            "a batch norm got one value per channel, from 8 images .* or --norm group",
        ),
        (RuntimeError("something else"), "^something else$"),
        (ValueError("something else"), "^something else$"),
    ],
)
def test_torch_s_errors_get_their_cure(error: Exception, message: str) -> None:
    with (
        pytest.raises((RuntimeError, ValueError), match=message) as caught,
        with_cures(batch_size=8, training=True),
    ):
        raise error
    assert "\n" not in str(caught.value)


def test_a_training_without_memory_or_with_one_image_a_batch_norm_says_the_cure(
    cubes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = [*TINY, "--crop", "1", "1", "1", "--data", cubes, "--batch-size", "2"]
    with pytest.raises(ValueError, match="one value per channel, from 1 images"):
        main([*one, "--accumulate", "2", "--out", str(tmp_path / "one")])

    def step(session: Session, batch: Batch) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB.")

    monkeypatch.setattr("trainer.train.loop.train_step", step)
    with pytest.raises(RuntimeError, match=r"1\.00 GiB .* with 8 images at a time on each rank"):
        main([*TINY, "--accumulate", "2", "--data", cubes, "--out", str(tmp_path / "run")])


def test_batch_sizes_are_tried_from_two_where_one_is_too_few(cubes: str) -> None:
    config = replace(RECIPES["unet3d_small"](), crop=(1, 1, 1), width=2)
    system = System(threads=1)
    accelerator = make_accelerator(config, system)
    with open_shards(cubes) as shards:
        timings = list(time_batches(config, system, shards, accelerator, most=2))
    assert [timing.batch_size for timing in timings] == [2]
    assert recommended(timings).batch_size == 2


def test_a_full_disk_under_the_log_is_one_line(
    cubes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch.utils.tensorboard import SummaryWriter

    def full(*args: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(SummaryWriter, "add_scalar", full)
    out = tmp_path / "run"
    with pytest.raises(ValueError, match=r"metrics\.jsonl or tensorboard/ cannot be") as error:
        main([*TINY, "--data", cubes, "--out", str(out)])
    assert str(out) in str(error.value)
    assert "No space left on device" in str(error.value)


def test_predictions_are_the_same_under_a_lock(trained: Path, tmp_path: Path) -> None:
    for name in "ab":
        main(["predict", str(trained), "--split", "val", "--out", str(tmp_path / name)])
    a, b = (read_predictions(tmp_path / n / "predictions" / "val.parquet")[0] for n in "ab")
    np.testing.assert_array_equal(a["probability"], b["probability"])
    assert [p.name for p in (tmp_path / "a" / "predictions").iterdir()] == ["val.parquet"]
