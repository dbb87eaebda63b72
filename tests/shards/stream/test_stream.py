"""Streams: right bytes, right order, no hang."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shards.contract.schema import ImageSpec, View
from shards.pack.assign import PackOptions
from shards.pack.write_shards import pack
from shards.storage.local import LocalStorage
from shards.stream.mixture import Mixture
from shards.stream.order import OrderSpec, Position, epoch_order
from shards.stream.section_view import Sections
from shards.stream.shardset import ShardSet, open_shards
from shards.stream.stream import Batch, Stream, evaluation_batches, require_agreement

pytestmark = pytest.mark.timeout(60)
Formula = Callable[[ImageSpec, int], np.ndarray]
BALANCED = OrderSpec(seed=7, balance="class")


@pytest.fixture(params=["patch", "cube"])
def shards(packed: Callable[[View], Path], request: pytest.FixtureRequest) -> Iterator[ShardSet]:
    with open_shards(str(packed(request.param))) as opened:
        yield opened


def rows_of(batches: list[Batch]) -> list[int]:
    return [int(row) for batch in batches for row in batch.rows]


def test_batches_hold_what_the_order_says(shards: ShardSet, image_of: Formula) -> None:
    index = shards.index("train")
    keys = index.column("key")
    with Stream(shards, "train", batch_size=8, order=BALANCED, epochs=2) as stream:
        batches = list(stream)
    assert len(batches) == 2 * stream.steps_per_epoch
    samples = Mixture([shards], "train").samples
    expected = [
        row
        for epoch in (0, 1)
        for row in epoch_order(samples, BALANCED, epoch, 8)[: 8 * stream.steps_per_epoch]
    ]
    assert rows_of(batches) == expected
    assert stream.dropped_per_epoch == stream.samples_per_epoch - 8 * stream.steps_per_epoch
    for batch in batches:
        assert batch.images.dtype == np.uint8
        np.testing.assert_array_equal(batch.labels, index.label[batch.rows])
        for image, row in zip(batch.images, batch.rows, strict=True):
            sample = int(keys[row][1:])
            np.testing.assert_array_equal(image, image_of(shards.manifest.image, sample))


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_resumes_anywhere_on_any_ranks(shards: ShardSet, world_size: int) -> None:
    with Stream(shards, "train", batch_size=8, order=BALANCED, epochs=2) as stream:
        whole = list(stream)
    for done in range(0, len(whole), 3):
        position = Position(epoch=whole[done].epoch, step=whole[done].step)
        ranks = []
        for rank in range(world_size):
            with Stream(
                shards,
                "train",
                batch_size=8,
                order=BALANCED,
                rank=rank,
                world_size=world_size,
                position=position,
                epochs=2 - position.epoch,
                num_threads=1 + rank,
                prefetch=1 + rank,
            ) as stream:
                ranks.append(list(stream))
        for step, batch in enumerate(whole[done:]):
            parts = [rank[step] for rank in ranks]
            assert rows_of(parts) == batch.rows.tolist()
            np.testing.assert_array_equal(np.concatenate([p.images for p in parts]), batch.images)


def test_position_is_the_next_batch(shards: ShardSet) -> None:
    with Stream(shards, "train", batch_size=16, order=BALANCED) as stream:
        positions = []
        for _ in range(2 * stream.steps_per_epoch + 1):
            positions.append(stream.position)
            batch = next(stream)
            assert positions[-1] == Position(epoch=batch.epoch, step=batch.step)
        assert stream.position.epoch == 2
        assert stream.agreement()["epoch"] == 2


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [1, 5, 1000])
def test_evaluation_reads_each_sample_once(
    shards: ShardSet, world_size: int, batch_size: int
) -> None:
    rows: list[int] = []
    for rank in range(world_size):
        rows += rows_of(list(evaluation_batches(shards, "test", batch_size, rank, world_size)))
    assert rows == list(range(len(shards.index("test"))))


def test_memory_is_used_again_only_when_nobody_holds_it(shards: ShardSet) -> None:
    made = []

    def allocate(shape: tuple[int, ...]) -> np.ndarray:
        made.append(shape)
        return np.zeros(shape, np.uint8)

    with Stream(shards, "train", batch_size=4, prefetch=2, allocate=allocate) as stream:
        for _ in range(40):
            next(stream)
        assert len(made) <= 5
        view = next(stream).images[1:, :1]  # only a view of a view is kept
        before = view.copy()
        for _ in range(40):
            next(stream)
        np.testing.assert_array_equal(view, before)


def test_closing_early_and_twice_leaves_no_thread(shards: ShardSet) -> None:
    before = threading.active_count()
    for taken in range(4):
        stream = Stream(shards, "train", batch_size=4, num_threads=3, prefetch=5)
        for _ in range(taken):
            next(stream)
        stream.close()
        stream.close()
    batches = evaluation_batches(shards, "train", 4)
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


@pytest.mark.parametrize("around", [0, 1, 2])
def test_sections_of_cubes_as_channels(packed: Callable[[View], Path], around: int) -> None:
    sections = Sections(around=around)
    with open_shards(str(packed("cube"))) as shards:
        whole = shards.read_images("train", range(len(shards.index("train"))))
        middle = whole[:, :, 2 - around : 3 + around]
        expected = middle.reshape(len(whole), -1, *whole.shape[-2:])
    with (
        open_shards(str(packed("cube"))) as shards,
        Stream(shards, "train", batch_size=8, epochs=3, sections=sections) as stream,
    ):
        assert stream.image_shape == expected.shape[1:]
        for batch in stream:  # the first epoch reads whole cubes, for their checksums
            np.testing.assert_array_equal(batch.images, expected[batch.rows])
        with pytest.raises(ValueError, match="no middle section with 3 on either side"):
            Stream(shards, "train", batch_size=8, sections=Sections(around=3))


def test_filters(shards: ShardSet) -> None:
    tiers = shards.index("train").column("label_tier")
    order = OrderSpec(where='label_tier == "manual" and center_x_nm < 400')
    with Stream(shards, "train", batch_size=2, order=order, epochs=1) as stream:
        rows = rows_of(list(stream))
    assert len(rows) == stream.samples_per_epoch - stream.dropped_per_epoch
    assert set(tiers[rows]) == {"manual"}
    assert shards.index("train").column("center_x_nm")[rows].max() < 400


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("label_tier == 'x'", "no sample of train fulfils"),
        ("label == 'a'", "no sample of train fulfils"),
        ("label == 1e400", "no sample of train fulfils"),
        ("size + 1", "is no condition"),
        ("label", "is no condition"),
        ("key > 3", "cannot be evaluated"),
        ("  ", "cannot be read"),
        ("size <", "cannot be read"),
        ("label = 1", "cannot be read"),
        ("label == @x", "cannot be read"),
        ("`label` == 1", "cannot be read"),
        ("1 < 2", "names no column"),
        ("nonsense == 3", "names nonsense; index columns are key, synapse_id"),
        ("size < nonsense", "names nonsense"),
        ("size > nan", "names nan"),
        ("label.foo == 1", "holds Attribute"),
        ("label.sum() > 0", "holds Call"),
        ("label[0] == 1", "holds Subscript"),
        ("1 if label else 0", "holds IfExp"),
        ("lambda: label", "holds Lambda"),
        ("9**9**9 > label", "holds Pow"),
        ("'a' * 10000000000 == key", "holds BinOp"),
    ],
)
def test_wrong_filters_are_refused(shards: ShardSet, where: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Stream(shards, "train", batch_size=2, order=OrderSpec(where=where))


def test_sets_are_mixed(store: Path, tmp_path: Path, packed: Callable[[View], Path]) -> None:
    options = PackOptions(samples_per_shard=7, seed=9)
    pack(store, "cube", str(tmp_path / "other"), options)
    spec = OrderSpec(weights=(3, 1), balance="class", window_shards=2)
    with open_shards(str(packed("cube"))) as one, open_shards(str(tmp_path / "other")) as two:
        known = np.concatenate(
            [s.read_images("train", range(len(s.index("train")))) for s in (one, two)]
        )
        with Stream([one, two], "train", batch_size=8, order=spec, epochs=2) as stream:
            batches = list(stream)
        for batch in batches:
            np.testing.assert_array_equal(batch.images, known[batch.rows])
        from_one = np.mean(np.array(rows_of(batches)) < len(one.index("train")))
        assert 0.65 < from_one < 0.85
        with pytest.raises(ValueError, match="1 weights for 2 shard sets"):
            Stream([one, two], "train", batch_size=8, order=OrderSpec(weights=(1,)))
    with (
        open_shards(str(packed("cube"))) as one,
        open_shards(str(packed("patch"))) as two,
        pytest.raises(ValueError, match="cannot be mixed: image"),
    ):
        Stream([one, two], "train", batch_size=8)


def test_ranks_that_differ_are_named(shards: ShardSet) -> None:
    with Stream(shards, "train", batch_size=8) as one, Stream(shards, "val", batch_size=8) as two:
        require_agreement([one.agreement(), one.agreement()])
        with pytest.raises(ValueError, match=r"rank 1 has split 'val' but rank 0 has 'train'"):
            require_agreement([one.agreement(), two.agreement()])


def test_a_long_wait_is_said(
    packed: Callable[[View], Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def slowly(*arguments: Any) -> int:
        time.sleep(0.3)
        return read_into(*arguments)

    read_into = LocalStorage.read_into
    monkeypatch.setattr(LocalStorage, "read_into", slowly)
    monkeypatch.setattr("shards.stream.batch_reader.PATIENCE_S", 0.1)
    with (
        open_shards(str(packed("cube"))) as shards,
        Stream(shards, "train", batch_size=1, prefetch=1) as stream,
    ):
        next(stream)
    said = capsys.readouterr().err
    assert f"still reading step 0 of epoch 0 from {packed('cube')} after" in said


def test_wrong_arguments_are_refused(shards: ShardSet) -> None:
    with pytest.raises(ValueError, match="lies behind the epoch's 15 steps"):
        Stream(shards, "train", batch_size=4, position=Position(step=15))
    with pytest.raises(ValueError, match="cannot be split evenly over 3 ranks"):
        Stream(shards, "train", batch_size=4, world_size=3)
    with pytest.raises(ValueError, match="has no split 'holdout', only train, val, test"):
        Stream(shards, "holdout", batch_size=4)
    with (
        Stream(
            shards, "train", batch_size=4, allocate=lambda shape: np.zeros(shape, np.float32)
        ) as stream,
        pytest.raises(ValueError, match="allocate returned float32"),
    ):
        next(stream)
