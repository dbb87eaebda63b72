"""The cache beside strangers: no set gets another's bytes, no file of another user is touched."""

import json
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from shards.cli.serve import serving
from shards.contract.schema import View
from shards.storage.cache_folder import CacheSpec, cache_from_environment
from shards.stream.shardset import open_shards

Packed = Callable[[View], Path]


@pytest.fixture
def cache(tmp_path: Path) -> CacheSpec:
    return CacheSpec(folder=tmp_path / "cache", limit_bytes=10**9)


def images(url: str, cache: CacheSpec) -> np.ndarray:
    with open_shards(url, cache) as shards:
        return shards.read_images("train", range(4))


@pytest.mark.parametrize("same_url", [False, True])
def test_a_forged_set_does_not_reach_an_honest_one(
    packed: Packed, altered: Path, cache: CacheSpec, monkeypatch: pytest.MonkeyPatch, same_url: bool
) -> None:
    """The forger claims the honest hashes, and makes checksums fit."""
    honest = packed("cube")
    with open_shards(str(honest)) as shards:
        expected = shards.read_images("train", range(4))
        shard = shards.manifest.splits["train"].shards[0]
        offset = int(shards.index("train").offset[0])
    content = bytearray((altered / shard.name).read_bytes())
    content[offset : offset + 50] = bytes(50)
    (altered / shard.name).write_bytes(content)
    manifest = json.loads((altered / "manifest.json").read_text())
    del manifest["document_sha256"]
    (altered / "manifest.json").write_text(json.dumps(manifest))
    place = altered.parent / "served"
    with serving(place if same_url else altered.parent) as root:
        url = root if same_url else f"{root}/{altered.name}"
        if same_url:
            shutil.copytree(altered, place)
        with monkeypatch.context() as patch:
            patch.setattr("shards.stream.shardset.crc32c.crc32c", lambda data: AnyNumber())
            assert (images(url, cache) != expected).any()
        if same_url:
            shutil.rmtree(place)
            shutil.copytree(honest, place)
            np.testing.assert_array_equal(images(url, cache), expected)
    if not same_url:
        with serving(honest) as url:
            np.testing.assert_array_equal(images(url, cache), expected)


class AnyNumber:
    """Equals every checksum, as forged bytes would make it."""

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = None  # type: ignore[assignment]


@pytest.mark.parametrize("planted", ["symlink", "dangling", "hard link", "fifo", "folder"])
def test_what_others_put_into_the_folder_is_not_touched(
    packed: Packed, cache: CacheSpec, tmp_path: Path, planted: str
) -> None:
    with serving(packed("patch")) as url:
        expected = images(url, cache)
        own = tmp_path / "own.txt"
        own.write_text("mine")
        for path in list(cache.folder.glob("*.cache")):
            path.unlink()
            if planted == "symlink":
                path.symlink_to(own)
            elif planted == "dangling":
                path.symlink_to(tmp_path / "new.txt")
            elif planted == "hard link":
                path.hardlink_to(own)
            elif planted == "fifo":
                os.mkfifo(path)
            else:
                path.mkdir()
        with pytest.warns(RuntimeWarning, match="reading it past the cache"):
            np.testing.assert_array_equal(images(url, cache), expected)
    assert own.read_text() == "mine"
    assert not (tmp_path / "new.txt").exists()


def test_files_are_of_this_user_alone(packed: Packed, cache: CacheSpec) -> None:
    with serving(packed("patch")) as url:
        images(url, cache)
    assert stat.S_IMODE(cache.folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in cache.folder.iterdir()} == {0o600}


@pytest.mark.parametrize(
    ("mode", "shared", "works"),
    [
        (0o700, False, True),
        (0o755, False, True),
        (0o770, False, False),
        (0o1777, False, False),
        (0o2770, True, True),
        (0o777, True, False),
    ],
)
def test_who_may_write_to_the_folder(
    packed: Packed, tmp_path: Path, mode: int, shared: bool, works: bool
) -> None:
    folder = tmp_path / "cache"
    folder.mkdir()
    folder.chmod(mode)
    spec = CacheSpec(folder=folder, limit_bytes=10**9, shared=shared)
    with serving(packed("patch")) as url:
        if works:
            images(url, spec)
            files = {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
            assert files == {0o660 if shared else 0o600}
            return
        with pytest.raises(ValueError, match=rf"mode {mode:o}\); set SYNSHARDS_CACHE_DIR"):
            images(url, spec)
    assert not list(folder.iterdir())


def test_a_folder_of_another_user_is_refused(
    packed: Packed, cache: CacheSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.folder.mkdir(mode=0o700)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with (
        serving(packed("patch")) as url,
        pytest.raises(ValueError, match="it is not yours"),
    ):
        images(url, cache)


def test_the_environment_names_the_cache(tmp_path: Path) -> None:
    assert cache_from_environment({}) is None
    named = {"SYNSHARDS_CACHE_DIR": str(tmp_path), "SYNSHARDS_CACHE_GB": "0.5"}
    assert cache_from_environment(named) == CacheSpec(folder=tmp_path, limit_bytes=500_000_000)
    shared = cache_from_environment(named | {"SYNSHARDS_CACHE_SHARED": "1"})
    assert shared is not None
    assert shared.shared
    with pytest.raises(ValueError, match="SYNSHARDS_CACHE_SHARED must be 0 or 1"):
        cache_from_environment(named | {"SYNSHARDS_CACHE_SHARED": "lab"})


@pytest.mark.parametrize("text", ["much", "", "inf", "-inf", "nan", "-1", "0", "1e999"])
def test_a_size_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    named = {"SYNSHARDS_CACHE_DIR": str(tmp_path), "SYNSHARDS_CACHE_GB": text}
    with pytest.raises(ValueError, match="must be a number of gigabytes above 0"):
        cache_from_environment(named)
