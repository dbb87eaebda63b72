"""URLs, and the passwords in them: sent to the server that they are for, never stored or printed.

Everything that takes a URL from outside passes it through `public_url` once. What it returns is
safe in messages and documents; the user and password are kept in memory, for requests of this
process to that server. Later processes, which know the URL from a document, find them in ~/.netrc,
or in the file that NETRC names:

    machine data.example.org login ada password analytical
"""

import base64
import netrc
import os
import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

WEB_SCHEMES = ("http", "https")
SECRET_PATTERN = re.compile(r"(?<=://)[^/?#\s]*@")  # linear in time, also over megabytes

_SIGN_INS: dict[str, tuple[str, str]] = {}  # user and password, by origin


def public_url(url: str) -> str:
    """Return `url` without user and password, which requests to its server will carry.

    Paths are returned as they are.
    """
    if "://" not in url:
        return url
    parts = _split(url)
    secret, at, _ = parts.netloc.rpartition("@")
    if not at:
        return url
    if parts.scheme not in WEB_SCHEMES:
        raise ValueError(
            f"{without_secrets(url)}: a {parts.scheme}:// URL holds no credentials; take them out "
            "and set the variables of the environment that the cloud's own tools use"
        )
    user, _, password = secret.partition(":")
    _SIGN_INS[_origin(parts)] = unquote(user), unquote(password)
    return without_secrets(url)


def without_secrets(text: str) -> str:
    """Return a text with the user and password of every URL in it taken out."""
    return SECRET_PATTERN.sub("", text)


def sign_in_headers(url: str, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the headers that sign in at the server of a public URL; none where none are known."""
    parts = _split(url)
    if parts.scheme not in WEB_SCHEMES:
        return {}
    known = _SIGN_INS.get(_origin(parts)) or _from_netrc(parts.hostname or "", environment)
    if known is None:
        return {}
    pair = base64.b64encode(":".join(known).encode()).decode()
    return {"Authorization": f"Basic {pair}"}


def sign_in_cure(url: str) -> str:
    """Return what to do when the server of a URL refuses access."""
    parts = _split(url)
    if parts.scheme in WEB_SCHEMES:
        return (
            f"put `machine {parts.hostname} login USER password PASSWORD` into ~/.netrc or the "
            "file that NETRC names, or correct what is there"
        )
    if parts.scheme == "s3":
        return (
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY of an account that may read it, or "
            "AWS_SKIP_SIGNATURE=true for a public bucket, =false for this machine's role"
        )
    if parts.scheme == "gs":
        return (
            "set GOOGLE_APPLICATION_CREDENTIALS to the key file of an account that may read it, or "
            "GOOGLE_SKIP_SIGNATURE=false to sign with this machine's account"
        )
    return "check its permissions"


def _split(url: str) -> SplitResult:
    """Return a URL's parts; one without a valid host and port is a `ValueError`."""
    try:
        parts = urlsplit(url.removeprefix("precomputed://"))
        _ = parts.port
    except ValueError:
        raise ValueError(
            f"{without_secrets(re.sub('(?<=://).*@', '@', url))}: not a URL, its port is no "
            "number or its host none; in a user or password write / as %2F, # as %23 and ? as %3F"
        ) from None
    return parts


def _origin(parts: SplitResult) -> str:
    default = {"http": 80, "https": 443}.get(parts.scheme)
    return f"{parts.scheme}://{parts.hostname}:{parts.port or default}"


def _from_netrc(host: str, environment: Mapping[str, str]) -> tuple[str, str] | None:
    """Return the user and password that the netrc file has for this very host."""
    path = Path(environment.get("NETRC") or Path.home() / ".netrc")
    try:
        entry = netrc.netrc(str(path)).hosts.get(host)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot be read ({error}); correct it or remove it") from None
    except netrc.NetrcParseError as error:
        raise ValueError(
            f"{path}, line {error.lineno}: not a netrc file; each entry is "
            "`machine HOST login USER password PASSWORD`"
        ) from None
    return None if entry is None else (entry[0], entry[2] or "")
