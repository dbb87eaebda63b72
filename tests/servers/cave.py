"""A stand-in for CAVE: an HTTP server that a real `CAVEclient` accepts, with faults on demand.

It answers what reading tables needs, as the public servers do, their traps included: an answer
over the row cap is cut and says so only in a `Warning` header, rows come in another order every
time, `filter_out_dict` is ignored, a reference table's own `id` comes back as `id_ref`, and every
call on a datastack wants the bearer token.
"""

import argparse
import json
import random
import re
import socket
import struct
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pandas as pd

from tests.servers.cave_tables import CaveTable, arrow_stream, finished, public_tables, query

EXAMPLE = (
    "python -m tests.servers.cave --synapses P/synapses.parquet "
    "--cell-types aibs_metamodel_celltypes_v661=P/cell_types.parquet --fault-rate 0.1"
)
Fault = Literal["429", "500", "502", "503", "reset", "truncate", "truncate_unsaid"]
Refusal = Literal["unauthorized", "forbidden", "terms", "login"]


@dataclass(frozen=True, kw_only=True)
class Version:
    """A materialization. An expired one is known but holds nothing."""

    time_stamp: datetime = datetime(2025, 1, 13, 10, 10, 1, 286229)  # noqa: DTZ001 (CAVE's way)
    expired: bool = False


@dataclass(frozen=True, kw_only=True)
class Faults:
    """What goes wrong: `rate` of the requests whose path matches, each by one of `kinds`.

    At most `limit` of them; afterwards all is well.
    """

    rate: float = 0.0
    kinds: tuple[Fault, ...] = ("429", "500", "503", "reset", "truncate")
    path: str = ".*"
    limit: int | None = None
    latency_s: float = 0.0


@dataclass(kw_only=True)
class CaveServer:
    """A server on loopback; use it as a context manager. Fields may be changed while it runs."""

    tables: Mapping[str, CaveTable]
    datastack: str = "minnie65_public"
    synapse_table: str = "synapses_pni_2"
    token: str = "0123456789abcdef0123456789abcdef"
    versions: Mapping[int, Version] = field(default_factory=lambda: {1300: Version()})
    server_version: str = "5.15.2"
    api_versions: tuple[int, ...] = (2, 3)
    row_cap: int = 500_000
    say_truncated: bool = True
    always_nm: tuple[float, float, float] | None = None  # said of every answer's positions
    refusal: Refusal = "unauthorized"
    faults: Faults = Faults()
    seed: int = 0
    host: str = "127.0.0.1"
    port: int = 0

    def __post_init__(self) -> None:
        self.requests: list[str] = []  # "METHOD path", in the order they came
        self.num_faults = 0
        self.num_truncated = 0
        self._lock = threading.Lock()
        self._random = random.Random(self.seed)
        self._orders = np.random.default_rng(self.seed)

    def __enter__(self) -> Self:
        handler = type("Handler", (_Handler,), {"cave": self})
        self._server = _Server((self.host, self.port), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def address(self) -> str:
        """The address to give a client."""
        return f"http://{self.host}:{self._server.server_address[1]}"

    def num_queries(self, table: str | None = None) -> int:
        """How many queries came; for one simple table if it is named."""
        end = "/query" if table is None else f"/table/{table}/query"
        with self._lock:
            return sum(r.startswith("POST") and r.endswith(end) for r in self.requests)

    def count(self, request: str) -> None:
        """Note a request."""
        with self._lock:
            self.requests.append(request)

    def next_fault(self, path: str) -> Fault | None:
        """Return what shall go wrong with the next request."""
        faults = self.faults
        with self._lock:
            spent = faults.limit is not None and self.num_faults >= faults.limit
            if spent or not re.search(faults.path, path) or self._random.random() >= faults.rate:
                return None
            self.num_faults += 1
            return self._random.choice(faults.kinds)

    def query(self, names: Sequence[str], body: Mapping[str, Any]) -> tuple[pd.DataFrame, bool]:
        """Return rows in a new order, at most `row_cap`, and whether that was reached."""
        rows = query(self.tables, names, body)
        limit = min(body.get("limit", self.row_cap), self.row_cap)
        start = body.get("offset", 0)
        with self._lock:
            order = self._orders.permutation(len(rows))
            self.num_truncated += len(rows) > limit
        rows = rows.iloc[order[start : start + limit]]
        return finished(rows, self.tables[names[0]], body), len(rows) == limit


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Stay silent: connections that break are part of the act."""


class _Handler(BaseHTTPRequestHandler):
    cave: CaveServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self._respond(b"")

    def do_POST(self) -> None:
        self._respond(self.rfile.read(int(self.headers.get("Content-Length", 0))))

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Print nothing."""

    def _respond(self, body: bytes) -> None:
        path = urlsplit(self.path).path
        self.cave.count(f"{self.command} {path}")
        time.sleep(self.cave.faults.latency_s)
        fault = self.cave.next_fault(path)
        if fault == "reset":
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.close_connection = True
            self.connection.close()
        elif fault is not None and fault.isdigit():
            headers = {"Retry-After": "0"} if fault == "429" else {}
            self._send_json({"message": "try later"}, int(fault), headers)
        else:
            self._cut = fault
            self._route(path, body)

    def _route(self, path: str, body: bytes) -> None:
        open_to_all = {
            "/info/version": "4.12.0",
            "/materialize/version": self.cave.server_version,
            "/materialize/api/versions": list(self.cave.api_versions),
        }
        if path in open_to_all:
            self._send_json(open_to_all[path])
        elif path == "/sticky_auth/login":
            self._send(b"<html>log in</html>", 200, {"Content-Type": "text/html"})
        elif self.headers.get("Authorization") != f"Bearer {self.cave.token}":
            self._refuse()
        elif path.startswith("/info/api/v2/datastack/full/"):
            self._datastack(path.rpartition("/")[2])
        else:
            self._materialize(path, body)

    def _refuse(self) -> None:
        """Refuse, and, as a careless server might, repeat the token that came."""
        sent = self.headers.get("Authorization", "no token")
        if self.cave.refusal == "login":
            self._send(b"", 302, {"Location": f"{self.cave.address}/sticky_auth/login"})
        elif self.cave.refusal == "terms":
            data = {"tos_form_url": f"{self.cave.address}/terms", "tos_name": "MICrONS"}
            self._send_json({"error": "missing_tos", "data": data, "sent": sent}, 403)
        else:
            status = 401 if self.cave.refusal == "unauthorized" else 403
            self._send_json({"error": "refused", "message": f"refused: {sent}"}, status)

    def _datastack(self, name: str) -> None:
        if name != self.cave.datastack:
            self._send_json({"message": f"no datastack {name}"}, 404)
            return
        volume = {"name": "minnie65_phase3", "id": 1, "display_name": "stand-in"}
        self._send_json(
            {
                "local_server": self.cave.address,
                "aligned_volume": volume,
                "synapse_table": self.cave.synapse_table,
                "segmentation_source": f"graphene://{self.cave.address}/segmentation/stand_in",
            }
        )

    def _materialize(self, path: str, body: bytes) -> None:
        base = rf"/materialize/api/v[23]/datastack/{self.cave.datastack}"
        if re.fullmatch(base + "/versions", path):
            expired = parse_qs(urlsplit(self.path).query).get("expired", ["False"]) == ["True"]
            listed = [v for v, what in self.cave.versions.items() if expired or not what.expired]
            self._send_json(listed)
        elif match := re.fullmatch(base + r"/version/(\d+)(.*)", path):
            version = self.cave.versions.get(int(match[1]))
            if version is None or (version.expired and match[2]):
                self._send_json({"message": f"version {match[1]} not found"}, 404)
            else:
                self._versioned(int(match[1]), version, match[2], body)
        else:
            self._send_json({"message": f"no route {path}"}, 404)

    def _versioned(self, number: int, version: Version, rest: str, body: bytes) -> None:
        if rest == "":
            self._send_json(
                {
                    "version": number,
                    "datastack": self.cave.datastack,
                    "time_stamp": version.time_stamp.strftime("%Y-%m-%dT%H:%M:%S.%f"),
                    "expires_on": (version.time_stamp + timedelta(days=365)).strftime(
                        "%Y-%m-%dT%H:%M:%S.%f"
                    ),
                    "valid": not version.expired,
                    "status": "EXPIRED" if version.expired else "AVAILABLE",
                }
            )
        elif rest == "/tables":
            self._send_json(sorted(self.cave.tables))
        elif match := re.fullmatch(r"(?:/table/(\w+))?/(metadata|query)", rest):
            asked = json.loads(body) if body else {}
            names = [match[1]] if match[1] else [table[0] for table in asked["tables"]]
            if unknown := [name for name in names if name not in self.cave.tables]:
                self._send_json({"message": f"no table {unknown[0]}"}, 404)
            elif match[2] == "metadata":
                self._metadata(names[0])
            else:
                self._query(names, asked)
        else:
            self._send_json({"message": f"no route {rest}"}, 404)

    def _metadata(self, name: str) -> None:
        table = self.cave.tables[name]
        x, y, z = table.resolution_nm
        self._send_json(
            {
                "table_name": name,
                "reference_table": table.reference,
                "schema_type": "stand_in",
                "voxel_resolution_x": x,
                "voxel_resolution_y": y,
                "voxel_resolution_z": z,
            }
        )

    def _query(self, names: Sequence[str], asked: Mapping[str, Any]) -> None:
        rows, cut = self.cave.query(names, asked)
        stored = self.cave.tables[names[0]].resolution_nm
        resolution = self.cave.always_nm or asked.get("desired_resolution") or stored
        headers = {
            "Content-Type": "data.arrow",
            "dataframe_resolution": ", ".join(str(float(part)) for part in resolution),
        }
        if cut and self.cave.say_truncated:
            headers["Warning"] = f'201 - "Limited query to {len(rows)} rows'
        zstd = "zstd" in self.headers.get("Accept-Encoding", "")
        self._send(arrow_stream(rows, "zstd" if zstd else None), 200, headers)

    def _send_json(
        self, value: Any, status: int = 200, headers: Mapping[str, str] | None = None
    ) -> None:
        headers = {"Content-Type": "application/json", **(headers or {})}
        self._send(json.dumps(value).encode(), status, headers)

    def _send(self, content: bytes, status: int, headers: Mapping[str, str]) -> None:
        cut = getattr(self, "_cut", None)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if cut == "truncate_unsaid":
            self.send_header("Connection", "close")
        else:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content if cut is None else content[: len(content) // 2])
        self.close_connection |= cut is not None
        self._cut = None


def main() -> None:
    """Serve tables from parquet files until interrupted."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.servers.cave",
        description=f"{__doc__}\nExample: {EXAMPLE}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--synapses", type=Path, required=True, help="parquet, CAVE's columns")
    parser.add_argument("--cell-types", nargs="+", default=[], metavar="NAME=PARQUET")
    parser.add_argument("--port", type=int, default=0, help="0: any free one, printed")
    parser.add_argument("--token", default=CaveServer.token)
    parser.add_argument("--row-cap", type=int, default=CaveServer.row_cap)
    parser.add_argument("--fault-rate", type=float, default=0.0)
    parser.add_argument("--latency-s", type=float, default=0.0)
    args = parser.parse_args()
    cells = dict(pair.split("=", 1) for pair in args.cell_types)
    tables = public_tables(
        pd.read_parquet(args.synapses), {n: pd.read_parquet(path) for n, path in cells.items()}
    )
    faults = Faults(rate=args.fault_rate, latency_s=args.latency_s)
    with CaveServer(
        tables=tables, token=args.token, row_cap=args.row_cap, faults=faults, port=args.port
    ) as server:
        print(f"{server.address} token {args.token}", flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            return


if __name__ == "__main__":
    main()
