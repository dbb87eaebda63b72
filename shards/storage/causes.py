"""Causes of obstore's errors in a few words, and whether trying again is pointless."""

import re
from typing import NamedTuple

from obstore.exceptions import (
    InvalidPathError,
    NotSupportedError,
    PermissionDeniedError,
    UnauthenticatedError,
)

from shards.storage.urls import sign_in_cure

STATUS = re.compile(r"status code: (\d{3} ?[A-Za-z -]*)")
PASSING_STATUSES = ("408", "425", "429")  # of 4xx: the others stay as they are
REFUSED = (PermissionDeniedError, UnauthenticatedError)
METADATA_SERVICE = re.compile(r"169\.254\.169\.254|metadata\.google\.internal|computeMetadata")
TIMED_OUT = re.compile(r"kind: Timeout|TimedOut")
QUOTED_CAUSE = re.compile(r"(?:message|error): \"([^\"]+)\"")
OTHER_SERVER = (
    "serve it with one that does, as nginx, object stores and `python -m shards serve` do, or "
    "copy the files to this machine"
)


class Meaning(NamedTuple):
    """A pattern in an error's text, the cause that it stands for, and the cure."""

    pattern: str
    cause: str
    cure: str


# Nothing of this heals.
FINAL = (
    Meaning(
        "Range request not supported|Content-Range header not present|non-partial response",
        "the server does not answer requests for byte ranges",
        OTHER_SERVER,
    ),
    Meaning(
        "Content-Length Header missing",
        "the server does not tell the length of the file",
        OTHER_SERVER,
    ),
    Meaning(
        "status code: 416|starting offset|beyond the end|failed to (read|fill)",
        "the file there ends before the bytes that are asked for, it is truncated",
        "copy it again",
    ),
    Meaning(
        "TooManyRedirects", "the server redirects in a circle", "give the URL where the files are"
    ),
    Meaning(
        "redirect without LOCATION|PermanentRedirect|AuthorizationHeaderMalformed",
        "the bucket is in another region",
        "set AWS_REGION to the bucket's region",
    ),
    Meaning("NoSuchBucket", "there is no such bucket", "correct the URL, or AWS_ENDPOINT_URL"),
    Meaning(
        "InvalidAccessKeyId|SignatureDoesNotMatch|ExpiredToken|InvalidToken",
        "the credentials are wrong or have expired",
        "correct AWS_ACCESS_KEY_ID and its like",
    ),
)
# Nor does this, of a place that has never answered.
FINAL_AT_FIRST = (
    Meaning(
        "Name or service not known|No address associated|nodename nor servname",
        "no host of this name is known",
        "correct the URL",
    ),
    Meaning(
        "InvalidCertificate|CertificateRequired|UnknownIssuer",
        "the server's TLS certificate is not valid",
        "correct the URL, or set SSL_CERT_FILE to the certificate of the server's authority",
    ),
    Meaning(
        "InvalidContentType|InvalidMessage|HandshakeFailure|AlertReceived",
        "the server does not speak TLS there",
        "use http:// if it is to be trusted without, or its port for TLS",
    ),
)


def final_cause(error: Exception, url: str, *, answered: bool) -> str | None:
    """Return cause and cure of an error that trying again does not mend; None of others.

    `answered`: whether the place has ever answered.
    """
    text, status = str(error), status_of(error)
    for pattern, cause, cure in FINAL if answered else (*FINAL, *FINAL_AT_FIRST):
        if re.search(pattern, text):
            return f"{cause}; {cure}"
    if isinstance(error, REFUSED):
        return f"access denied ({cause_of(error)}); {sign_in_cure(url)}"
    if METADATA_SERVICE.search(text) and not answered:
        return f"no credentials for {url.partition(':')[0]} were found; {sign_in_cure(url)}"
    refused = status[:1] == "4" and status not in PASSING_STATUSES
    if refused or status == "501" or isinstance(error, (NotSupportedError, InvalidPathError)):
        return f"the server refuses the request ({cause_of(error)}); correct the URL"
    return None


def is_missing(error: Exception) -> bool:
    """Tell whether an error says that there is no such file, and not another thing of the kind."""
    status = status_of(error)
    is_file = isinstance(error, FileNotFoundError) and status in ("", "404")
    return (is_file and "NoSuchBucket" not in str(error)) or status == "410"


def status_of(error: Exception) -> str:
    """Return the HTTP status that an error is about, or nothing."""
    status = STATUS.search(str(error))
    return "" if status is None else status[1][:3]


def cause_of(error: Exception) -> str:
    """Return in a few words what an error says, without URL, timing and a server's own page."""
    text = str(error).strip()
    if (status := STATUS.search(text)) is not None:
        return status[1].strip()
    if TIMED_OUT.search(text):
        return "timed out"
    if (quoted := QUOTED_CAUSE.search(text)) is not None:
        return quoted[1]
    if "response body error" in text:
        return "the answer broke off"
    return text.partition("\n")[0].split(" - ", 1)[-1]
