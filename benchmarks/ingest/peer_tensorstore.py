"""Reads cubes with tensorstore, all in flight at once; prints the seconds it took.

Run by `ingest_remote.py` and `ingest_dense.py` with a Python that has tensorstore. Standard input
is JSON: {"kvstore": url or spec, "starts_xyz": [[x, y, z], …], "size_xyz": [x, y, z]}.
"""

import json
import sys
import time

import numpy as np
import tensorstore

CACHE_BYTES = 2 << 30


def main() -> None:
    """Read all cubes once."""
    job = json.load(sys.stdin)
    volume = tensorstore.open(
        {"driver": "neuroglancer_precomputed", "kvstore": job["kvstore"], "scale_index": 0},
        context=tensorstore.Context({"cache_pool": {"total_bytes_limit": CACHE_BYTES}}),
        read=True,
        open=True,
    ).result()
    starts, size = np.array(job["starts_xyz"]), np.array(job["size_xyz"])
    began = time.perf_counter()
    pending = [
        volume[tuple(slice(a, b) for a, b in zip(start, start + size, strict=True))].read()
        for start in starts
    ]
    total = sum(int(future.result()[0, 0, 0, 0]) for future in pending)
    print(json.dumps({"seconds": time.perf_counter() - began, "checksum": total}))


if __name__ == "__main__":
    main()
