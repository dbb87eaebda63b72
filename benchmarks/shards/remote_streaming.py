"""Streaming over a link of limited rate and some latency, with and without failing requests.

    python benchmarks/shards/remote_streaming.py --folder runs/bench/cube/shards --scheme http|s3

nginx serves the shards on loopback behind a gate (see gate.py) that lets `--rate` bytes a second
through and answers each request `--latency` late; they are asked for as files or, signed, as S3
objects (the bucket's list is a file, too). Reads two epochs into a new cache, in windows of shards,
then again with `--failing` of the requests failing. Says each epoch's share of the link and of a
local epoch, and compares every byte.
"""

import argparse
import getpass
import hashlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shards.storage.cache_folder import CacheSpec
from shards.stream.order import OrderSpec
from shards.stream.shardset import open_shards
from shards.stream.stream import Stream

ORDER = OrderSpec(window_shards=2)
NGINX = """daemon off; user {user}; error_log stderr crit; pid {home}/pid; events {{}}
http {{ access_log off; sendfile on; keepalive_requests 100000;
  server {{ listen 127.0.0.1:{port}; root {home};
    location = /bench {{ default_type application/xml; try_files /list.xml =404; }} }} }}"""
LIST = """<?xml version="1.0" encoding="UTF-8"?>
<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>bench</Name>
<Prefix>set/</Prefix><KeyCount>{count}</KeyCount><MaxKeys>1000</MaxKeys>
<IsTruncated>false</IsTruncated>{objects}</ListBucketResult>"""
OBJECT = """<Contents><Key>set/{name}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>
<ETag>"x"</ETag><Size>{size}</Size><StorageClass>STANDARD</StorageClass></Contents>"""
KEYS = {
    "AWS_ACCESS_KEY_ID": "x",
    "AWS_SECRET_ACCESS_KEY": "x",
    "AWS_REGION": "us-east-1",
    "AWS_ALLOW_HTTP": "true",
}


@contextmanager
def running(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    """Run a process as long as the context."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def wait_for(port: int) -> None:
    """Return once somebody listens."""
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError(f"nothing listens on {port}")


@contextmanager
def served(kind: str, folder: Path) -> Iterator[tuple[int, str]]:
    """Serve a shard set; yield the port, and the URL where {port} stands for the one to ask at."""
    port = free_port()
    with tempfile.TemporaryDirectory() as home:
        (Path(home) / "bench").mkdir()
        (Path(home) / "bench" / "set").symlink_to(folder.resolve())
        files = [(path.name, path.stat().st_size) for path in sorted(folder.iterdir())]
        objects = "".join(OBJECT.format(name=name, size=size) for name, size in files)
        (Path(home) / "list.xml").write_text(LIST.format(count=len(files), objects=objects))
        conf = Path(home) / "nginx.conf"
        conf.write_text(NGINX.format(home=home, port=port, user=getpass.getuser()))
        with running(["nginx", "-c", str(conf), "-p", home]):
            wait_for(port)
            os.environ.update(KEYS)
            yield port, "s3://bench/set" if kind == "s3" else "http://127.0.0.1:{port}/bench/set"


def epochs(url: str, cache: CacheSpec | None, batch_size: int) -> tuple[list[float], str]:
    """Return seconds of two epochs and a hash of all their bytes."""
    seconds, digest = [], hashlib.sha256()
    with (
        open_shards(url, cache) as shards,
        Stream(shards, "train", batch_size=batch_size, order=ORDER, prefetch=4) as stream,
    ):
        for _ in range(2):
            start = time.perf_counter()
            for _ in range(stream.steps_per_epoch):
                digest.update(next(stream).images)
            seconds.append(time.perf_counter() - start)
    return seconds, digest.hexdigest()


def measure(args: argparse.Namespace, port: int, url: str) -> None:
    """Print the figures of both passes through the gate."""
    size = sum(path.stat().st_size for path in args.folder.glob("train*.tar"))
    local, expected = epochs(str(args.folder), None, args.batch_size)
    print(f"local: {size / local[0] / 1e6:.0f} and {size / local[1] / 1e6:.0f} MB/s")
    gate = [sys.executable, str(Path(__file__).with_name("gate.py")), str(port)]
    whole = 0.0
    for failing in (0.0, args.failing):
        command = [*gate, str(args.rate), str(args.latency), str(failing)]
        with tempfile.TemporaryDirectory() as folder, running(command) as process:
            assert process.stdout is not None
            at = process.stdout.readline().strip()
            os.environ["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{at}"
            cache = CacheSpec(folder=Path(folder), limit_bytes=2 * size)
            seconds, found = epochs(url.format(port=at), cache, args.batch_size)
        whole = whole or seconds[0]
        verdict = "right" if found == expected else "WRONG"
        print(
            f"{failing:.0%} failing: first epoch {size / seconds[0] / args.rate:.2f} of the link "
            f"({seconds[0] / whole:.2f} times the time without faults), second "
            f"{local[1] / seconds[1]:.2f} of local, bytes {verdict}"
        )


def main() -> None:
    """Run the benchmark and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path("runs/bench/cube/shards"))
    parser.add_argument("--scheme", choices=("http", "s3"), default="http")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rate", type=float, default=200e6, help="bytes a second")
    parser.add_argument("--latency", type=float, default=0.02, help="seconds a request")
    parser.add_argument("--failing", type=float, default=0.05, help="share of requests")
    args = parser.parse_args()
    with served(args.scheme, args.folder) as (port, url):
        measure(args, port, url)


if __name__ == "__main__":
    main()
