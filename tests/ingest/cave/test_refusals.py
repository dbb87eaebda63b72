"""What CAVE or we refuse is explained, and the token is told to nobody."""

import json
import logging
import re
import socket
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pandas as pd
import pytest
import requests

from ingest.__main__ import main
from ingest.job.cave_config import CaveConfig
from ingest.job.job_config import SynapseConfig
from ingest.job.job_file import load_job
from ingest.tables.cave import Library
from ingest.tables.cave_client import END_OF_STREAM, CaveRetries
from ingest.tables.cave_token import SERVER_VARIABLE, TOKEN_VARIABLE, check_server, find_token
from shards.cli.command import run_command
from tests.ingest.cave.case import ALL_ROOTS, HASTE, SYNAPSES, TOKEN, TYPES, ask_for
from tests.servers.cave import CaveServer, Faults, _Handler


def test_the_token_is_told_to_nobody(
    server: CaveServer,
    write_job: Callable[..., Path],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    out = tmp_path / "data"
    for command in (
        ["plan", str(write_job()), "--out", str(out)],
        ["run", str(out)],
        ["finish", str(out)],
    ):
        assert run_command(main, command) == 0
    server.token = "another" * 4  # from now on ours is refused, and repeated in the refusal
    failing = [
        "plan",
        str(
            write_job(
                labels={
                    "tables": [{"source": "cave", "path": "other", "column": "c", "classes": TYPES}]
                }
            )
        ),
        "--out",
        str(tmp_path / "second"),
        "--debug",
    ]
    for refusal in ("unauthorized", "forbidden", "login"):
        server.refusal = refusal
        assert run_command(main, failing) == 1
    said = "".join(capfd.readouterr()) + caplog.text
    assert "the token was refused" in said
    assert TOKEN not in said
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(path.name == "dataset.json" for path in written)
    assert any("cache" in str(path) for path in written)
    assert [path for path in written if TOKEN.encode() in path.read_bytes()] == []
    assert list((tmp_path / "home").rglob("*cave*")) == []


def test_a_refused_token_is_explained(
    server: CaveServer, config: CaveConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, "wrong")
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    for refusal, said in [("unauthorized", "401"), ("forbidden", "403"), ("terms", "/terms")]:
        server.refusal = refusal
        with pytest.raises(ValueError, match=said) as caught:
            Library(config, HASTE).table("types")
        text = "".join(traceback.format_exception(caught.value))
        assert "cave-secret.json" in text
        assert TOKEN_VARIABLE in text


def test_no_token_says_where_it_goes(
    config: CaveConfig, server: CaveServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv(TOKEN_VARIABLE)
    with pytest.raises(ValueError, match=r"no CAVE token .*create_token .*cave-secret.json"):
        Library(config, HASTE).table("types")
    assert server.requests == []
    secret = tmp_path / "home" / ".cloudvolume" / "secrets" / "cave-secret.json"
    secret.parent.mkdir(parents=True)
    secret.write_text(TOKEN)  # the token alone, a common slip
    with pytest.raises(ValueError, match="not JSON with a key `token`") as caught:
        find_token(config.server)
    assert TOKEN not in "".join(traceback.format_exception(caught.value))
    secret.write_text(json.dumps({"token": TOKEN}))
    assert find_token(config.server) == TOKEN
    monkeypatch.setenv(TOKEN_VARIABLE, f"Bearer {TOKEN}")
    with pytest.raises(ValueError, match="is none") as caught:
        find_token(config.server)
    assert TOKEN not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "server_change", "said"),
    [
        ({"version": 661}, {}, "661 has expired; there are 943, 1300"),
        ({"version": 5}, {}, "5 is unknown; there are 943, 1300"),
        ({"datastack": "flywire"}, {}, "no datastack flywire"),
        ({}, {"server_version": "5.12.9"}, "needs 5.13.0 or newer"),
        ({}, {"api_versions": (2,)}, r"speaks API \[2\], expected 3"),
    ],
)
def test_what_is_not_there_is_said(
    server: CaveServer,
    config: CaveConfig,
    change: dict[str, object],
    server_change: dict[str, object],
    said: str,
) -> None:
    for name, value in server_change.items():
        setattr(server, name, value)
    with pytest.raises(ValueError, match=said):
        Library(replace(config, **change), HASTE).table("types")


def test_an_unknown_table_or_column_is_said(config: CaveConfig) -> None:
    with pytest.raises(ValueError, match=r"no table tipes in version 1300; it has .*types"):
        Library(config, HASTE).table("tipes")
    columns = SynapseConfig(source="cave", path="types")
    with pytest.raises(ValueError, match="types"):
        Library(config, HASTE).synapses(columns, ALL_ROOTS)


def test_falling_back_to_an_old_api_is_noticed(server: CaveServer, config: CaveConfig) -> None:
    server.faults = Faults(rate=1.0, kinds=("500",), path="api/versions", limit=2)
    assert len(pd.read_parquet(Library(config, HASTE).table("types"))) == 28
    assert not any(
        "/api/v2/datastack/minnie65_public/version/1300/query" in r for r in server.requests
    )


def test_positions_in_other_voxels_are_asked_for_and_checked(
    server: CaveServer, config: CaveConfig
) -> None:
    columns = SynapseConfig(
        source="cave", path="synapses_pni_2", position_resolution_nm=(8.0, 8.0, 40.0)
    )
    found = pd.read_parquet(Library(config, HASTE).synapses(columns, ALL_ROOTS)).set_index("id")
    truth = SYNAPSES.set_index("id").loc[found.index]
    assert (found.ctr_pt_position_x * 2 == truth.ctr_pt_position_x).all()
    assert (found.ctr_pt_position_z == truth.ctr_pt_position_z).all()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"cave": None}, "add `cave:` with datastack and version"),
        ({"labels": {"column": "ei"}}, "labels.tables must name the neurons"),
        (
            {
                "synapses": {"path": "synapses.parquet"},
                "labels": {"column": "ei"},
            },
            "no table has `source: cave`",
        ),
        (
            {"synapses": {"source": "cave", "path": "synapses_pni_2", "header": "h.csv"}},
            "remove `header`",
        ),
    ],
)
def test_a_job_that_contradicts_itself_is_refused(
    write_job: Callable[..., Path], change: dict[str, object], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        load_job(write_job(**change))


def test_a_server_of_other_voxels_is_refused(server: CaveServer, config: CaveConfig) -> None:
    server.always_nm = (8.0, 8.0, 40.0)
    with pytest.raises(ValueError, match=r"came in voxels of \[8.0, 8.0, 40.0\] nm"):
        ask_for(config, ALL_ROOTS)


def test_arrow_streams_end_as_we_expect(server: CaveServer) -> None:
    url = f"{server.address}/materialize/api/v3/datastack/minnie65_public/version/1300"
    answer = requests.post(
        f"{url}/table/types/query",
        data="{}",
        headers={"Authorization": f"Bearer {TOKEN}"},
        timeout=9,
    )
    assert answer.content.endswith(END_OF_STREAM)


def test_a_server_address_holds_no_secret() -> None:
    for server in ("https://me:secret@cave.org", "https://cave.org/?token=secret", "cave.org"):
        with pytest.raises(ValueError, match="must be an address like") as caught:
            CaveConfig(datastack="d", version=1, server=server)
        assert "secret" not in str(caught.value)


def test_a_token_goes_to_no_server_but_its_own(
    config: CaveConfig, server: CaveServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Neither the variable's nor the file's goes to the server that a stranger's job names."""
    secrets = tmp_path / "home" / ".cloudvolume" / "secrets"
    secrets.mkdir(parents=True)
    (secrets / "cave-secret.json").write_text(json.dumps({"token": TOKEN}))
    for named in ("https://global.daf-apis.com", "http://127.0.0.1:1"):
        monkeypatch.setenv(SERVER_VARIABLE, named)
        with pytest.raises(ValueError, match=r"no CAVE token for .*CAVE_TOKEN_SERVER=http"):
            Library(config, HASTE).table("types")
    assert server.requests == []
    name = server.address.partition("//")[2]
    (secrets / f"{name}-cave-secret.json").write_text(json.dumps({"token": "its own"}))
    with pytest.raises(ValueError, match="what is set as CAVE token is none"):
        find_token(server.address)
    monkeypatch.delenv(SERVER_VARIABLE)
    assert find_token("https://global.daf-apis.com/") == TOKEN


@pytest.mark.parametrize(
    "address", ["http://cave.example.org", "http://127.0.0.1.example.org", "http://10.0.0.1"]
)
def test_a_token_is_not_sent_in_the_clear(config: CaveConfig, address: str) -> None:
    with pytest.raises(ValueError, match="would go there unencrypted; give an address with https"):
        Library(replace(config, server=address), HASTE).table("types")
    for safe in ("https://cave.example.org", "http://localhost:5000", "http://[::1]:1"):
        check_server(safe)


@pytest.mark.parametrize("path", ["/info/version", "/info/api/v2/.*", "/materialize/.*"])
def test_no_session_follows_a_redirect_to_another_server(
    server: CaveServer, config: CaveConfig, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    with CaveServer(tables={}, token=TOKEN) as other:
        route = _Handler._route

        def elsewhere(handler: _Handler, found: str, body: bytes) -> None:
            if handler.cave is server and re.fullmatch(path, found):
                handler._send(b"", 307, {"Location": other.address + found})
            else:
                route(handler, found, body)

        monkeypatch.setattr(_Handler, "_route", elsewhere)
        with pytest.raises(ValueError, match=r"redirects to another server|sent the question on"):
            Library(config, HASTE).table("types")
        assert other.requests == []


def test_plans_that_share_the_cache_take_turns(server: CaveServer, config: CaveConfig) -> None:
    """Two at once, of questions that share parts; the later one finds all of it there."""
    server.faults = Faults(latency_s=0.02)
    with ThreadPoolExecutor(3) as pool:
        asked = [ALL_ROOTS, ALL_ROOTS[:14], ALL_ROOTS]
        found = list(pool.map(lambda roots: ask_for(config, roots), asked))
    pd.testing.assert_frame_equal(found[0], found[2])
    assert set(found[1].pre_pt_root_id) <= set(asked[1])
    assert len(found[1]) == SYNAPSES.pre_pt_root_id.isin(asked[1]).sum()


def test_a_server_that_does_not_exist_is_said_at_once(
    config: CaveConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SERVER_VARIABLE, "https://no-such-host.invalid")
    unknown = socket.gaierror(-2, "Name or service not known")
    monkeypatch.setattr("socket.getaddrinfo", Mock(side_effect=unknown))
    started = time.monotonic()
    with pytest.raises(ValueError, match=r"cannot be reached .*correct cave.server"):
        Library(replace(config, server="https://no-such-host.invalid"), CaveRetries()).table(
            "types"
        )
    assert time.monotonic() - started < 30


def test_a_server_that_is_down_is_said(
    config: CaveConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("ingest.tables.cave_client.TOLD_WAIT_S", 0.05)
    monkeypatch.setenv(SERVER_VARIABLE, "http://127.0.0.1:9")
    with pytest.raises(ValueError, match="no answer on the version after 4 attempts"):
        Library(
            replace(config, server="http://127.0.0.1:9"), CaveRetries(attempts=4, first_wait_s=0.05)
        ).table("types")
    assert "asking again in" in caplog.text
