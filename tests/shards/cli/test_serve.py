"""Serving a folder: nothing outside it, nobody kept waiting, whatever is asked."""

import http.client
import os
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from shards.__main__ import main
from shards.cli import serve
from shards.cli.command import run_command
from shards.cli.serve import RangeHandler, serving

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "a.tar").write_bytes(bytes(range(256)) * 4)
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "served-too").mkdir()
    (tmp_path / "served-too" / "secret").write_text("secret")
    (folder / "link").symlink_to(tmp_path / "secret")
    (folder / "folder").symlink_to(tmp_path)
    os.mkfifo(folder / "pipe")
    return folder


@pytest.fixture
def port(folder: Path) -> Iterator[int]:
    with serving(folder) as url:
        yield urlsplit(url).port or 0


def ask(port: int, path: str, **headers: str) -> tuple[int, bytes]:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=5)) as connection:
        connection.putrequest("GET", path, skip_host=True)
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders()
        with connection.getresponse() as answer:
            return answer.status, answer.read()


@pytest.mark.parametrize(
    "path",
    [
        "/../secret",
        "/%2e%2e/secret",
        "/..%2fsecret",
        "//etc/passwd",
        "/%2Fetc/passwd",
        "/../served-too/secret",
        "/link",
        "/folder/secret",
        "/pipe",
        "/",
        "/.",
        "/a.tar%00",
        "/%00",
        "/" + "x" * 5000,
        "/%ff%fe",
        "http://[::1/secret",
    ],
)
def test_no_path_leads_out_of_the_folder(port: int, path: str) -> None:
    status, body = ask(port, path)
    assert status == 404
    assert b"secret" not in body
    assert ask(port, "/a.tar")[0] == 200


def test_ranges(port: int) -> None:
    assert ask(port, "/a.tar", Range="bytes=2-4") == (206, b"\2\3\4")
    assert ask(port, "/a.tar", Range="bytes=1020-9999") == (206, b"\xfc\xfd\xfe\xff")
    assert ask(port, "/a.tar", Range="bytes=1024-")[0] == 416
    assert ask(port, "/a.tar", Range="bytes=9-2")[0] == 416
    assert ask(port, "/a.tar", Range=f"bytes={'9' * 100}-")[0] == 200


def test_a_file_that_shrinks_ends_the_answer(folder: Path) -> None:
    class Shrinking(RangeHandler):
        def send_bytes(self, path: Path, start: int, stop: int) -> None:
            path.write_bytes(b"x")
            super().send_bytes(path, start, stop)

    with serving(folder, handler=Shrinking) as url, pytest.raises(http.client.IncompleteRead):
        ask(urlsplit(url).port or 0, "/a.tar")


def test_connections_are_bounded_and_end_when_idle(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "MAX_CONNECTIONS", 2)
    monkeypatch.setattr(RangeHandler, "timeout", 0.5)
    with serving(folder) as url:
        port = urlsplit(url).port or 0
        idle = [socket.create_connection(("127.0.0.1", port), timeout=5) for _ in range(2)]
        assert ask(port, "/a.tar")[0] == 503
        for connection in idle:
            assert connection.recv(1) == b""  # closed by the server
            connection.close()
        assert ask(port, "/a.tar")[0] == 200


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["serve", "SET", "--port", "99999"], "port must be from 0 to 65535, got 99999"),
        (["serve", "SET", "--port", "-1"], "port must be from 0 to 65535, got -1"),
        (["serve", "SET", "--host", "192.0.2.1"], "192.0.2.1:8000: cannot listen there"),
        (["bench", "SET", "--step-ms", "0"], "step time in ms must be above 0, got 0"),
        (["bench", "SET", "--step-ms", "nan"], "step time in ms must be above 0, got nan"),
        (["bench", "SET", "--seconds", "0"], "seconds must be above 0, got 0"),
        (["bench", "SET", "--batch-size", "0"], "batch size"),
        (["copy", "SET", "elsewhere", "--workers", "0"], "copy needs 1 or more workers, got 0"),
        (["verify", "SET", "--workers", "0"], "workers"),
        (["index", "http://127.0.0.1:9/set"], "a web server neither lists its files"),
    ],
)
def test_arguments_that_cannot_be_are_one_line(
    altered: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert run_command(main, [str(altered) if a == "SET" else a for a in arguments]) in (1, 2)
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert "defect" not in error
