"""Forked and spawned processes, and Ctrl-C: data or a sentence, and never a hang."""

import copy
import multiprocessing
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shards.cli.serve import serving
from shards.contract.schema import View
from shards.storage.cache_folder import CacheSpec
from shards.stream.shardset import ShardSet, open_shards
from shards.stream.stream import Stream, evaluation_batches
from tests.servers.odd import odd

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.filterwarnings("ignore:This process:DeprecationWarning"),  # of fork with threads
]
Packed = Callable[[View], Path]


def in_child(method: str, work: Callable[..., Any], *arguments: Any) -> Any:
    """Return what `work` returns, or the text of its error, in a process started so."""
    context = multiprocessing.get_context(method)
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(sending, work, *arguments))
    process.start()
    assert receiving.poll(20), "the child hangs"
    answer = receiving.recv()
    process.join()
    return answer


def _send(pipe: Any, work: Callable[..., Any], *arguments: Any) -> None:
    try:
        pipe.send(work(*arguments))
    except (ValueError, TypeError) as error:
        pipe.send(str(error))


def first_images(shards: ShardSet) -> bytes:
    return shards.read_images("train", [0, 1]).tobytes()


def new_stream(shards: ShardSet) -> bytes:
    with Stream(shards, "train", batch_size=4, epochs=1) as stream:
        return next(stream).images.tobytes()


def every_batch(shards: ShardSet) -> int:
    return sum(len(batch.rows) for batch in evaluation_batches(shards, "test", 8))


def next_of(stream: Stream) -> bytes:
    return next(stream).images.tobytes()


@pytest.mark.parametrize("work", [first_images, new_stream, every_batch])
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_set_of_the_disk_is_read_in_a_child(
    packed: Packed, method: str, work: Callable[[ShardSet], Any]
) -> None:
    with open_shards(str(packed("patch"))) as shards:
        expected = work(shards)
        assert in_child(method, work, shards) == expected


@pytest.mark.parametrize("held", ["shards._lock", "shards.storage._lock"])
def test_a_lock_held_while_forking_does_not_hang_the_child(packed: Packed, held: str) -> None:
    with open_shards(str(packed("patch"))) as shards:
        expected = first_images(shards)
        with eval(held, {"shards": shards}):
            assert in_child("fork", first_images, shards) == expected


def test_a_remote_set_is_read_in_a_spawned_child_and_refused_in_a_forked_one(
    packed: Packed, tmp_path: Path
) -> None:
    cache = CacheSpec(folder=tmp_path / "cache", limit_bytes=10**8)
    with serving(packed("patch")) as url:
        for chosen in (None, cache):
            with open_shards(url, chosen) as shards:
                expected = first_images(shards)
                assert in_child("spawn", first_images, shards) == expected
                for work in (new_stream, every_batch):
                    assert "start processes with `spawn`" in in_child("fork", work, shards)


def test_a_stream_stays_where_it_was_made(packed: Packed) -> None:
    with (
        open_shards(str(packed("patch"))) as shards,
        Stream(shards, "train", batch_size=4) as stream,
    ):
        for _ in range(2):
            assert "iterate the Stream where it was made" in in_child("fork", next_of, stream)
            next(stream)
        with pytest.raises(TypeError, match=r"a Stream cannot be pickled.*one in each worker"):
            pickle.dumps(stream)


def test_a_pickled_set_that_became_another_is_refused(packed: Packed, altered: Path) -> None:
    with open_shards(str(altered)) as shards:
        np.testing.assert_array_equal(
            copy.copy(shards).read_images("val", [0]),
            shards.read_images("val", [0]),
        )
        pickled = pickle.dumps(shards)
    manifest = altered / "manifest.json"
    manifest.write_bytes((packed("patch") / "manifest.json").read_bytes())
    with pytest.raises(ValueError, match="another shard set than when it was pickled"):
        pickle.loads(pickled)  # noqa: S301


@pytest.mark.parametrize(("command", "name"), [("copy", ""), ("copy", ".tar"), ("bench", ".tar")])
def test_an_interrupt_ends_a_command_that_waits_for_a_silent_server(
    packed: Packed, tmp_path: Path, command: str, name: str
) -> None:
    """For shards, and for their manifest."""
    more = [str(tmp_path / "to")] if command == "copy" else []
    silent = odd("silent", name)
    with serving(packed("patch"), handler=silent) as url:
        process = subprocess.Popen(
            [sys.executable, "-m", "shards", command, url, *more],
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert silent.asked.wait(30)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=8)  # a silent server is given up after 10 s
    assert process.returncode == 130
    assert said.endswith("interrupted; the same command continues where this one stopped\n")
    assert "Traceback" not in said
    assert not list(tmp_path.glob("to/.*.tmp"))
