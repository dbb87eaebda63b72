"""Remote shards: right bytes through faults, a cache that keeps its limits and survives kills."""

import errno
import fcntl
import itertools
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shards.cli.serve import RangeHandler, serving
from shards.contract.schema import View
from shards.pack.verify import verify
from shards.storage.cache_folder import CacheSpec, locked_folder, make_folder
from shards.storage.patience import Patience
from shards.stream.order import OrderSpec
from shards.stream.shardset import open_shards
from shards.stream.stream import Stream

pytestmark = pytest.mark.timeout(90)
Packed = Callable[[View], Path]
ORDER = OrderSpec(seed=3, balance="class")


class Faulty(RangeHandler):
    """Fails every n-th request for a tar: refused, cut short, reset, slow, in turn."""

    requests = itertools.count()
    sent = 0
    failing = True
    every = 3
    faults = ("503", "cut", "reset", "slow")

    def send_bytes(self, path: Path, start: int, stop: int) -> None:
        type(self).sent += stop - start
        fault = self.fault(path)
        if fault == "cut":
            super().send_bytes(path, start, start + (stop - start) // 2)
        elif fault != "reset":
            time.sleep(0.2 if fault == "slow" else 0)
            super().send_bytes(path, start, stop)
            return
        self.close_connection = True
        self.connection.close()

    def answer(self, *, with_body: bool) -> None:
        if with_body and self.fault(Path(self.path)) == "503":
            self.send_error(503)
        else:
            super().answer(with_body=with_body)

    def fault(self, path: Path) -> str:
        if not self.failing or path.suffix != ".tar":
            return ""
        number = next(self.requests)
        return (
            self.faults[number // self.every % len(self.faults)] if number % self.every == 0 else ""
        )


@pytest.fixture
def faulty() -> type[Faulty]:
    """Return a handler class of this test's own."""
    return type("Faulty", (Faulty,), {"requests": itertools.count()})


def read_epoch(url: str, cache: CacheSpec | None = None) -> list[tuple[Any, ...]]:
    with (
        open_shards(url, cache) as shards,
        Stream(shards, "train", batch_size=8, order=ORDER, epochs=2) as stream,
    ):
        return [(b.rows.tolist(), b.labels.tolist(), b.images.tobytes()) for b in stream]


@pytest.fixture
def cache(tmp_path: Path) -> CacheSpec:
    return CacheSpec(folder=tmp_path / "cache", limit_bytes=10**9)


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_faults_of_the_link_do_not_reach_the_batches(
    packed: Packed, faulty: type[Faulty], cache: CacheSpec, cached: bool
) -> None:
    expected = read_epoch(str(packed("cube")))
    with serving(packed("cube"), handler=faulty) as url:
        assert read_epoch(url, cache if cached else None) == expected


def test_the_cache_fetches_every_part_once(
    packed: Packed, faulty: type[Faulty], cache: CacheSpec
) -> None:
    faulty.failing = False
    with serving(packed("patch"), handler=faulty) as url:
        first = read_epoch(url, cache)
        sent = faulty.sent
        assert read_epoch(url, cache) == first
        again = faulty.sent - sent
    size = sum(path.stat().st_size for path in packed("patch").glob("train*.tar"))
    small = sum(path.stat().st_size for path in packed("patch").iterdir() if path.suffix != ".tar")
    assert sent <= size + small
    assert again <= small


def bytes_in(folder: Path) -> int:
    """Return the size of all cached shards, under the lock that keeps them as they are."""
    with (folder / "lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return sum(path.stat().st_size for path in folder.glob("*.cache"))


def test_the_limit_holds_and_what_does_not_fit_is_read_past_the_cache(
    packed: Packed, tmp_path: Path
) -> None:
    expected = read_epoch(str(packed("cube")))
    cache = CacheSpec(folder=tmp_path / "cache", limit_bytes=120_000, grace_s=0.0)
    largest = 0
    with (
        serving(packed("cube")) as url,
        open_shards(url, cache) as shards,
        Stream(shards, "train", batch_size=8, order=ORDER, epochs=2) as stream,
    ):
        for batch, (_, _, voxels) in zip(stream, expected, strict=True):
            assert batch.images.tobytes() == voxels
            largest = max(largest, bytes_in(cache.folder))
    assert 50_000 < largest <= cache.limit_bytes


def test_damage_in_the_cache_is_mended(packed: Packed, cache: CacheSpec) -> None:
    expected = read_epoch(str(packed("cube")))
    with serving(packed("cube")) as url:
        read_epoch(url, cache)
        for path in cache.folder.glob("*.cache"):
            content = bytearray(path.read_bytes())
            content[2000:30000] = bytes(28000)
            path.write_bytes(content)
        assert read_epoch(url, cache) == expected


def test_damage_on_the_remote_side_is_named(altered: Path, cache: CacheSpec) -> None:
    path = altered / "train-000002.tar"
    content = bytearray(path.read_bytes())
    content[1500:40000:97] = bytes(len(content[1500:40000:97]))
    path.write_bytes(content)
    with serving(altered) as url:
        for chosen in (None, cache):
            with pytest.raises(ValueError, match=r"train-000002.tar: sample \w+ has checksum"):
                read_epoch(url, chosen)
        assert any("train-000002.tar" in fault for fault in verify(url))


def test_a_missing_shard_and_a_missing_set_are_named(altered: Path) -> None:
    (altered / "train-000001.tar").unlink()
    with serving(altered) as url:
        with pytest.raises(ValueError, match=r"train-000001.tar: no such object"):
            read_epoch(url)
        with pytest.raises(ValueError, match=r"manifest.json: no such object"):
            open_shards(f"{url}/elsewhere")


@pytest.mark.parametrize("cached", [False, True])
def test_an_endpoint_that_goes_in_mid_epoch_is_named_in_time(
    packed: Packed, faulty: type[Faulty], cache: CacheSpec, cached: bool
) -> None:
    faulty.failing = False
    with (
        serving(packed("cube"), handler=faulty) as url,
        open_shards(url, cache if cached else None, Patience(total_s=1.0)) as shards,
        Stream(shards, "train", batch_size=8, prefetch=1) as stream,
    ):
        faulty.failing, faulty.every, faulty.faults = True, 1, ("reset",)
        start = time.monotonic()
        with pytest.raises(ValueError, match=r"train-\d+.tar: no answer within 1 s"):
            deque(stream, maxlen=0)
    assert time.monotonic() - start < 30


def _read_for_ever(url: str, cache: CacheSpec) -> None:
    while True:
        read_epoch(url, cache)


# Stopped at the wrong moment, the other job holds the folder's lock; then the cache is passed by.
@pytest.mark.filterwarnings("ignore:.*another process keeps it locked:RuntimeWarning")
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGSTOP])
def test_jobs_share_a_cache_and_one_of_them_ends(
    packed: Packed,
    faulty: type[Faulty],
    cache: CacheSpec,
    monkeypatch: pytest.MonkeyPatch,
    end: signal.Signals,
) -> None:
    monkeypatch.setattr("shards.storage.cache.STALLED_S", 0.2)
    monkeypatch.setattr("shards.storage.cache_folder.STALLED_S", 0.2)
    faulty.faults = ("slow",)
    expected = read_epoch(str(packed("patch")))
    context = multiprocessing.get_context("spawn")
    with serving(packed("patch"), handler=faulty) as url:
        other = context.Process(target=_read_for_ever, args=(url, cache))
        other.start()
        while not cache.folder.is_dir() or not list(cache.folder.glob("*.cache")):
            time.sleep(0.005)
        assert other.pid is not None
        os.kill(other.pid, end)
        try:
            assert read_epoch(url, cache) == expected
        finally:
            other.kill()
            other.join()


def test_a_cache_that_a_stalled_process_keeps_locked_is_read_past(
    packed: Packed, cache: CacheSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shards.storage.cache_folder.STALLED_S", 0.2)
    monkeypatch.setattr("shards.storage.cache.STALLED_S", 0.2)
    expected = read_epoch(str(packed("patch")))
    make_folder(cache)
    with (
        serving(packed("patch")) as url,
        locked_folder(cache),
        pytest.warns(RuntimeWarning, match="another process keeps it locked"),
    ):
        assert read_epoch(url, cache) == expected


@pytest.mark.parametrize(
    ("call", "number"),
    [("posix_fallocate", errno.ENOSPC), ("pwrite", errno.ENOSPC), ("open", errno.EACCES)],
)
def test_a_cache_that_cannot_be_written_is_said_and_read_past(
    packed: Packed,
    cache: CacheSpec,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    number: int,
) -> None:
    works = getattr(os, call)

    def fails(place: object, *arguments: Any) -> Any:
        if call == "open" and not str(place).endswith(".cache"):
            return works(place, *arguments)
        raise OSError(number, os.strerror(number))

    expected = read_epoch(str(packed("cube")))
    monkeypatch.setattr(os, call, fails)
    with (
        serving(packed("cube")) as url,
        pytest.warns(RuntimeWarning, match=os.strerror(number)),
    ):
        assert read_epoch(url, cache) == expected
    assert call == "pwrite" or not list(cache.folder.glob("*.cache"))


def test_a_cached_file_that_is_cut_short_is_fetched_again(packed: Packed, cache: CacheSpec) -> None:
    with serving(packed("cube")) as url, open_shards(url, cache) as shards:
        expected = shards.read_images("train", [0])
        for path in cache.folder.glob("*.cache"):
            os.truncate(path, 100)
        with pytest.warns(RuntimeWarning, match="it was cut short"):
            np.testing.assert_array_equal(shards.read_images("train", [0]), expected)


def test_access_denied_is_named(packed: Packed, faulty: type[Faulty], cache: CacheSpec) -> None:
    def denied(self: Faulty, *, with_body: bool) -> None:
        if self.path.endswith(".tar") and with_body:
            self.send_error(403)
        else:
            RangeHandler.answer(self, with_body=with_body)

    faulty.answer = denied  # type: ignore[method-assign]
    with serving(packed("cube"), handler=faulty) as url:
        for chosen in (None, cache):
            with pytest.raises(ValueError, match=r"train-\d+.tar: access denied .* put `machine"):
                read_epoch(url, chosen)


def test_a_folder_that_may_not_be_used_is_named(packed: Packed, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        serving(packed("cube")) as url,
        pytest.raises(ValueError, match="cannot cache shards there"),
    ):
        open_shards(url, CacheSpec(folder=tmp_path / "file" / "cache", limit_bytes=1))


def test_closing_in_the_middle_leaves_no_thread(packed: Packed, cache: CacheSpec) -> None:
    with serving(packed("cube")) as url:
        with open_shards(url, cache) as shards, Stream(shards, "train", batch_size=8) as stream:
            next(stream)
        names = [thread.name for thread in threading.enumerate()]
        assert not [name for name in names if name.startswith("shards")]
