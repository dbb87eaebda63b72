"""Servers that cannot be read: the true cause in one line, at once where nothing can heal."""

import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from obstore.exceptions import GenericError

from ingest.tables.remote_tables import remote_identity
from ingest.volume.ranges.byte_ranges import Fetcher
from shards.__main__ import main
from shards.cli.command import run_command
from shards.cli.serve import RangeHandler, serving
from shards.contract.schema import View
from shards.storage import object_store as remote
from shards.storage.patience import Link, Patience
from shards.stream.shardset import open_shards
from tests.servers.odd import odd

pytestmark = pytest.mark.timeout(60)
Packed = Callable[[View], Path]
SHORT = Patience(total_s=1.0, first_s=0.01, longest_s=0.1, read_timeout_s=0.5)
UNHEALED = {
    "no ranges": "the server does not answer requests for byte ranges; serve it",
    "no length": "the server does not tell the length of the file; serve it",
    "loop": "the server redirects in a circle; give the URL",
    "401": r"access denied \(401 Unauthorized\); put `machine 127.0.0.1 login",
    "403": r"access denied \(403 Forbidden\); put `machine",
    "404": "no such object",
    "410": "no such object",
    "405": r"the server refuses the request \(405 Method Not Allowed\)",
    "400": r"the server refuses the request \(400 Bad Request\)",
    "501": r"the server refuses the request \(501 Not Implemented\)",
}
PASSING = {
    "500": r"no answer within 1 s \(500 Internal Server Error\)",
    "429": r"no answer within 1 s \(429 Too Many Requests\)",
    "cut": r"no answer within 1 s \(the answer broke off\)",
    "silent": r"no answer within 1 s \(timed out\)",
}


@pytest.mark.parametrize("kind", UNHEALED)
@pytest.mark.parametrize("name", ["", ".tar"])
def test_what_cannot_heal_fails_at_once(packed: Packed, kind: str, name: str) -> None:
    started = time.monotonic()
    with (
        serving(packed("patch"), handler=odd(kind, name)) as url,
        pytest.raises(ValueError, match=UNHEALED[kind]),
        open_shards(url) as shards,
    ):
        shards.read_images("train", [0])
    assert time.monotonic() - started < 30


@pytest.mark.parametrize("kind", PASSING)
@pytest.mark.parametrize("name", ["", ".tar"])
def test_what_may_heal_is_given_up_with_its_cause(packed: Packed, kind: str, name: str) -> None:
    with (
        serving(packed("patch"), handler=odd(kind, name)) as url,
        pytest.raises(ValueError, match=PASSING[kind]),
        open_shards(url, None, SHORT) as shards,
    ):
        shards.read_images("train", [0])


@pytest.mark.parametrize("kind", [*UNHEALED, *PASSING])
def test_ingest_says_the_same(packed: Packed, kind: str) -> None:
    started = time.monotonic()
    with serving(packed("patch"), handler=odd(kind)) as url:
        fetcher = Fetcher(url, patience=SHORT)
        if kind in ("404", "410"):
            assert fetcher.range("manifest.json", 0, 4) is None
            return
        cause = UNHEALED["no ranges" if kind == "no length" else kind] if kind in UNHEALED else ""
        with pytest.raises(ValueError, match=cause or PASSING[kind]):
            fetcher.range("manifest.json", 0, 4)
    assert time.monotonic() - started < 30


def no_host() -> str:
    return "http://no-such-host.invalid"


def no_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return f"http://127.0.0.1:{free.getsockname()[1]}"


def test_a_port_that_nobody_serves_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match=r"within 1 s \(Connection refused\); check that the"):
        open_shards(no_port(), None, SHORT)
    assert capsys.readouterr().err == ""


def test_tls_where_there_is_none_is_said(packed: Packed) -> None:
    started = time.monotonic()
    with (
        serving(packed("patch")) as url,
        pytest.raises(ValueError, match="the server does not speak TLS there; use http://"),
    ):
        open_shards(url.replace("http:", "https:"))
    assert time.monotonic() - started < 30


@pytest.mark.parametrize(
    ("detail", "cause"),
    [
        ("dns error: Name or service not known", "no host of this name is known; correct the URL"),
        ("InvalidCertificate(Expired)", "certificate is not valid"),
        ("PUT http://169.254.169.254/latest/api/token", "no credentials for s3 .*SKIP_SIGNATURE"),
        ("<Code>PermanentRedirect</Code>", "in another region; set AWS_REGION"),
        ("NoSuchBucket", "no such bucket"),
    ],
)
def test_causes_of_places_that_no_test_can_reach(detail: str, cause: str) -> None:
    def fails() -> None:
        raise GenericError(f"Generic error: sending request\n{detail}")

    with pytest.raises(ValueError, match=cause):
        Link("s3://bucket/set").ask("manifest.json", fails)


def test_a_name_lost_in_the_middle_is_waited_for() -> None:
    """A name server that fails for a while does not end a training."""
    answers = iter([True, False, False, True])

    def call() -> None:
        if not next(answers):
            raise GenericError("Generic error\nName or service not known")

    link = Link("https://h.org", SHORT)
    link.ask("a", call)
    link.ask("a", call)
    assert list(answers) == []


def test_a_server_of_get_alone_is_read(packed: Packed) -> None:
    with serving(packed("patch"), handler=odd("no HEAD")) as url:
        with open_shards(url) as shards:
            shards.read_images("train", [0])
        size = (packed("patch") / "manifest.json").stat().st_size
        assert remote_identity(f"{url}/manifest.json")["bytes"] == size


def test_a_compressed_manifest_is_read_and_others_named(
    packed: Packed, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(packed("patch"), handler=odd("gzip", "manifest")) as url:
        open_shards(url).close()
    with (
        serving(packed("patch"), handler=odd("br", "manifest")) as url,
        pytest.raises(ValueError, match=r"manifest.json: came with Content-Encoding br"),
    ):
        open_shards(url)
    monkeypatch.setattr(remote, "MAX_WHOLE_BYTES", 1 << 20)
    with (
        serving(packed("patch"), handler=odd("bomb", "manifest")) as url,
        pytest.raises(ValueError, match=r"manifest.json: more than the 1048576 bytes"),
    ):
        open_shards(url)


def test_a_web_server_is_not_listed(packed: Packed, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(packed("patch")) as url:
        assert run_command(main, ["index", url, "--class-names", "a", "b"]) == 1
        assert run_command(main, ["copy", str(packed("patch")), url]) == 1
    assert capsys.readouterr().err.count("a web server neither lists its files nor takes") == 2


@pytest.mark.parametrize("kind", ["503", "silent"])
def test_waiting_is_said(
    packed: Packed,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    monkeypatch.setattr("shards.storage.patience.SAID_AFTER_S", 0.2)
    patience = Patience(total_s=1.0, read_timeout_s=0.7)
    with (
        serving(packed("patch"), handler=odd(kind)) as url,
        pytest.raises(ValueError, match="no answer within 1 s"),
    ):
        open_shards(url, None, patience)
    said = capsys.readouterr().err
    assert said.count("waiting for http://127.0.0.1") == 1
    assert ("503" if kind == "503" else "no answer yet") in said


def test_a_read_that_ends_early_is_told_from_a_cut_one(packed: Packed) -> None:
    with serving(packed("patch")) as url:
        size = (packed("patch") / "manifest.json").stat().st_size
        with pytest.raises(ValueError, match=r"the file there is truncated; copy it again"):
            Fetcher(url, patience=SHORT).range("manifest.json", size - 4, size + 4)


def test_an_interrupt_ends_a_wait(packed: Packed) -> None:
    with serving(packed("patch"), handler=odd("silent")) as url:
        started = time.monotonic()
        timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            open_shards(url, None, Patience(read_timeout_s=5.0))
        assert time.monotonic() - started < 4
        for thread in threading.enumerate():
            if thread.name == "shards-request":
                thread.join()


def test_a_good_server_is_read_without_a_word(
    packed: Packed, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(packed("patch"), handler=RangeHandler) as url, open_shards(url) as shards:
        shards.read_images("train", [0])
    assert capsys.readouterr().err == ""
