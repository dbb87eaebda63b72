"""Random bit flips in every kind of file of a shard set: noticed, harmless, or silent.

    python benchmarks/shards/bit_rot.py runs/demo/shards/cube --flips 1000

Each flip is made in a copy. Noticed: a reader refuses the set, or `verify` names a fault. Harmless:
all that readers hand out (images, labels, identity, mean) is as before. Silent: a reader hands out
something else and `verify` finds no fault.
"""

import argparse
import hashlib
import json
import shutil
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np

from shards.pack.verify import verify
from shards.stream.shardset import open_shards

KINDS = ("manifest.json", ".index.parquet", ".tar")


def content(folder: Path) -> str:
    """Return a hash of all that readers of a shard set hand out."""
    hashed = hashlib.sha256()
    with open_shards(str(folder)) as shards:
        manifest = shards.manifest
        hashed.update(repr((manifest.class_names, manifest.image, manifest.mean)).encode())
        hashed.update(repr((manifest.std, manifest.pack, list(manifest.splits))).encode())
        for split in manifest.splits:
            index = shards.index(split)
            hashed.update(json.dumps(index.table.to_pylist()).encode())
            hashed.update(repr((index.label.tolist(), index.neuron_id.tolist())).encode())
            hashed.update(shards.read_images(split, range(len(index))).tobytes())
    return hashed.hexdigest()


def outcome(folder: Path, name: str, place: int, bit: int, right: str) -> str:
    """Flip a bit of a file, read everything, flip it back; return what came of it."""
    path = folder / name
    with path.open("r+b") as file:
        file.seek(place)
        value = file.read(1)[0]
        file.seek(place)
        file.write(bytes([value ^ (1 << bit)]))
    try:
        found = content(folder)
        if found != right:
            return "silent"
        return "harmless" if not verify(str(folder)) else "noticed by verify"
    except ValueError:
        return "noticed"
    finally:
        with path.open("r+b") as file:
            file.seek(place)
            file.write(bytes([value]))


def flips(folder: Path, kind: str, count: int, rng: np.random.Generator) -> Counter[str]:
    """Return the outcomes of flips at random places of the files of one kind."""
    right, outcomes = content(folder), Counter[str]()
    names = sorted(path.name for path in folder.iterdir() if path.name.endswith(kind))
    sizes = np.array([(folder / name).stat().st_size for name in names])
    for _ in range(count):
        name = names[rng.choice(len(names), p=sizes / sizes.sum())]
        place = int(rng.integers((folder / name).stat().st_size))
        outcomes[outcome(folder, name, place, int(rng.integers(8)), right)] += 1
    return outcomes


def main() -> None:
    """Run the flips and print a line for each kind of file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("shards", type=Path)
    parser.add_argument("--flips", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=42)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(shutil.copytree(args.shards, Path(temporary) / "set"))
        for kind in KINDS:
            found = flips(folder, kind, args.flips, np.random.default_rng(args.seed))
            print(f"{kind}: " + ", ".join(f"{count} {what}" for what, count in found.items()))


if __name__ == "__main__":
    main()
