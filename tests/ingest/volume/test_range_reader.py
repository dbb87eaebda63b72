"""The ranged reader: every voxel right, nothing fetched twice, faults survived, memory bounded."""

import gzip
import io
import json
import tracemalloc
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Picture

from ingest.job.image_config import VolumeConfig
from ingest.volume.cloudvolume_reader import CloudVolumeReader
from ingest.volume.geometry import Box
from ingest.volume.open import open_volume, stored_sizes
from ingest.volume.ranges.byte_ranges import Fetcher
from ingest.volume.ranges.coalesce import (
    MAX_RANGE_CHUNKS,
    Joined,
    best_joined,
    joined,
    range_numbers,
)
from ingest.volume.ranges.precomputed import precomputed_volume
from ingest.volume.ranges.range_reader import RangedVolume
from ingest.volume.ranges.shard_index import Sharding
from ingest.volume.scale import MissingDataError
from ingest.volume.volume_info import VolumeInfo, parse_info
from shards.storage.patience import Patience
from tests.servers.em import EmServer

BoxVoxels = Callable[[Any, Any], np.ndarray]

CUBE = (32, 128, 128)
FIRST = (14816, 13824, 13824)  # the EM server's first voxel of mip 0, z, y, x
QUICK = Patience(total_s=5.0, first_s=0.005, longest_s=0.02)
FAULTS = ("429", "503", "reset", "truncate", "flip")


@pytest.fixture(scope="module")
def server() -> Iterator[EmServer]:
    with EmServer() as running:
        yield running


@pytest.fixture
def em(server: EmServer) -> EmServer:
    """The EM server as it starts: no faults, nothing missing, counts at 0."""
    server.configure(latency_ms=0, faults={}, missing=0.0, record=False)
    return server


def parsed(info: dict[str, Any]) -> VolumeInfo:
    return parse_info(json.dumps(info).encode(), where="info")


def open_em(
    server: EmServer,
    mip: int = 0,
    patience: Patience = QUICK,
    concurrency: int = 32,
    **options: Any,
) -> RangedVolume:
    found = Fetcher(server.url).file("info")
    assert found is not None
    fetcher = Fetcher(server.url, patience=patience, concurrency=concurrency)
    info = parse_info(bytes(found.data), where="info")
    return precomputed_volume(fetcher, info, mip, **options)


def boxes_near(
    mip: int, count: int, *, size: tuple[int, int, int] = CUBE, spread: int = 1500, seed: int = 1
) -> list[Box]:
    """Boxes around one place, in no order, so that they share chunks, minishards and shards."""
    rng = np.random.default_rng(seed)
    base = np.array(FIRST) // [1, 1 << mip, 1 << mip] + [3000, 70000 >> mip, 80000 >> mip]
    starts = base + rng.integers(0, [200, spread, spread], (count, 3))
    return [Box(tuple(start), tuple(start + np.array(size))) for start in starts.tolist()]


def check(server: EmServer, mip: int, boxes: list[Box], volume: RangedVolume) -> None:
    for box, image in zip(boxes, volume.read_many(boxes), strict=True):
        assert image is not None
        assert image.shape == (1, *box.shape)
        np.testing.assert_array_equal(image[0], server.voxels(mip, box.start, box.shape))
    volume.close()


@pytest.mark.parametrize("kind", ["sharded", "plain"])
@pytest.mark.parametrize("window_mb", [0.5, 128])
def test_local_volumes_are_the_formula(
    formula_volumes: dict[str, Path], box_voxels: BoxVoxels, kind: str, window_mb: float
):
    path = formula_volumes[kind]
    volume = precomputed_volume(
        Fetcher(str(path)),
        parsed(json.loads((path / "info").read_text())),
        0,
        window_bytes=int(window_mb * 2**20),
    )
    bounds = volume.scale.grid.bounds
    rng = np.random.default_rng(2)
    corners = np.sort(rng.integers(bounds.start, np.array(bounds.stop) + 1, (60, 2, 3)), axis=1)
    corners[:, 1] = np.maximum(corners[:, 1], corners[:, 0] + 1)
    corners[:, :] -= np.maximum(corners[:, 1:] - bounds.stop, 0)
    boxes = [bounds, *(Box(tuple(a), tuple(b)) for a, b in corners.tolist())]
    for box, image in zip(boxes, volume.read_many(iter(boxes)), strict=True):
        assert image is not None
        np.testing.assert_array_equal(image[0], box_voxels(box.start, box.shape))
    volume.close()


def jpeg(image: np.ndarray) -> bytes:
    flat = np.ascontiguousarray(image.reshape(-1, image.shape[-1], 1))
    return bytes(simplejpeg.encode_jpeg(flat, 90, "GRAY", "GRAY"))


def png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Picture.fromarray(image.reshape(-1, image.shape[-1])).save(file, "PNG")
    return file.getvalue()


ENCODERS: dict[str, tuple[str, str, Callable[[np.ndarray], bytes]]] = {
    "raw": ("raw", "", lambda image: image.tobytes()),
    "raw in .gz": ("raw", ".gz", lambda image: gzip.compress(image.tobytes())),
    "raw, compressed by the server": ("raw", "", lambda image: gzip.compress(image.tobytes())),
    "jpeg": ("jpeg", "", jpeg),
    "png": ("png", "", png),
    "png in .gz": ("png", ".gz", lambda image: gzip.compress(png(image))),
}


def write_files(folder: Path, kind: str) -> tuple[dict[str, Any], np.ndarray]:
    """Write an unsharded volume of smooth voxels whose last chunks are cut short."""
    encoding, suffix, encode = ENCODERS[kind]
    offset, size, chunk = (100, 50, 20), (100, 70, 40), (64, 32, 16)
    z, y, x = np.indices(size[::-1])
    voxels = (128 + 40 * np.sin(x / 9 + z / 5) + 40 * np.sin(y / 7)).astype(np.uint8)
    (folder / "8_8_40").mkdir()
    for corner in np.ndindex(*(-(-s // c) for s, c in zip(size, chunk, strict=True))):
        low = np.array(corner) * chunk
        high = np.minimum(low + chunk, size)
        part = voxels[low[2] : high[2], low[1] : high[1], low[0] : high[0]]
        spans = zip(low + offset, high + offset, strict=True)
        name = "_".join(f"{a}-{b}" for a, b in spans) + suffix
        (folder / "8_8_40" / name).write_bytes(encode(np.ascontiguousarray(part)))
    scale = {"key": "8_8_40", "size": size, "voxel_offset": offset, "resolution": [8, 8, 40]}
    scale |= {"chunk_sizes": [chunk], "encoding": encoding}
    info = {"data_type": "uint8", "num_channels": 1, "type": "image", "scales": [scale]}
    return info, voxels


@pytest.mark.parametrize("kind", ENCODERS)
def test_files_of_every_encoding(tmp_path: Path, kind: str):
    info, voxels = write_files(tmp_path, kind)
    volume = precomputed_volume(Fetcher(f"file://{tmp_path}"), parsed(info), 0)
    whole = volume.read(volume.scale.grid.bounds)[0]
    difference = np.abs(whole.astype(int) - voxels)
    assert difference.max() <= (12 if kind == "jpeg" else 0)
    part = volume.read(Box((25, 60, 130), (33, 110, 195)))[0]
    np.testing.assert_array_equal(part, whole[5:13, 10:60, 30:95])
    volume.close()


@pytest.mark.parametrize(("mip", "size"), [(0, CUBE), (0, (1, 256, 256)), (1, (32, 64, 64))])
def test_em_server_is_the_formula(em: EmServer, mip: int, size: tuple[int, int, int]):
    check(em, mip, boxes_near(mip, 30, size=size), open_em(em, mip))


def test_ends_of_the_volume(em: EmServer):
    volume = open_em(em)
    bounds = volume.scale.grid.bounds
    low, high = np.array(bounds.start), np.array(bounds.stop)
    boxes = [Box(tuple(low), tuple(low + CUBE)), Box(tuple(high - CUBE), tuple(high))]
    check(em, 0, [Box(tuple(map(int, b.start)), tuple(map(int, b.stop))) for b in boxes], volume)
    outside = Box(bounds.start, (bounds.start[0] + 1, bounds.start[1] + 1, bounds.stop[2] + 1))
    with pytest.raises(ValueError, match="is not within"):
        volume.read(outside)


@pytest.mark.parametrize("gap", [0, 2])
def test_nothing_is_fetched_twice(em: EmServer, gap: int):
    """In one call each chunk once, by as few requests as said; over calls each index once."""
    boxes = boxes_near(0, 60)
    volume = open_em(em, gap=gap)
    em.configure(record=True)
    list(volume.read_many(boxes))
    log, counts = sorted(em.log()), em.stats()
    grid = volume.scale.grid
    assert isinstance(grid.sharding, Sharding)
    centers = np.array([box.start for box in boxes]) + np.array(CUBE) // 2
    codes = np.unique(np.concatenate([codes for _, codes in grid.touched(centers, CUBE)]))
    expected = joined(grid.sharding.groups(codes).astype(int), codes.astype(int), gap)
    minishards = np.unique(grid.sharding.groups(codes))
    assert counts["shard_index"] == len(np.unique(minishards >> grid.sharding.minishard_bits))
    assert counts["minishard_index"] == len(minishards)
    assert counts["data"] == expected.ranges
    assert counts["requests"] == len(log) == volume.counts["requests"]
    assert counts["bytes"] == volume.counts["bytes"]
    for (path, _, stop), (other, start, _) in pairwise(log):
        assert path != other or start >= stop
    carried = counts["bytes"] - 24 * 512 * counts["minishard_index"]
    assert carried == pytest.approx(expected.chunks * em.scale(0).payload_sizes.mean(), rel=0.01)
    list(volume.read_many(boxes))
    again = em.stats()
    volume.close()
    assert again["data"] == 2 * counts["data"]
    assert again["shard_index"] + again["minishard_index"] == len(log) - counts["data"]


def test_faults_of_every_kind_are_survived(em: EmServer):
    em.configure(faults=dict.fromkeys(FAULTS, 0.05))
    volume = open_em(em)
    check(em, 0, boxes_near(0, 60), volume)
    assert all(em.stats()[kind] > 0 for kind in FAULTS)
    assert volume.counts["retries"] > 0


def test_a_damaged_index_is_read_again(em: EmServer):
    em.configure(faults={"truncate": 0.5})
    check(em, 0, boxes_near(0, 3), open_em(em))


def test_missing_chunks_make_none(em: EmServer):
    em.configure(missing=0.05)
    boxes = boxes_near(0, 60)
    volume = open_em(em)
    scale, offset = em.scale(0), np.array(FIRST)
    kept = []
    for box, image in zip(boxes, volume.read_many(boxes), strict=True):
        low = (np.array(box.start) - offset) // scale.chunk_zyx
        high = (np.array(box.stop) - 1 - offset) // scale.chunk_zyx
        places = np.stack(np.meshgrid(*map(np.arange, low, high + 1)), axis=-1)[..., ::-1]
        kept.append(bool(scale.exists(places.reshape(-1, 3)).all()))
        assert (image is not None) == kept[-1]
        if image is not None:
            np.testing.assert_array_equal(image[0], em.voxels(0, box.start, box.shape))
    assert 5 < sum(kept) < 55
    with pytest.raises(MissingDataError, match="no data in"):
        volume.read(boxes[kept.index(False)])
    volume.close()


def test_a_missing_shard_makes_none(em: EmServer):
    em.configure(missing=1.0)
    volume = open_em(em)
    assert list(volume.read_many(boxes_near(0, 3))) == [None] * 3
    volume.close()


def test_memory_is_bounded(em: EmServer):
    """60 MB of images through windows of 4 MB; the caller keeps one."""
    memory, concurrency = 8, 4
    boxes = boxes_near(0, 120, size=(16, 128, 256))
    volume = open_em(em, window_bytes=memory << 19, concurrency=concurrency)
    tracemalloc.start()
    total = sum(image.nbytes for image in volume.read_many(boxes) if image is not None)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    volume.close()
    assert total == 120 * 16 * 128 * 256
    assert peak < (memory << 20) + (concurrency + 8) * 2 * 16 * 128 * 128 + (4 << 20)


def test_leaving_early_leaves_nothing_behind(em: EmServer):
    volume = open_em(em)
    images = volume.read_many(boxes_near(0, 60))
    assert next(images) is not None
    images.close()  # type: ignore[attr-defined]
    check(em, 0, boxes_near(0, 5, seed=3), volume)


def test_a_store_that_always_fails_is_named(em: EmServer):
    volume = open_em(em, patience=Patience(total_s=0.5, first_s=0.01))
    em.configure(faults={"503": 1.0})
    with pytest.raises(ValueError, match=rf"{em.url}/8_8_40/.*no answer within 0.5 s .*503"):
        list(volume.read_many(boxes_near(0, 3)))
    volume.close()


@pytest.mark.parametrize("kind", ["raw", "raw in .gz", "png"])
def test_a_damaged_file_is_named(tmp_path: Path, kind: str):
    info, _ = write_files(tmp_path, kind)
    victim = min((tmp_path / "8_8_40").iterdir())
    victim.write_bytes(victim.read_bytes()[:-40])
    volume = precomputed_volume(Fetcher(str(tmp_path)), parsed(info), 0)
    with pytest.raises(ValueError, match=victim.name.removesuffix(".gz") + " came damaged 6 times"):
        volume.read(volume.scale.grid.bounds)
    volume.close()


@pytest.mark.parametrize("kind", ["sharded", "plain"])
def test_cloudvolume_by_choice_reads_the_same(
    formula_volumes: dict[str, Path], box_voxels: BoxVoxels, kind: str
):
    config = VolumeConfig(path=str(formula_volumes[kind]), reader="cloudvolume")
    volume = open_volume(config, 0, concurrency=1)
    assert isinstance(volume, CloudVolumeReader)
    low = volume.scale.grid.bounds.start
    boxes = [Box(low, (low[0] + 9, low[1] + 40, low[2] + 70))] * 2
    for image in volume.read_many(boxes):
        assert image is not None
        np.testing.assert_array_equal(image[0], box_voxels(low, boxes[0].shape))
    assert stored_sizes(config, 0, boxes) is None


def test_sizes_of_stored_chunks(em: EmServer, formula_volumes: dict[str, Path]):
    boxes = boxes_near(0, 5)
    found = stored_sizes(VolumeConfig(path=em.url), 0, boxes)
    assert found is not None
    assert found.chunk_bytes == pytest.approx(em.scale(0).payload_sizes.mean(), rel=0.01)
    assert found.index_bytes == 24 * 512 + 23
    path = formula_volumes["plain"]
    low = (48, 96, 160)
    files = stored_sizes(VolumeConfig(path=str(path)), 0, [Box(low, (49, 97, 161))])
    assert files is not None
    name = "160-224_96-128_48-64"
    assert files.chunk_bytes == next((path / "8_8_40").glob(f"{name}*")).stat().st_size


def test_other_encodings_are_refused(tmp_path: Path):
    info, _ = write_files(tmp_path, "raw")
    info["scales"][0]["encoding"] = "fpzip"
    with pytest.raises(ValueError, match="encoding 'fpzip' cannot be read by byte ranges"):
        precomputed_volume(Fetcher(str(tmp_path)), parsed(info), 0)


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 120)), unique=True, max_size=80),
    st.integers(0, 20),
)
def test_ranges_hold_each_chunk_once(chunks: list[tuple[int, int]], gap: int):
    chunks.sort()
    runs, places = np.array(chunks, dtype=np.int64).reshape(-1, 2).T
    numbers = range_numbers(runs, places, gap)
    assert sorted(set(numbers.tolist())) == list(range(len(set(numbers.tolist()))))
    assert (np.diff(numbers) >= 0).all()
    total = joined(runs, places, gap)
    spans = []
    for number in range(total.ranges):
        mine, at = runs[numbers == number], places[numbers == number]
        assert len(set(mine.tolist())) == 1
        assert (np.diff(at) <= gap + 1).all()
        assert at[-1] - at[0] < MAX_RANGE_CHUNKS
        spans.append(at[-1] - at[0] + 1)
    assert total.chunks == sum(spans)
    origin, was_near = 0, False
    for left, right in zip(range(total.ranges), range(1, total.ranges), strict=False):
        before, after = np.flatnonzero(numbers == left), np.flatnonzero(numbers == right)
        near = (
            runs[before[0]] == runs[after[0]] and places[after[0]] - places[before[-1]] <= gap + 1
        )
        origin = origin if was_near else int(places[before[0]])
        was_near = near
        parts = (places[[before[-1], after[0]]] - origin) // MAX_RANGE_CHUNKS
        assert not near or parts[0] < parts[1]  # cut for its length alone


def test_the_gap_follows_latency_and_bandwidth():
    options = [
        Joined(gap=gap, ranges=ranges, chunks=chunks)
        for gap, ranges, chunks in ((0, 1000, 1000), (1, 700, 1200), (4, 400, 1800))
    ]

    def seconds(request_s: float, chunk_s: float) -> Callable[[Joined], float]:
        return lambda option: max(option.ranges * request_s, option.chunks * chunk_s)

    assert best_joined(options, seconds(0.001, 0.01)).gap == 0
    assert best_joined(options, seconds(0.01, 0.005)).gap == 1
    assert best_joined(options, seconds(0.1, 0.001)).gap == 4
