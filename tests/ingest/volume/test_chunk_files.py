"""Chunks as strangers store them: every encoding and compression, damage, files of no bytes."""

import gzip
import io
import json
from collections.abc import Callable
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import brotli
import compressed_segmentation
import compresso
import crackle
import imagecodecs
import numpy as np
import pytest
import simplejpeg
import zstandard
from PIL import Image as Picture

from ingest.__main__ import main
from ingest.volume.cloudvolume_reader import CloudVolumeReader, UnreadableError
from ingest.volume.geometry import Box
from ingest.volume.ranges.byte_ranges import Fetcher
from ingest.volume.ranges.compression import SUFFIXES, DamagedChunkError, Stored, decompress
from ingest.volume.ranges.precomputed import precomputed_volume
from ingest.volume.ranges.shard_index import murmurhash3, sharding_from_info
from ingest.volume.volume_info import ShardingInfo, VolumeInfo, parse_info
from shards.cli.command import run_command
from shards.cli.serve import RangeHandler, serving
from shards.storage.patience import Patience

SIZE, CHUNK = (64, 32, 32), (32, 16, 16)  # x, y, z
Z, Y, X = np.indices(SIZE[::-1])
GREY = (3 * X + 5 * Y + 11 * Z).astype(np.uint8)
SMOOTH = (128 + 40 * np.sin(X / 9 + Z / 5) + 40 * np.sin(Y / 7)).astype(np.uint8)
IDS = (864691135000000000 + X // 8 + 8 * (Y // 8) + 64 * (Z // 8)).astype(np.uint64)


def flat(part: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(part.reshape(-1, part.shape[-1]))


def png(part: np.ndarray) -> bytes:
    file = io.BytesIO()
    Picture.fromarray(flat(part)).save(file, "PNG")
    return file.getvalue()


def xyz(part: np.ndarray) -> np.ndarray:
    return np.asfortranarray(part.T)


IMAGES: dict[str, Callable[[np.ndarray], bytes]] = {
    "raw": lambda part: part.tobytes(),
    "jpeg": lambda part: simplejpeg.encode_jpeg(flat(part)[..., None], 95, "GRAY", "GRAY"),
    "png": png,
    "jxl": lambda part: imagecodecs.jpegxl_encode(flat(part), lossless=True, photometric="GRAY"),
}
SEGMENTATIONS: dict[str, Callable[[np.ndarray], bytes]] = {
    "raw": lambda part: part.tobytes(),
    "compressed_segmentation": lambda part: compressed_segmentation.compress(
        xyz(part)[..., None], (8, 8, 8), order="F"
    ),
    "compresso": lambda part: compresso.compress(xyz(part)),
    "crackle": lambda part: crackle.compress(xyz(part)),
}
COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".br": brotli.compress,
    ".zstd": zstandard.ZstdCompressor().compress,
}


def write_volume(
    folder: Path, voxels: np.ndarray, encoding: str, encode: Any, suffix: str = ""
) -> dict[str, Any]:
    """Write an unsharded volume and return its info."""
    key = folder / "8_8_40"
    key.mkdir(parents=True)
    for corner in np.ndindex(*(s // c for s, c in zip(SIZE, CHUNK, strict=True))):
        low = np.array(corner) * CHUNK
        high = low + CHUNK
        part = voxels[low[2] : high[2], low[1] : high[1], low[0] : high[0]]
        name = "_".join(f"{a}-{b}" for a, b in zip(low, high, strict=True)) + suffix
        (key / name).write_bytes(COMPRESSORS[suffix](encode(np.ascontiguousarray(part))))
    info = make_info(str(voxels.dtype), encoding)
    (folder / "info").write_text(json.dumps(info))
    return info


def make_info(dtype: str, encoding: str) -> dict[str, Any]:
    scale = {"key": "8_8_40", "size": SIZE, "voxel_offset": [0, 0, 0], "resolution": [8, 8, 40]}
    scale |= {"chunk_sizes": [CHUNK], "encoding": encoding}
    if encoding == "compressed_segmentation":
        scale["compressed_segmentation_block_size"] = [8, 8, 8]
    info = {"@type": "neuroglancer_multiscale_volume", "num_channels": 1, "scales": [scale]}
    return info | {"data_type": dtype, "type": "image" if dtype == "uint8" else "segmentation"}


def parsed(info: dict[str, Any]) -> VolumeInfo:
    return parse_info(json.dumps(info).encode(), where="info")


@pytest.mark.parametrize("suffix", COMPRESSORS)
@pytest.mark.parametrize(
    ("layer", "encoding"),
    [*(("image", name) for name in IMAGES), *(("segmentation", name) for name in SEGMENTATIONS)],
)
def test_both_readers_read_every_encoding(
    tmp_path: Path, layer: Any, encoding: str, suffix: str
) -> None:
    voxels = {"image": SMOOTH if encoding == "jpeg" else GREY, "segmentation": IDS}[layer]
    encode = (IMAGES if layer == "image" else SEGMENTATIONS)[encoding]
    info = write_volume(tmp_path / "em", voxels, encoding, encode, suffix)
    box = Box((3, 5, 7), (30, 31, 61))
    expected = voxels[3:30, 5:31, 7:61]
    path = f"file://{tmp_path}/em"
    for volume in (
        precomputed_volume(Fetcher(path), parsed(info), 0, layer=layer),
        CloudVolumeReader(path, parsed(info), 0, layer=layer),
    ):
        found = volume.read(box)[0]
        volume.close()
        assert found.dtype == expected.dtype
        difference = np.abs(found.astype(np.int64) - expected.astype(np.int64))
        assert difference.max() <= (8 if encoding == "jpeg" else 0)


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip"])
def test_a_server_that_compresses_files_is_read(tmp_path: Path, encoding: str) -> None:
    class Compressed(RangeHandler):
        def send_header(self, keyword: str, value: str) -> None:
            if keyword == "Accept-Ranges" and "info" not in self.path:
                super().send_header("Content-Encoding", encoding)
            super().send_header(keyword, value)

    suffix = {"br": ".br", "zstd": ".zstd", "gzip": ".gz"}[encoding]
    info = write_volume(tmp_path / "em", GREY, "raw", IMAGES["raw"], suffix)
    for path in (tmp_path / "em" / "8_8_40").iterdir():
        path.rename(path.with_suffix(""))
    with serving(tmp_path / "em", handler=Compressed) as url:
        volume = precomputed_volume(Fetcher(url), parsed(info), 0)
        np.testing.assert_array_equal(volume.read(volume.scale.grid.bounds)[0], GREY)
        volume.close()


@pytest.mark.parametrize("damage", ["first", "middle", "cut"])
@pytest.mark.parametrize("suffix", COMPRESSORS)
def test_damage_is_fetched_again_and_named(tmp_path: Path, damage: str, suffix: str) -> None:
    plain = SMOOTH[:16, :16, :32].tobytes()
    data = COMPRESSORS[suffix](plain)
    middle = len(data) // 2
    flipped = data[:middle] + bytes([data[middle] ^ 255]) + data[middle + 1 :]
    bad = {"first": b"\0" + data[1:], "middle": flipped, "cut": data[:-9]}[damage]
    if suffix != ".gz" and damage in ("first", "middle"):
        pytest.skip("no checksum: only the length shows")
    answers = chain([bad, data], repeat(bad))

    class Flaky(Fetcher):
        def file(self, name: str) -> Stored:
            return Stored(next(answers), SUFFIXES.get(suffix, ""))

    volume = precomputed_volume(Flaky(str(tmp_path)), parsed(make_info("uint8", "raw")), 0)
    box = Box((0, 0, 0), (16, 16, 32))
    assert volume.read(box).tobytes() == plain
    with pytest.raises(ValueError, match=r"0-32_0-16_0-16 came damaged 6 times .*mirror"):
        volume.read(box)
    volume.close()


@pytest.mark.parametrize("compress", [gzip.compress, brotli.compress, zstandard.compress])
def test_a_bomb_is_not_unpacked(compress: Callable[[bytes], bytes]) -> None:
    name = {gzip.compress: "gzip", brotli.compress: "br"}.get(compress, "zstd")
    with pytest.raises(DamagedChunkError, match=name):
        decompress(compress(bytes(1 << 24)), name, 1 << 20)


def test_gzip_whose_magic_came_damaged_is_read_again(tmp_path: Path) -> None:
    """A server that does not say gzip: the first bytes say it, and may flip."""

    class Flips(RangeHandler):
        seen: set[str] = set()  # noqa: RUF012

        def send_bytes(self, path: Path, start: int, stop: int) -> None:
            if path.name != "info" and path.name not in self.seen:
                self.seen.add(path.name)
                self.wfile.write(b"\x1e" + path.read_bytes()[1:])
            else:
                super().send_bytes(path, start, stop)

    info = write_volume(tmp_path / "em", GREY, "raw", lambda part: gzip.compress(part.tobytes()))
    with serving(tmp_path / "em", handler=Flips) as url:
        volume = precomputed_volume(Fetcher(url), parsed(info), 0)
        np.testing.assert_array_equal(volume.read(volume.scale.grid.bounds)[0], GREY)
        volume.close()


def job_over(folder: Path, make_job: Any, **volume: Any) -> tuple[str, str]:
    """Return (job, data set) of samples in the middles of a small volume's chunks."""
    job = make_job(count=48)
    corners = np.array([(x, y, z) for x in (8, 40) for y in (5, 21) for z in (5, 21)])
    centers = np.concatenate([corners + step for step in range(6)])
    for axis, name in enumerate("xyz"):
        job.synapses[f"ctr_pt_position_{name}"] = centers[:, axis] * (2, 2, 1)[axis]
    job.config["volume"] = {"path": str(folder), **volume}
    job.config["samples"]["views"] = {"cube": {"size": [8, 8, 4]}}
    job.config["samples_per_block"] = 4
    return str(job.write()), str(folder.parent / "ds")


def run_job(folder: Path, make_job: Any, **volume: Any) -> int:
    job, out = job_over(folder, make_job, **volume)
    assert run_command(main, ["plan", job, "--out", out]) == 0
    return run_command(main, ["run", out]) or run_command(main, ["finish", out])


@pytest.mark.parametrize("reader", ["ranged", "cloudvolume"])
@pytest.mark.parametrize("kind", ["png", "jxl", ".br", "empty", "missing", "damaged"])
def test_jobs_over_such_volumes(
    tmp_path: Path, make_job: Any, capsys: pytest.CaptureFixture[str], kind: str, reader: str
) -> None:
    encoding = kind if kind in IMAGES else "raw"
    suffix = ".br" if kind == ".br" else ".gz" if kind == "damaged" else ""
    write_volume(tmp_path / "em", GREY, encoding, IMAGES[encoding], suffix)
    files = sorted((tmp_path / "em" / "8_8_40").iterdir())
    for path in files[:1] if kind in ("empty", "damaged") else files if kind == "missing" else ():
        data = path.read_bytes()
        path.unlink()
        if kind != "missing":
            path.write_bytes(b"" if kind == "empty" else b"\0" + data[1:])
    code = run_job(tmp_path / "em", make_job, reader=reader)
    said = capsys.readouterr().err
    assert "Traceback" not in said
    if kind in ("missing", "damaged"):
        assert code == 1
        assert ("8 of 8 cutouts read as a test lie in chunks that are not stored" in said) == (
            kind == "missing"
        )
        assert ("damaged" in said) == (kind == "damaged")
        return
    assert code == 0, said
    dataset = json.loads((tmp_path / "ds" / "dataset.json").read_text())
    num_rejects = 6 if kind == "empty" else 0
    assert (dataset["num_samples"], dataset["num_rejects"]) == (48 - num_rejects, num_rejects)


@pytest.mark.parametrize("hash_name", ["identity", "murmurhash3_x86_128"])
@pytest.mark.parametrize("coding", ["raw", "gzip"])
def test_sharded_volumes_of_every_hash(tmp_path: Path, hash_name: str, coding: str) -> None:
    info = write_volume(tmp_path / "em", GREY, "raw", IMAGES["raw"])
    spec = {"@type": "neuroglancer_uint64_sharded_v1", "hash": hash_name, "preshift_bits": 0}
    spec |= {"minishard_bits": 1, "shard_bits": 2, "data_encoding": coding}
    spec |= {"minishard_index_encoding": coding}
    info["scales"][0]["sharding"] = spec
    write_shards(tmp_path / "em" / "8_8_40", spec)
    volume = precomputed_volume(Fetcher(str(tmp_path / "em")), parsed(info), 0)
    images = list(volume.read_many([volume.scale.grid.bounds, Box((0, 0, 0), (8, 8, 8))]))
    volume.close()
    assert images[0] is not None
    np.testing.assert_array_equal(images[0][0], GREY)
    assert images[1] is not None
    np.testing.assert_array_equal(images[1][0], GREY[:8, :8, :8])


def write_shards(folder: Path, spec: dict[str, Any]) -> None:
    """Put the folder's chunk files into shard files, as the format says."""
    fields = {"type" if name == "@type" else name: value for name, value in spec.items()}
    sharding = sharding_from_info(ShardingInfo(**fields), where="here")
    assert sharding is not None
    pack = gzip.compress if spec["data_encoding"] == "gzip" else bytes
    minishards: dict[int, dict[int, bytes]] = {}
    for code in range(8):  # a grid of 2 x 2 x 2 chunks, x lowest
        low = np.array([code & 1, code >> 1 & 1, code >> 2]) * CHUNK
        name = "_".join(f"{a}-{b}" for a, b in zip(low, low + CHUNK, strict=True))
        number = int(sharding.groups(np.array([code], np.uint64))[0])
        minishards.setdefault(number, {})[code] = pack((folder / name).read_bytes())
    for shard in range(4):
        body, index = b"", []
        for number in (2 * shard, 2 * shard + 1):
            chunks = minishards.get(number, {})
            start, end, rows = len(body), 0, []
            for place, (code, data) in enumerate(sorted(chunks.items())):
                before = max((c for c in chunks if c < code), default=0)
                rows.append((code - before, start if place == 0 else 0, len(data)))
                body += data
            table = pack(np.array(rows, "<u8").T.tobytes()) if rows else b""
            start, end = len(body), len(body) + len(table)
            body += table
            index.append((start, end))
        name = f"{shard:x}.shard"
        (folder / name).write_bytes(np.array(index, "<u8").tobytes() + body)


def test_murmurhash_is_the_one_of_the_format() -> None:
    """Values of the package mmh3 5.3, `hash64(key, x64arch=False)[0]`."""
    codes = np.array([0, 1, 2**40 + 17, 2**63], np.uint64)
    assert murmurhash3(codes).tolist() == [
        5148371408780832321,
        16770674756601302682,
        14268355893818503760,
        11063714688786943912,
    ]


def test_a_volume_that_cloudvolume_cannot_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = write_volume(tmp_path / "em", GREY, "png", png)
    monkeypatch.setitem(
        __import__("cloudvolume.chunks", fromlist=["x"]).NEEDS_INSTALL, "png", "pyspng"
    )
    reader = CloudVolumeReader(str(tmp_path / "em"), parsed(info), 0)
    with pytest.raises(UnreadableError, match=r"encoding png here .*pip install.*ranged"):
        reader.read(Box((0, 0, 0), (1, 1, 1)))


def test_a_truncated_shard_is_said(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(10))
    with pytest.raises(ValueError, match=r"a, bytes 5 to 20: .*truncated; copy it again"):
        Fetcher(str(tmp_path), patience=Patience(total_s=5)).range("a", 5, 20)
    with (
        serving(tmp_path) as url,
        pytest.raises(ValueError, match=r"a, bytes 15 to 20: .*truncated; copy it again"),
    ):
        Fetcher(url, patience=Patience(total_s=5)).range("a", 15, 20)
