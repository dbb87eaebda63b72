"""One materialization of a CAVE datastack: questions asked with patience, truncation noticed.

The token comes from an environment variable or from caveclient's own files. It stays inside this
module: every message that leaves has it taken out.
"""

import logging
import random
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import pandas as pd
import pyarrow as pa
import requests
from caveclient import CAVEclient
from caveclient.base import AuthException
from packaging.version import Version
from requests.adapters import HTTPAdapter

from ingest.job.cave_config import CaveConfig
from ingest.tables.cave_token import (
    TIMEOUT_S,
    check_server,
    find_token,
    guarded_sessions,
    where_token_goes,
)

OLDEST_SERVER = Version("5.13.0")  # caveclient 8 refuses older ones, query by query
API_VERSION = 3
TOLD_WAIT_S = 5.0  # longer waits are told
UNHEALED = "Name or service not known|No address associated|CERTIFICATE_VERIFY_FAILED|WRONG_VERSION"
RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})
LONGEST_ASKED_WAIT_S = 600.0
RESOLUTION = "dataframe_resolution"
END_OF_STREAM = b"\xff\xff\xff\xff\x00\x00\x00\x00"  # how an Arrow IPC stream ends

LOG = logging.getLogger(__name__)
Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True, slots=True)
class CaveRetries:
    """The number of times a question is asked, and the waits between, doubling and jittered."""

    attempts: int = 8
    first_wait_s: float = 1.0
    longest_wait_s: float = 60.0

    def wait_s(self, attempt: int, asked_for_s: float, rng: random.Random) -> float:
        """Return how long to wait after `attempt` (from 0), at least what the server asked for."""
        longest = min(self.longest_wait_s, self.first_wait_s * 2.0**attempt)
        return max(asked_for_s, longest * rng.uniform(0.5, 1.0))


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """Rows of a table: of some roots, and with `low < key column <= high`.

    `positions_nm` is the voxel size, x, y, z, in which positions shall come.
    """

    table: str
    key: str = "id"
    root_column: str | None = None
    roots: tuple[int, ...] = ()
    low: int | None = None
    high: int | None = None
    columns: tuple[str, ...] = ()
    positions_nm: tuple[float, float, float] | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """Rows, and whether there are more that the server kept back."""

    rows: pd.DataFrame
    truncated: bool


class Cave:
    """A datastack at its pinned version. `ask` may be called from several threads."""

    def __init__(self, config: CaveConfig, patience: CaveRetries | None = None) -> None:
        self.config = config
        self._patience = CaveRetries() if patience is None else patience
        self._rng = random.Random()
        check_server(config.server)
        self._token = find_token(config.server)
        self._heard = threading.local()
        self.timestamp: str = self._patiently(self._pin, "the version")

    def ask(self, question: Question) -> Answer:
        """Return the answer to a question; an unknown table is a `ValueError`."""
        what = f"table {question.table}"
        if question.table not in self._tables:
            raise ValueError(
                f"{self._name}: no {what} in version {self.config.version}; it has "
                f"{', '.join(self._tables)}: correct the config"
            )
        return self._patiently(lambda: self._query(question), what)

    @cached_property
    def _tables(self) -> list[str]:
        version = self.config.version
        names = self._patiently(lambda: self._tables_of(version), "the list of tables")
        return sorted(names)

    def _tables_of(self, version: int) -> list[str]:
        return list(self._materialize.get_tables(version=version))

    @property
    def _name(self) -> str:
        return f"{self.config.server}: {self.config.datastack}"

    @cached_property
    def _materialize(self) -> Any:
        """The client's materialization part, its server checked, every response looked at."""
        with guarded_sessions():
            client = CAVEclient(
                self.config.datastack,
                server_address=self.config.server,
                auth_token=self._token,
                write_server_cache=False,
                max_retries=0,
            )
            check_server(client.local_server)
            materialize = client.materialize
        for scheme in ("http://", "https://"):
            materialize.session.mount(scheme, HTTPAdapter(pool_maxsize=self.config.concurrency))
        materialize.session.hooks["response"].append(self._hear)
        self._check_server(materialize)
        return materialize

    def _check_server(self, materialize: Any) -> None:
        found = materialize.server_version
        if found is None or found < OLDEST_SERVER:
            raise ValueError(
                f"{self._name}: its server is {found or 'of no known version'}, and caveclient 8 "
                f"needs {OLDEST_SERVER} or newer; ask its administrators to update it"
            )
        if materialize.api_version >= API_VERSION:
            return
        answer = materialize.session.get(
            f"{materialize.server_address}/materialize/api/versions", timeout=TIMEOUT_S
        )
        answer.raise_for_status()
        if API_VERSION not in answer.json():
            raise ValueError(
                f"{self._name}: speaks API {answer.json()}, expected {API_VERSION}; ask its "
                "administrators to update it"
            )
        raise ConnectionError("the client fell back to an older API while the server failed")

    def _pin(self) -> str:
        """Return when the pinned version was made; one that is not there is a `ValueError`."""
        version = self.config.version
        there = self._materialize.get_versions()
        if version not in there:
            known = version in self._materialize.get_versions(expired=True)
            raise ValueError(
                f"{self._name}: version {version} {'has expired' if known else 'is unknown'}; "
                f"there are {', '.join(map(str, sorted(there)))}: set cave.version to one of "
                "them, or use the tables released for this one, as minnie65_static.yaml does"
            )
        return str(self._materialize.get_version_metadata(version)["time_stamp"].isoformat())

    def _query(self, question: Question) -> Answer:
        self._heard.headers, self._heard.stream = {}, b""
        rows = self._materialize.query_table(
            question.table,
            filter_in_dict=question.root_column and {question.root_column: list(question.roots)},
            filter_greater_dict=_bound(question.key, question.low),
            filter_less_equal_dict=_bound(question.key, question.high),
            select_columns=list(question.columns) or None,
            desired_resolution=question.positions_nm and list(question.positions_nm),
            materialization_version=self.config.version,
            split_positions=True,
            metadata=False,
            merge_reference=question.root_column is None,
            log_warning=False,
        )
        headers = self._heard.headers
        warned = "Limited query to" in headers.get("Warning", "")
        self._check_resolution(headers, question)
        rows = _with_whole_numbers(rows, self._heard.stream)
        return Answer(rows, warned or len(rows) >= self.config.row_cap)

    def _check_resolution(self, headers: Mapping[str, str], question: Question) -> None:
        said = [float(part) for part in re.findall(r"[\d.]+", headers.get(RESOLUTION, ""))]
        wanted = question.positions_nm
        if said and wanted and said != list(wanted):
            raise ValueError(
                f"{self._name}: positions of {question.table} came in voxels of {said} nm, not "
                f"{wanted}; set synapses.position_resolution_nm to what the server gives"
            )

    def _hear(self, response: requests.Response, **_: Any) -> None:
        """Keep an answer's headers for the thread that asked; refuse what is no answer."""
        if response.is_redirect:
            raise self._refused("it sent the question on to a page to log in")
        self._heard.headers = response.headers
        is_arrow = response.headers.get("Content-Type") == "data.arrow"
        says_length = "Content-Length" in response.headers
        if is_arrow and not says_length and not response.content.endswith(END_OF_STREAM):
            raise ConnectionError("the answer ends before its end")
        if is_arrow:
            self._heard.stream = response.content

    def _patiently(self, call: Callable[[], Result], what: str) -> Result:
        """Return what `call` returns, asking again after answers that were cut, late or busy."""
        reason, told_at = "", time.monotonic() + TOLD_WAIT_S
        for attempt in range(self._patience.attempts):
            asked_for_s = 0.0
            try:
                return call()
            except requests.HTTPError as error:
                reason = self._reason(error, what)
                asked_for_s = _retry_after_s(error)
            except AuthException:
                raise self._refused("it asks to log in") from None
            except (OSError, pa.ArrowException) as error:
                reason = self._clean(f"{type(error).__name__}: {error}")
                if re.search(UNHEALED, reason):
                    raise ValueError(
                        f"{self._name}: cannot be reached ({reason}); correct cave.server"
                    ) from None
            wait_s = self._patience.wait_s(attempt, asked_for_s, self._rng)
            if time.monotonic() + wait_s > told_at:
                LOG.warning("CAVE, %s: %s; asking again in %.0f s", what, reason, wait_s)
            time.sleep(wait_s)
        raise ValueError(
            f"{self._name}: no answer on {what} after {self._patience.attempts} attempts, the "
            f"last: {reason}; try later, what has been fetched is kept"
        )

    def _reason(self, error: requests.HTTPError, what: str) -> str:
        """Return why an answer is to be asked for again; raise where that would not help."""
        response = error.response
        assert response is not None
        said = self._clean(f"{response.status_code} {_message(response)}")
        if response.status_code in (401, 403):
            raise self._refused(said) from None
        if response.status_code not in RETRIED:
            raise ValueError(
                f"{self._name}: asked for {what}, it answers {said}; correct the config's cave "
                "section"
            ) from None
        return said

    def _refused(self, said: str) -> ValueError:
        return ValueError(
            f"{self._name}: the token was refused ({said}); accept the terms of the data set "
            f"where that is asked, or {where_token_goes(self.config.server)}"
        )

    def _clean(self, text: str) -> str:
        return " ".join(text.replace(self._token, "[token]").split())[:300]


def _with_whole_numbers(rows: pd.DataFrame, stream: bytes) -> pd.DataFrame:
    """Give integers with gaps, which pandas turns into floats, back their last digits."""
    if not stream:
        return rows
    table = pa.ipc.open_stream(stream).read_all()
    gaps = {
        name: table[name].to_pandas(types_mapper=lambda _: pd.Int64Dtype()).array
        for name in table.column_names
        if pa.types.is_integer(table.schema.field(name).type) and table[name].null_count
    }
    if gaps and len(rows) != len(table):
        raise ValueError(f"{len(table)} rows came and {len(rows)} were left; update caveclient")
    return rows.assign(**{name: values for name, values in gaps.items() if name in rows})


def _bound(column: str, value: int | None) -> dict[str, int] | None:
    return None if value is None else {column: value}


def _retry_after_s(error: requests.HTTPError) -> float:
    assert error.response is not None
    value = error.response.headers.get("Retry-After", "")
    return min(float(value), LONGEST_ASKED_WAIT_S) if value.isdigit() else 0.0


def _message(response: requests.Response) -> str:
    """Return what an error's body says, with the page where terms are accepted if it names one."""
    try:
        body = response.json()
    except requests.JSONDecodeError:
        return response.text
    if not isinstance(body, dict):
        return str(body)
    parts: Sequence[Any] = (body.get("error"), body.get("message"), body.get("data"))
    return " ".join(str(part) for part in parts if part)
