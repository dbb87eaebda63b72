"""Which batches a run reads: the same after a stop as without one, whatever its data options."""

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from shards.stream.shardset import ShardSet, open_shards
from shards.stream.stream import Batch
from tests.trainer.conftest import main
from trainer.checkpoint.load import load_trained
from trainer.checkpoint.run_folder import read_run
from trainer.models.classifier import Classifier, inputs_of, sections_to_read
from trainer.train.run_state import Session
from trainer.train.signals import REQUEUE

TINY = (
    "unet3d_small", "--crop", "4", "16", "16", "--width", "2", "--epochs", "2",
    "--batch-size", "8", "--threads", "1", "--memory-format", "contiguous",
    "--augment.shift-vx", "0",
)  # fmt: skip
Shards = Callable[..., str]
Read = tuple[int, int, list[int], int]


@pytest.fixture(scope="module")
def sets(make_shards: Shards, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Two shard sets of cubes of two shards of training samples each."""
    counts = {"train": 80, "val": 8, "test": 8}
    folder = tmp_path_factory.mktemp("sets")
    first, second = (
        make_shards(folder / name, "cube", counts=counts, seed=seed)
        for seed, name in enumerate(("first", "second"))
    )
    return first, second


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[Read]:
    """The batches that runs read; nothing is learned from them. The third one brings SIGTERM."""
    batches: list[Read] = []

    def step(session: Session, batch: Batch) -> torch.Tensor:
        batches.append((batch.epoch, batch.step, batch.rows.tolist(), int(batch.images.sum())))
        if session.job.out.name == "stopped" and len(batches) == 3:
            signal.raise_signal(signal.SIGTERM)
        return torch.zeros(())

    monkeypatch.setattr("trainer.train.loop.train_step", step)
    return batches


@pytest.mark.parametrize(
    "options",
    [
        ["--where", "label == 1 or synapse_id < 1040"],
        ["--max-per-neuron", "2"],
        ["--window-shards", "1", "--nodes", "2"],
        ["MIXED"],
        ["MIXED", "--data-weights", "3", "1", "--balance", "class", "--max-per-neuron", "2"],
    ],
)
def test_a_run_that_goes_on_reads_what_an_unbroken_one_reads(
    options: list[str], sets: tuple[str, str], read: list[Read], tmp_path: Path
) -> None:
    mixed = options[0] == "MIXED"
    command = [*TINY, "--data", *sets[: 1 + mixed], *options[mixed:]]
    main([*command, "--out", tmp_path / "unbroken"])
    unbroken = read.copy()
    read.clear()
    with pytest.raises(SystemExit) as stopped:
        main([*command, "--out", tmp_path / "stopped"])
    assert stopped.value.code == REQUEUE
    main([*command, "--out", tmp_path / "stopped"])
    assert read == unbroken
    assert len(unbroken) == 2 * len({step for _, step, _, _ in unbroken}) > 4


def test_options_of_data_are_recorded_and_not_changed_on_the_way(
    sets: tuple[str, str], read: list[Read], tmp_path: Path
) -> None:
    command = [*TINY, "--out", tmp_path, "--data"]
    main([*command, *sets, "--data-weights", "3", "1", "--where", "label_tier == 'made'"])
    run = read_run(tmp_path)
    assert (run.config.data_weights, run.config.where) == ((3.0, 1.0), "label_tier == 'made'")
    assert (run.data_url, *run.mixed_urls) == sets
    assert run.train_counts == {"inhibitory": 80, "excitatory": 80}
    assert sum(row < 80 for _, _, rows, _ in read for row in rows) == 3 * len(read) * 8 // 4
    with pytest.raises(ValueError, match=r"another config \(where .* data_weights"):
        main([*command, *sets])
    for others in (sets[:1], sets[::-1]):
        with pytest.raises(ValueError, match="cannot resume with other data"):
            main([*command, *others])


def test_a_filter_and_a_cap_leave_what_they_say(
    sets: tuple[str, str], read: list[Read], tmp_path: Path
) -> None:
    main(
        [*TINY, "--data", sets[0], "--out", tmp_path, "--where", "neuron_id % 2 == 1 or label == 0"]
    )
    counts = read_run(tmp_path).train_counts
    with open_shards(sets[0]) as shards:
        index = shards.index("train")
        kept = (index.neuron_id % 2 == 1) | (index.label == 0)
        assert counts == {"inhibitory": int((kept & (index.label == 0)).sum()),
                          "excitatory": int((kept & (index.label == 1)).sum())}  # fmt: skip
    assert kept[[row for _, _, rows, _ in read for row in rows]].all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--where", "label === 1"], "filter 'label === 1' cannot be read"),
        (["--where", "label + 1"], r"filter 'label \+ 1' is no condition on samples"),
        (["--where", "label == 7"], "no sample of train fulfils 'label == 7'; widen the filter"),
        (["--where", "label == 0"], "all 40 samples of train are inhibitory"),
        (["--data-weights", "1", "2"], "2 weights for 1 shard sets; give one for each"),
        (["--nodes", "3"], "cannot be split evenly over 3 nodes"),
        (["--nodes", "0"], "nodes must be positive"),
        (["--max-per-neuron", "-1"], "max_per_neuron must not be negative"),
    ],
)
def test_options_of_data_that_do_not_fit_are_refused(
    options: list[str], message: str, sets: tuple[str, str], tmp_path: Path
) -> None:
    with pytest.raises((ValueError, SystemExit), match=message):
        main([*TINY, "--data", sets[0], "--out", tmp_path / "run", *options])
    assert not (tmp_path / "run").exists()


# Sections of cubes


@pytest.fixture
def sections(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of the images that are read from cubes' sections, by batch."""
    shapes: list[tuple[int, ...]] = []
    whole = ShardSet.read_into

    def reading(self: ShardSet, split: str, rows: np.ndarray, out: np.ndarray, *rest: Any) -> None:
        shapes.append(out.shape[1:])
        whole(self, split, rows, out, *rest)

    monkeypatch.setattr(ShardSet, "read_into", reading)
    return shapes


def test_a_2d_model_reads_its_sections_alone_and_predicts_as_from_whole_cubes(
    sets: tuple[str, str], sections: list[tuple[int, ...]], tmp_path: Path
) -> None:
    main([
        "resnet18_25d", "--weights", "none", "--crop", "5", "16", "16", "--data", sets[0],
        "--epochs", "1", "--batch-size", "40", "--threads", "1", "--memory-format", "contiguous",
        "--out", tmp_path,
    ])  # fmt: skip
    main(["predict", tmp_path, "--threads", "1"])
    assert set(sections) == {(5, 24, 24)}
    trained = load_trained(tmp_path / "checkpoints" / "best")
    with open_shards(sets[0]) as shards, torch.inference_mode():
        cubes = torch.from_numpy(shards.read_images("test", np.arange(8)))
        few = sections_to_read(trained.config, shards.manifest.image)
        assert few is not None
        stacked = torch.from_numpy(few.of(cubes.numpy())).unflatten(1, (1, 5))
        assert torch.equal(trained.model(cubes), trained.model(stacked))
        assert trained.inputs == inputs_of(shards.manifest)
    assert isinstance(trained.model, Classifier)
    assert json.loads((tmp_path / "run.json").read_text())["view"] == "cube"
