"""Writing tars: ours with hash and index columns, against webdataset's TarWriter alone.

    python benchmarks/shards/writer.py --folder /dev/shm

One process each, five rounds in turn, medians.
"""

import argparse
import io
import json
import statistics
import time
from pathlib import Path

import crc32c
import numpy as np
import webdataset

from shards.pack.tar import TarWriter, npy_header

SHAPES = {"cube": ((1, 32, 128, 128), 512), "patch": ((1, 256, 256), 4096)}
IDENTITY = json.dumps({"synapse_id": 1, "neuron_id": 2, "text": "x" * 300}).encode()


def ours(path: Path, images: np.ndarray) -> None:
    """Write tar, SHA-256, offsets and checksums."""
    npy, places = npy_header(images.shape[1:], "uint8"), []
    with path.open("wb") as file:
        writer = TarWriter(file)
        for number, image in enumerate(images):
            key, voxels = f"s{number:08d}", image.reshape(-1)
            members = [
                (f"{key}.image.npy", (npy, voxels.data)),
                (f"{key}.cls", (b"1",)),
                (f"{key}.json", (IDENTITY,)),
            ]
            start = writer.add(members)[0]
            places.append((start + len(npy), voxels.nbytes, crc32c.crc32c(voxels)))
        writer.close()


def theirs(path: Path, images: np.ndarray) -> None:
    """Write the tar alone."""
    with path.open("wb") as file, webdataset.TarWriter(file, encoder=False, mtime=0) as writer:
        for number, image in enumerate(images):
            npy = io.BytesIO()
            np.save(npy, image)
            members = {"image.npy": npy.getvalue(), "cls": b"1", "json": IDENTITY}
            writer.write({"__key__": f"s{number:08d}", **members})


def main() -> None:
    """Run the benchmark and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm"))
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    path = args.folder / "synshards-writer.tar"
    for kind, (shape, count) in SHAPES.items():
        images = np.random.default_rng(0).integers(0, 256, (count, *shape), dtype=np.uint8)
        rates: dict[str, list[float]] = {"ours": [], "theirs": []}
        for _ in range(args.rounds):
            for name, write in (("theirs", theirs), ("ours", ours)):
                start = time.perf_counter()
                write(path, images)
                rates[name].append(images.nbytes / (time.perf_counter() - start) / 1e9)
        path.unlink()
        medians = {name: statistics.median(values) for name, values in rates.items()}
        print(
            f"{kind}: ours {medians['ours']:.2f} GB/s, webdataset.TarWriter "
            f"{medians['theirs']:.2f} GB/s, ratio {medians['ours'] / medians['theirs']:.2f}"
        )


if __name__ == "__main__":
    main()
