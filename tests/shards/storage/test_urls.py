"""Passwords in URLs: sent to their server alone, never stored, never printed."""

import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from ingest.job.job_file import load_job
from ingest.volume.ranges.byte_ranges import Fetcher
from shards.__main__ import main as shards_main
from shards.cli.command import run_command
from shards.cli.serve import RangeHandler, serving
from shards.contract.schema import View
from shards.storage import urls
from shards.storage.patience import Patience
from shards.storage.urls import public_url, sign_in_headers, without_secrets
from shards.stream.shardset import open_shards

Packed = Callable[[View], Path]
SECRET = "s3cr%40t"


class Locked(RangeHandler):
    """Answers only to ada with her password; notes what every request carried."""

    seen: ClassVar[list[str]] = []

    def answer(self, *, with_body: bool) -> None:
        header = self.headers.get("Authorization", "")
        type(self).seen.append(header)
        if header == "Basic " + base64.b64encode(b"ada:s3cr@t").decode():
            super().answer(with_body=with_body)
        else:
            self.send_error(401)


@pytest.fixture(autouse=True)
def no_netrc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Name a netrc file that is not there; forget sign-ins afterwards."""
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setattr(urls, "_SIGN_INS", {})
    return tmp_path / "netrc"


@pytest.mark.parametrize(
    ("url", "public"),
    [
        ("https://ada:p@ss@h.org/a@b", "https://h.org/a@b"),
        ("https://token@h.org:8080/x", "https://h.org:8080/x"),
        ("precomputed://https://ada:p@h.org/em", "precomputed://https://h.org/em"),
        ("http://[::1]:80/x", "http://[::1]:80/x"),
        ("folder/a:b@c", "folder/a:b@c"),
        ("s3://bucket/a@b", "s3://bucket/a@b"),
    ],
)
def test_what_is_stored_holds_no_password(url: str, public: str) -> None:
    assert public_url(url) == public
    assert without_secrets(f"no answer from {url} yet") == f"no answer from {public} yet"


@pytest.mark.parametrize("url", ["https://ada:s3/cret@h.org/x", "s3://AKIA:s3cret@bucket/x"])
def test_a_url_that_cannot_be_used_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(ValueError, match=r"write / as %2F|holds no credentials") as caught:
        public_url(url)
    assert "cret" not in str(caught.value)


def test_a_password_goes_to_its_own_server_alone() -> None:
    public_url("https://ada:p@h.org/x")
    assert "Authorization" in sign_in_headers("https://h.org:443/y")
    for other in ("http://h.org/x", "https://h.org:444/x", "https://g.org/x", "s3://h.org/x"):
        assert sign_in_headers(other) == {}


def test_a_locked_server_is_read_and_nothing_printed(
    packed: Packed, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(packed("cube"), handler=Locked) as url:
        secret = url.replace("://", f"://ada:{SECRET}@")
        assert run_command(shards_main, ["inspect", secret]) == 0
        assert run_command(shards_main, ["inspect", f"{secret}/elsewhere"]) == 1
        assert run_command(shards_main, ["verify", secret.replace("ada", "eve")]) == 1
    printed = "".join(capsys.readouterr())
    assert "s3cr" not in printed
    assert "access denied" in printed
    assert "~/.netrc" in printed


def test_netrc_signs_in(packed: Packed, no_netrc: Path) -> None:
    with serving(packed("cube"), handler=Locked) as url:
        with pytest.raises(ValueError, match="access denied"):
            open_shards(url)
        no_netrc.write_text("default login x password y\n")
        with pytest.raises(ValueError, match="access denied"):
            open_shards(url)
        no_netrc.write_text("machine 127.0.0.1 login ada password s3cr@t\n")
        open_shards(url).close()
        assert Fetcher(url, patience=Patience(total_s=1.0)).file("manifest.json") is not None
        no_netrc.write_text("machine 127.0.0.1\nlogin ada s3cr@t\n")
        with pytest.raises(ValueError, match=r"netrc, line \d+: not a netrc file") as caught:
            open_shards(url)
    assert "s3cr" not in str(caught.value)


def test_another_server_gets_no_password(packed: Packed) -> None:
    other = type("Other", (Locked,), {"seen": []})
    with serving(packed("cube"), handler=other) as elsewhere:

        class Sends(Locked):
            seen: ClassVar[list[str]] = []

            def answer(self, *, with_body: bool) -> None:
                del with_body
                type(self).seen.append(self.headers.get("Authorization", ""))
                self.send_response(302)
                self.send_header("Location", elsewhere + self.path)
                self.send_header("Content-Length", "0")
                self.end_headers()

        with serving(packed("cube"), handler=Sends) as url:
            secret = url.replace("://", f"://ada:{SECRET}@")
            with pytest.raises(ValueError, match="access denied"):
                open_shards(secret, None, Patience(total_s=1.0))
            with pytest.raises(ValueError, match="access denied"):
                Fetcher(secret, patience=Patience(total_s=1.0)).file("manifest.json")
            assert all(Sends.seen)
    assert other.seen
    assert not any(other.seen)


def test_a_job_is_stored_without_passwords(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(
        json.dumps(
            {
                "axes": "xyz",
                "volume": {"path": f"precomputed://https://ada:{SECRET}@h.org/em"},
                "synapses": {
                    "path": f"https://ada:{SECRET}@h.org/t.csv",
                    "position_resolution_nm": [4, 4, 40],
                },
                "labels": {
                    "class_names": ["i", "e"],
                    "tables": [
                        {
                            "path": f"https://ada:{SECRET}@h.org/l.csv",
                            "column": "c",
                            "classes": {"i": "i", "e": "e"},
                        }
                    ],
                },
            }
        )
    )
    assert "s3cr" not in str(load_job(tmp_path / "job.yaml"))
