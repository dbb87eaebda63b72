"""Locks on outputs: one writer, who is named; gone with its process, and no litter."""

import errno
import os
import re
import subprocess
import sys
import threading
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from shards.storage import locks
from shards.storage.locks import is_lock, shared_writer, sole_writer

HOLDER = """
import sys, time
from pathlib import Path
from shards.storage.locks import *
with {lock}(Path(sys.argv[1]), *sys.argv[2:]):
    print("held", flush=True)
    time.sleep(10)
"""


def holder(lock: str, *args: str) -> subprocess.Popen[bytes]:
    """Start a process that holds a lock, and wait until it does."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER.format(lock=lock), *args], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    return process


@pytest.mark.parametrize("lock", ["sole_writer", "sole_writer_of_file"])
def test_the_second_process_is_told_who_writes_and_a_kill_ends_it(
    lock: str, tmp_path: Path
) -> None:
    target = tmp_path / "out"
    take = getattr(locks, lock)
    with holder(lock, str(target)) as process:
        said = rf"out is being written by process {process.pid} on host {os.uname().nodename} \("
        with pytest.raises(ValueError, match=said) as raised, take(target):
            pass
        assert re.search(r"python.*, since \d{4}-\d\d-\d\d .*wait for it", str(raised.value))
        process.kill()
    assert [path for path in tmp_path.rglob("*") if is_lock(path)]
    with take(target):
        pass
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_an_unused_folder_is_removed_again_and_a_used_one_kept(tmp_path: Path) -> None:
    with sole_writer(tmp_path / "a" / "b"):
        pass
    assert not (tmp_path / "a" / "b").exists()
    with sole_writer(tmp_path / "c"):
        (tmp_path / "c" / "x").touch()
    assert [path.name for path in (tmp_path / "c").iterdir()] == ["x"]


def test_parts_share_a_folder_with_each_other_alone(tmp_path: Path) -> None:
    def refused(lock: AbstractContextManager[None]) -> str:
        with pytest.raises(ValueError, match="is being written by process") as raised, lock:
            pass
        return str(raised.value)

    with shared_writer(tmp_path, "0"), shared_writer(tmp_path, "1"):
        assert refused(shared_writer(tmp_path, "1")).startswith("part 1 of")
        assert refused(sole_writer(tmp_path)).startswith(f"{tmp_path} is")
    with sole_writer(tmp_path):
        refused(shared_writer(tmp_path, "0"))
    assert not list(tmp_path.iterdir())


def test_the_dead_among_those_who_shared_are_not_named(tmp_path: Path) -> None:
    with shared_writer(tmp_path, "1"), holder("shared_writer", str(tmp_path), "0") as process:
        process.kill()
        process.wait()
        with pytest.raises(ValueError, match=f"process {os.getpid()} "), sole_writer(tmp_path):
            pass


def test_a_forked_child_does_not_outlive_the_lock(tmp_path: Path) -> None:
    with sole_writer(tmp_path):
        read, write = os.pipe()
        if (child := os.fork()) == 0:
            os.close(write)
            os.read(read, 1)
            os._exit(0)
    with sole_writer(tmp_path):
        pass
    os.close(write)
    assert os.waitpid(child, 0)[1] == 0


def test_of_many_at_once_one_writes(tmp_path: Path) -> None:
    inside, most, worked = 0, 0, 0

    def work() -> None:
        nonlocal inside, most, worked
        for _ in range(50):
            try:
                with sole_writer(tmp_path):
                    inside += 1
                    most, worked = max(most, inside), worked + 1
                    inside -= 1
            except ValueError:
                continue

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert worked > 0
    assert not list(tmp_path.iterdir())


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with (
        pytest.raises(ValueError, match="out: a file stands in the way"),
        sole_writer(tmp_path / "out"),
    ):
        pass


def test_passwords_in_the_command_are_not_written_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "orig_argv", ["/bin/python", "-m", "shards", "http://me:key@host/x"])
    said = r"\(python -m shards http://host/x, since"
    with sole_writer(tmp_path), pytest.raises(ValueError, match=said), sole_writer(tmp_path):
        pass


def test_a_file_system_without_locks_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def flock(*_: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks.fcntl, "flock", flock)
    with sole_writer(tmp_path):
        assert "cannot be locked; start one writer only" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
