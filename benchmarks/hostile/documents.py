"""Job YAML, site TOML, `info` of a volume, `manifest.json`: values of some shape in some syntax.

Same meaning: the same values in another syntax and order. Edits of values: refused, or the answer
changes with them; a changed value that changes nothing was ignored, which is a silent difference.
Damage is judged by the parsers of YAML, TOML and JSON: as an edit, if they read other values.
"""

import json
import random
import tomllib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks.hostile.damage import damaged
from benchmarks.hostile.kinds import Answer, Case, Kind
from benchmarks.hostile.samples import write_job_folder, write_set, write_volume
from benchmarks.hostile.trees import edited, get, shuffled
from ingest.job.job_file import load_job
from ingest.volume.geometry import Box, int_triple
from ingest.volume.open import VolumeConfig, load_scale, open_volume
from shards.contract.schema import parse_manifest
from shards.stream.shardset import open_shards
from slurm.sites.site import load_site


class Document(Kind):
    """A document in a file; see the module."""

    path: Path
    free: tuple[str, ...] = ()  # edits that change nothing, rightly
    unread: tuple[str, ...] = ()  # keys that no answer depends on

    def tree(self) -> Any:
        """Return the base's values."""
        raise NotImplementedError

    def dumped(self, tree: Any, rng: random.Random | None) -> bytes:
        """Return a document in one of the ways to write these values."""
        raise NotImplementedError

    def parsed(self, data: bytes) -> Any:
        """Return the values in a document, by an independent parser."""
        raise NotImplementedError

    def write_base(self) -> None:
        """Write the base."""
        self.base = self.tree()
        self.path.write_bytes(self.dumped(self.base, None))

    def edit(self, rng: random.Random) -> Case:
        """Write the same otherwise, other values, or damage."""
        kind = rng.random()
        if kind < 0.3:
            self.path.write_bytes(self.dumped(shuffled(self.base, rng), rng))
            return self.same("same meaning")
        if kind < 0.65:
            name, tree, path = edited(self.base, rng)
            try:
                self.path.write_bytes(self.dumped(tree, rng))
            except (ValueError, TypeError, KeyError):
                return self.edit(rng)  # a value that the syntax has not
            name = f"{name} at {'.'.join(map(str, path))}"
            return self._changed(name, tree, path)
        name, data = damaged(self.dumped(self.base, rng), rng)
        self.path.write_bytes(data)
        try:
            tree = self.parsed(data)
        except Exception:  # noqa: BLE001 - whatever the parser refuses it with
            return Case(edit=name, is_right=lambda got: got == self.right)
        if repr(tree) == repr(self.base):
            return Case(edit=name, is_right=lambda got: got == self.right)
        return self._changed(name, tree, ())

    def _changed(self, name: str, tree: Any, path: tuple[Any, ...]) -> Case:
        allowed = self._says_the_same(tree, path) or name.startswith(self.free or ("\0",))
        allowed = allowed or any(key in self.unread for key in path)
        return Case(edit=name, is_right=lambda got: allowed or got != self.right)

    def _says_the_same(self, tree: Any, path: tuple[Any, ...]) -> bool:
        """Whether a value became its equal, or was left out or null, which asks for the default."""
        if tree == self.base:
            return True
        try:
            return bool(path) and get(tree, path) is None
        except (KeyError, IndexError, TypeError):
            return bool(path)  # left out


class JobYaml(Document):
    """The config of `python -m ingest plan`."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "job.yaml"
        super().__init__(folder)

    def tree(self) -> Any:
        return write_job_folder(self.folder)

    def dumped(self, tree: Any, rng: random.Random | None) -> bytes:
        if rng is None:
            return yaml.safe_dump(tree).encode()
        if rng.random() < 0.2:
            return json.dumps(tree).encode()
        text = yaml.safe_dump(
            tree,
            default_flow_style=rng.choice((None, True, False)),
            width=rng.choice((20, 80, 4000)),
            indent=rng.choice((2, 4)),
            allow_unicode=rng.random() < 0.5,
            explicit_start=rng.random() < 0.3,
        )
        return ("# a comment\n" * rng.randrange(2) + text).encode("utf-8", "surrogatepass")

    def parsed(self, data: bytes) -> Any:
        return yaml.safe_load(data)

    def answer(self) -> Answer:
        return load_job(self.path)


class SiteToml(Document):
    """The facts of a Slurm site."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "site.toml"
        super().__init__(folder)

    def tree(self) -> Any:
        return {
            "required": ["account"],
            "python": "py3",
            "setup": ["module load x"],
            "container": ["apptainer", "exec"],
            "max_array_size": 99,
            "gpus_per_node": 2,
            "resources": {"time": "4:00:00", "mem": "8G", "train": {"nodes": 3, "mem": "9G"}},
        }

    def dumped(self, tree: Any, rng: random.Random | None) -> bytes:
        if not isinstance(tree, dict):
            raise TypeError("TOML is a table")
        inline = rng is not None and rng.random() < 0.4
        newline = "\r\n" if rng is not None and rng.random() < 0.2 else "\n"
        tables = {} if inline else {k: v for k, v in tree.items() if isinstance(v, dict)}
        lines = [f"{_toml(k)} = {_toml(v)}" for k, v in tree.items() if k not in tables]
        for name, table in tables.items():
            lines.append(f"[{_toml(name)}] # a table")
            lines += [f"  {_toml(k)} = {_toml(v)}" for k, v in table.items()]
        return (newline.join(lines) + newline).encode()

    def parsed(self, data: bytes) -> Any:
        return tomllib.loads(data.decode())

    def answer(self) -> Answer:
        return load_site(str(self.path), python="python")


SIDE = 64  # voxels that are read of a volume along each axis: its size may be edited


class VolumeInfo(Document):
    """The `info` of a precomputed volume, read together with a box of its voxels."""

    free = ("key added", "whole")

    def __init__(self, folder: Path) -> None:
        self.path = folder / "volume" / "info"
        super().__init__(folder)

    def tree(self) -> Any:
        return write_volume(self.folder / "volume")

    def dumped(self, tree: Any, rng: random.Random | None) -> bytes:
        indent = None if rng is None else rng.choice((None, 1, 4))
        return json.dumps(tree, indent=indent, ensure_ascii=rng is None).encode()

    def parsed(self, data: bytes) -> Any:
        return json.loads(data)

    def answer(self) -> Answer:
        config = VolumeConfig(path=f"file://{self.folder / 'volume'}")
        scale = load_scale(config, 0, saved=False)
        volume = open_volume(config, 0, concurrency=1)
        try:
            bounds = scale.grid.bounds
            stop = [
                min(end, start + SIDE) for start, end in zip(bounds.start, bounds.stop, strict=True)
            ]
            return repr(scale), volume.read(Box(bounds.start, int_triple(stop))).tobytes()
        finally:
            volume.close()


class ManifestJson(Document):
    """The manifest of a shard set without a seal, as other tools write it, and all images."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "set" / "manifest.json"
        super().__init__(folder)

    def tree(self) -> Any:
        write_set(self.folder / "set")
        tree = json.loads(self.path.read_bytes())
        del tree["document_sha256"]
        return tree

    def dumped(self, tree: Any, rng: random.Random | None) -> bytes:
        indent = None if rng is None else rng.choice((None, 1, 4))
        return json.dumps(tree, indent=indent).encode()

    def parsed(self, data: bytes) -> Any:
        return json.loads(data)

    def answer(self) -> Answer:
        record = asdict(parse_manifest(self.path.read_bytes(), where="manifest"))
        with open_shards(str(self.path.parent)) as shards:
            images = {}
            for split in shards.manifest.splits:
                index = shards.index(split)
                rows = np.arange(len(index))
                images[split] = shards.read_images(split, rows).tobytes(), index.label.tobytes()
        return record, images


def _toml(value: Any) -> str:
    match value:
        case bool():
            return str(value).lower()
        case int() | float():
            return repr(value)
        case str():
            return json.dumps(value, ensure_ascii=True)
        case list():
            return f"[{', '.join(map(_toml, value))}]"
        case dict():
            return "{" + ", ".join(f"{_toml(k)} = {_toml(v)}" for k, v in value.items()) + "}"
    raise TypeError(f"TOML has no {value!r}")
