"""The CAVE token: where it is found, and to which servers it may go.

`CAVE_TOKEN`, and the file `cave-secret.json`, are for one server: the one that `CAVE_TOKEN_SERVER`
names, by default the public one. A job that names another server gets the token in the file of
that server's own name, and no other. No session of caveclient follows a redirect to another server.
"""

import ipaddress
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
from caveclient.auth import AuthClient, server_token_filename

from ingest.job.cave_config import PUBLIC_SERVER

TIMEOUT_S = (10.0, 900.0)  # to connect, and between two bytes
TOKEN_VARIABLE, SERVER_VARIABLE = "CAVE_TOKEN", "CAVE_TOKEN_SERVER"


def find_token(server: str) -> str:
    """Return the token for a server, from CAVE_TOKEN or caveclient's files; none is an error."""
    is_named = _origin(server) == _origin(os.environ.get(SERVER_VARIABLE, PUBLIC_SERVER))
    token = os.environ.get(TOKEN_VARIABLE) if is_named else None
    if token is None:
        file = None if is_named else server_token_filename(server)
        try:
            token = AuthClient(server_address=server, token_file=file).token
        except (ValueError, AttributeError):
            raise ValueError(
                "the file with the CAVE token is not JSON with a key `token`; "
                + where_token_goes(server)
            ) from None
    if not token:
        raise ValueError(f"there is no CAVE token for {server}; {where_token_goes(server)}")
    if not isinstance(token, str) or not re.fullmatch(r"[!-~]+", token.strip()):
        raise ValueError(f"what is set as CAVE token is none; {where_token_goes(server)}")
    return token.strip()


def where_token_goes(server: str) -> str:
    """Return what to do for lack of a token that the server takes."""
    start = f"get a token at {server}/auth/api/v1/create_token and put it as "
    start += '{"token": "..."} into '
    if _origin(server) == _origin(PUBLIC_SERVER):
        return (
            f"{start}~/.cloudvolume/secrets/cave-secret.json, or into the environment variable "
            + TOKEN_VARIABLE
        )
    name = urlsplit(server).netloc
    return (
        f"{start}~/.cloudvolume/secrets/{name}-cave-secret.json (cave-secret.json is for "
        f"{PUBLIC_SERVER}), or into the environment variable {TOKEN_VARIABLE} with "
        f"{SERVER_VARIABLE}={server} beside it"
    )


def check_server(address: str) -> None:
    """Refuse a server to which a token would go in the clear: not https, nor this machine."""
    parts = urlsplit(address)
    if parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(parts.hostname or "")):
        return
    raise ValueError(
        f"{address}: the CAVE token would go there unencrypted; give an address with https:// "
        "(http:// is for a server on this machine)"
    )


@contextmanager
def guarded_sessions() -> Iterator[None]:
    """Let the sessions that caveclient makes in this context stay with one server each."""
    plain = requests.Session
    # By the second name `requests.get` makes its own.
    requests.Session = requests.sessions.Session = _Session  # type: ignore[misc]
    try:
        yield
    finally:
        requests.Session = requests.sessions.Session = plain  # type: ignore[misc]


class _Session(requests.Session):
    """A session that refuses redirects to another server: headers and cookies hold the token.

    It does not wait for ever, either.
    """

    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        return super().send(request, **{**options, "timeout": options.get("timeout") or TIMEOUT_S})

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        target: str | None = super().get_redirect_target(resp)
        if target is not None and _origin(urljoin(resp.url, target)) != _origin(resp.url):
            host = urlsplit(urljoin(resp.url, target)).netloc.rpartition("@")[2]
            raise ValueError(
                f"{_origin(resp.url)}: redirects to another server, {host}, which does not get the "
                "CAVE token; correct cave.server"
            )
        return target


def _origin(address: str) -> str:
    parts = urlsplit(address)
    default = {"http": 80, "https": 443}.get(parts.scheme)
    return f"{parts.scheme}://{parts.hostname}:{parts.port or default}"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
