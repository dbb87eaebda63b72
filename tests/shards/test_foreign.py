"""Tars that others wrote stream once they are indexed."""

from pathlib import Path

import numpy as np
import pytest
import webdataset

from shards.foreign import ForeignSpec, index_tars
from shards.shardset import open_shards
from shards.stream import Stream, evaluation_batches
from shards.verify import verify

pytestmark = pytest.mark.timeout(60)


def write(path: Path, images: np.ndarray, first: int, **more: object) -> None:
    with webdataset.TarWriter(str(path)) as writer:
        for number, image in enumerate(images, start=first):
            writer.write(
                {
                    "__key__": f"some/where-{number}",
                    "vol.npy": image,
                    "cls": number % 3,
                    "json": {"neuron_id": number // 2, "size": None},
                    **more,
                }
            )


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (30, 1, 4, 6, 5), dtype=np.uint8)


def test_another_set_streams(tmp_path: Path, images: np.ndarray) -> None:
    write(tmp_path / "train_a.tar", images[:12], 0)
    write(tmp_path / "train_b.tar", images[12:25], 12)
    write(tmp_path / "validation.tar", images[25:], 25)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    manifest = index_tars(str(tmp_path), ForeignSpec(class_names=("a", "b", "c")))
    assert all(path.read_bytes() == content for path, content in before.items())
    assert manifest.splits["val"].num_samples == 5
    np.testing.assert_allclose(manifest.mean, images[:25].mean())
    assert verify(str(tmp_path)) == []
    with (
        open_shards(str(tmp_path)) as shards,
        Stream(shards, "train", batch_size=5, epochs=1) as stream,
    ):
        for batch in stream:
            np.testing.assert_array_equal(batch.images, images[batch.rows])
            np.testing.assert_array_equal(batch.labels, batch.rows % 3)
        assert shards.index("train").neuron_id.tolist() == [n // 2 for n in range(25)]
        for batch in evaluation_batches(shards, "val", 2):
            np.testing.assert_array_equal(batch.images, images[25 + batch.rows])
    path = tmp_path / "train_a.tar"
    content = bytearray(path.read_bytes())
    content[int(shards.index("train").offset[3])] ^= 1
    path.write_bytes(content)
    faults = verify(str(tmp_path))
    assert "train_a.tar: some/where-3: checksum differs from the index" in faults


def test_what_cannot_stream_is_refused(tmp_path: Path, images: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"no .tar files there"):
        index_tars(str(tmp_path), ForeignSpec())
    write(tmp_path / "a.tar", images[:2].astype(np.float32), 0)
    with pytest.raises(ValueError, match="does not start with train, val, test"):
        index_tars(str(tmp_path), ForeignSpec())
    with pytest.raises(ValueError, match=r"where-0: float32 \(1, 4, 6, 5\) cannot be streamed"):
        index_tars(str(tmp_path), ForeignSpec(split="train"))
    write(tmp_path / "a.tar", images[:2], 0, **{"more.npy": images[0]})
    with pytest.raises(ValueError, match=r"where-0 has 2 .npy members"):
        index_tars(str(tmp_path), ForeignSpec(split="train"))
    write(tmp_path / "a.tar", images[:2], 0)
    (tmp_path / "a.tar").write_bytes((tmp_path / "a.tar").read_bytes()[:700])
    with pytest.raises(ValueError, match=r"a.tar: not a whole tar"):
        index_tars(str(tmp_path), ForeignSpec(split="train"))
