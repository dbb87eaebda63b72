"""The sample store's layout."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import zarr

from shards.contract.sample_store import (
    create_store,
    open_for_write,
    open_store,
    write_dataset,
    write_rows,
    write_samples,
)
from shards.contract.schema import VIEWS, Codec, ImageSpec
from shards.contract.zarr_shard import ShardFiles

pytestmark = pytest.mark.timeout(60)
Formula = Callable[[ImageSpec, int], np.ndarray]


def test_a_store_opens_in_plain_zarr(store: Path, image_of: Formula) -> None:
    opened = open_store(store)
    group = zarr.open_group(store / "samples.zarr", mode="r")
    assert group.metadata.zarr_format == 3
    for view in VIEWS:
        array = group[view]
        assert isinstance(array, zarr.Array)
        assert array.chunks[0] == 1
        assert array.shards is not None
        assert array.shards[0] == 16
        spec = opened.dataset.views[view]
        for row in opened.samples["row"].to_pylist():
            np.testing.assert_array_equal(array[row], image_of(spec, row))
        rows = opened.samples["row"].to_pylist()[::-1]
        expected = np.stack([image_of(spec, row) for row in rows])
        np.testing.assert_array_equal(opened.files(view).read(rows), expected)
        with pytest.raises(ValueError, match="row 12 holds no image"):
            opened.files(view).read([12])
        assert not np.any(array[12]), "a rejected row is a hole"


@pytest.mark.parametrize(("start", "count"), [(0, 3), (2, 4), (4, 5)])
def test_a_writer_owns_whole_shards(tmp_path: Path, start: int, count: int) -> None:
    spec = ImageSpec(shape=(1, 2, 2), dtype="uint8", channels=("em",), voxel_size_nm=(1, 1, 1))
    create_store(tmp_path, {"patch": spec}, num_rows=10, rows_per_shard=4)
    array = open_for_write(tmp_path, "patch")
    with pytest.raises(ValueError, match="do not fill whole zarr shards"):
        write_rows(array, start, np.ones((count, 1, 2, 2), np.uint8))
    write_rows(array, 8, np.ones((2, 1, 2, 2), np.uint8))
    assert array[8:].all()


@pytest.mark.parametrize("codec", get_args(Codec))
def test_a_shard_is_byte_for_byte_zarrs_own(tmp_path: Path, codec: Codec) -> None:
    channels = ("em", "pre")
    spec = ImageSpec(shape=(2, 32, 32), dtype="uint8", channels=channels, voxel_size_nm=(1, 1, 1))
    images = np.random.default_rng(0).integers(0, 256, (10, *spec.shape), dtype=np.uint8)
    images[:, 1] = 255
    images[[0, 5]] = 0
    for name in ("ours", "zarrs"):
        create_store(tmp_path / name, {"patch": spec}, 10, 4, codec=codec)
    write_rows(open_for_write(tmp_path / "ours", "patch"), 0, images)
    open_for_write(tmp_path / "zarrs", "patch")[:] = images
    for shard in range(3):
        ours, zarrs = (
            tmp_path / name / "samples.zarr" / "patch" / "c" / str(shard) / "0" / "0" / "0"
            for name in ("ours", "zarrs")
        )
        assert ours.read_bytes() == zarrs.read_bytes()
    array = open_for_write(tmp_path / "ours", "patch")
    stored = ShardFiles(array, tmp_path / "ours" / "samples.zarr" / "patch")
    np.testing.assert_array_equal(stored.read([9, 1, 2]), images[[9, 1, 2]])
    assert (ours.stat().st_size < 0.8 * 2 * spec.nbytes) == (codec != "none")


def test_an_unfinished_store_says_so(tmp_path: Path, store_maker: Callable[..., None]) -> None:
    store_maker(tmp_path, 20, 8)
    (tmp_path / "dataset.json").unlink()
    with pytest.raises(ValueError, match="no such finished data set; run"):
        open_store(tmp_path)


def test_an_unknown_version_is_refused(tmp_path: Path, store_maker: Callable[..., None]) -> None:
    store_maker(tmp_path, 20, 8)
    description = tmp_path / "dataset.json"
    text = description.read_text()
    other = {key: value for key, value in json.loads(text).items() if key != "document_sha256"}
    description.write_text(json.dumps(other | {"schema_version": 9}))
    with pytest.raises(ValueError, match="schema version 9 is unknown"):
        open_store(tmp_path)
    description.write_text(text)
    zarr.open_group(tmp_path / "samples.zarr", mode="r+").attrs["synshards_schema_version"] = 2
    with pytest.raises(ValueError, match="schema version 2 is unknown"):
        open_store(tmp_path)


def test_a_table_that_does_not_fit_is_refused(
    tmp_path: Path, store_maker: Callable[..., None]
) -> None:
    store_maker(tmp_path, 20, 8)
    store = open_store(tmp_path)
    write_samples(tmp_path, store.samples.slice(0, 5))
    with pytest.raises(ValueError, match=r"has 5 rows but .* says 19"):
        open_store(tmp_path)
    write_samples(tmp_path, store.samples.to_pandas().assign(key="same"))
    write_dataset(tmp_path, store.dataset)
    with pytest.raises(ValueError, match="must be unique"):
        open_store(tmp_path)
    with pytest.raises(ValueError, match="lacks the columns block"):
        write_samples(tmp_path, store.samples.drop_columns(["block"]))


def test_a_view_that_is_not_there(tmp_path: Path, store_maker: Callable[..., None]) -> None:
    store_maker(tmp_path, 20, 8)
    (tmp_path / "samples.zarr" / "cube" / "zarr.json").unlink()
    with pytest.raises(ValueError, match="no zarr array 'cube'"):
        open_store(tmp_path)


def test_an_altered_store_is_refused(tmp_path: Path, store_maker: Callable[..., None]) -> None:
    store_maker(tmp_path, 20, 8)
    path = tmp_path / "samples.zarr" / "patch" / "c" / "1" / "0" / "0" / "0"
    whole = path.read_bytes()
    files = open_store(tmp_path).files("patch")
    path.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    with pytest.raises(ValueError, match=r"row \d+ does not match its checksum"):
        files.read(range(8, 16))
    for content, message in (
        (whole[:-1] + bytes([whole[-1] ^ 1]), "index does not match"),
        (whole[:20], "too short"),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            open_store(tmp_path).files("patch").read([9])
    path.unlink()
    with pytest.raises(ValueError, match="no such zarr shard"):
        open_store(tmp_path).files("patch").read([9])


@pytest.mark.parametrize("compressors", [None, "auto"])
def test_other_layouts(tmp_path: Path, compressors: str | None) -> None:
    array = zarr.create_array(
        tmp_path / "a",
        shape=(8, 1, 5, 3),
        chunks=(1, 1, 5, 3),
        shards=(4, 1, 5, 3),
        dtype="uint8",
        compressors=compressors,  # type: ignore[arg-type]
    )
    images = np.arange(8 * 15, dtype=np.uint8).reshape(array.shape) + 1
    array[:] = images
    if compressors is None:
        np.testing.assert_array_equal(
            ShardFiles(array, tmp_path / "a").read([7, 0]), images[[7, 0]]
        )
    else:
        with pytest.raises(ValueError, match="not laid out as a sample store"):
            ShardFiles(array, tmp_path / "a")
