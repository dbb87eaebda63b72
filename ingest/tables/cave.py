"""A job's CAVE tables as local files: asked for once, kept, and the same bytes every time.

Label tables are asked for whole, synapses by batches of the presynaptic neurons that the label
tables name. Nothing is paged: the server's order changes from answer to answer, so an answer that
was cut is thrown away and its question split, into fewer neurons or, for one neuron or a whole
table, into ranges of ids.
"""

import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ingest.job.cave_config import CaveConfig
from ingest.job.job_config import SynapseConfig
from ingest.tables.cave_client import LOG, TOLD_WAIT_S, Answer, Cave, CaveRetries, Question
from ingest.tables.identity import Source
from ingest.tables.synapse_tables import AXES
from shards.cli.progress import progress
from shards.contract.documents import read_document, write_document
from shards.storage.atomic import atomic_write, sha256_of_file
from shards.storage.locks import sole_writer
from shards.tabular.table_files import named_errors

WAIT_S = 0.2  # between looks whether another plan has ended
NUCLEUS_ID = "target_id"  # a reference table's other ids swap names between ways of asking

Item = TypeVar("Item")


class Library:
    """The cache of one materialization. `sources` describes the tables that were handed out."""

    def __init__(self, config: CaveConfig, patience: CaveRetries | None = None) -> None:
        self.config = config
        self.sources: list[Source] = []
        self._folder = cache_folder(config) / config.datastack / f"v{config.version}"
        self._patience = patience
        self._cave: Cave | None = None

    def table(self, name: str) -> Path:
        """Return the file of a whole table; of a reference table, joined to what it refers to."""
        question = Question(table=name)
        return self._file(question, lambda path: self._write_table(question, path))

    def synapses(self, synapses: SynapseConfig, roots: Sequence[int]) -> Path:
        """Return the file of the synapses whose presynaptic root is among `roots` (sorted)."""
        names = replace(synapses.columns, **synapses.columns.unnamed)
        if names.pre_root_id is None:
            raise ValueError(
                "synapses.columns.pre_root_id is null, but CAVE is asked for synapses by it; name "
                "the column"
            )
        columns = (names.synapse_id, names.pre_root_id, names.post_root_id, names.size)
        positions = (names.pre, names.ctr, names.post)
        question = Question(
            table=synapses.path,
            key=names.synapse_id,
            root_column=names.pre_root_id,
            roots=tuple(roots),
            columns=tuple(name for name in (*columns, *positions) if name is not None),
            positions_nm=synapses.position_resolution_nm,
        )
        ids = {names.synapse_id, names.pre_root_id, names.post_root_id}
        schema = _schema(question, ids, [name for name in positions if name is not None])
        return self._file(question, lambda path: self._write_synapses(question, schema, path))

    def _file(self, question: Question, write: Callable[[Path], int]) -> Path:
        """Return the file that answers `question`, written by `write` unless it is there."""
        path = self._folder / f"{question.table}.{self._digest(question)}.parquet"
        about = path.with_suffix(".json")
        if not _is_whole(path, about):
            with _turn_to_write(self._folder):
                if not _is_whole(path, about):  # nobody else has written it meanwhile
                    rows = write(path)
                    write_document(about, self._about(question, path, rows))
        self.sources.append(_entry(about))
        return path

    def _about(self, question: Question, path: Path, rows: int) -> Source:
        config = self.config
        return {
            "kind": "table",
            "path": f"cave:{config.server}/{config.datastack}/v{config.version}/{question.table}",
            "bytes": path.stat().st_size,
            "sha256": sha256_of_file(path),
            "rows": rows,
            "materialization_version": config.version,
            "materialization_time": self._open().timestamp,
            "neurons_asked_for": len(question.roots) or None,
        }

    def _digest(self, question: Question) -> str:
        what = [self.config.server, self.config.datastack, self.config.version, asdict(question)]
        return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:16]

    def _open(self) -> Cave:
        """Return the connection, made when something has to be asked."""
        if self._cave is None:
            self._cave = Cave(self.config, self._patience)
        return self._cave

    def _write_table(self, question: Question, path: Path) -> int:
        with progress(f"CAVE {question.table}", 1) as advance:
            rows = fetch(self._open().ask, question)
            advance(1, f"{len(rows)} rows")
        key = NUCLEUS_ID if NUCLEUS_ID in rows else question.key
        rows = rows.drop_duplicates().sort_values(
            list({key: 0, question.key: 0}), ignore_index=True
        )
        with atomic_write(path) as file:
            rows.to_parquet(file, index=False)
        return len(rows)

    def _write_synapses(self, question: Question, schema: pa.Schema, path: Path) -> int:
        parts = self._fetch_parts(question, schema)
        rows = 0
        with atomic_write(path) as file, pq.ParquetWriter(file, schema) as writer:
            for part in parts:
                with named_errors(str(part)):
                    table = pq.read_table(part, page_checksum_verification=True)
                rows += len(table)
                writer.write_table(table)
        for part in parts:
            part.unlink()
        return rows

    def _fetch_parts(self, question: Question, schema: pa.Schema) -> list[Path]:
        """Fetch what is missing of a question's parts; those there from before are kept."""
        size = self.config.neurons_per_query
        parts = [replace(question, roots=roots) for roots in _chunks(question.roots, size)]
        paths = [self._folder / "parts" / f"{self._digest(part)}.parquet" for part in parts]
        todo = [(part, path) for part, path in zip(parts, paths, strict=True) if not path.exists()]
        title = f"CAVE {question.table}, presynaptic neurons"
        with progress(title, len(question.roots)) as advance:
            advance(len(question.roots) - sum(len(part.roots) for part, _ in todo), "kept")
            cave = self._open() if todo else None
            pool = ThreadPoolExecutor(self.config.concurrency)
            try:
                futures = {
                    pool.submit(_fetch_part, cave, part, schema, path): len(part.roots)
                    for part, path in todo
                    if cave is not None
                }
                for future in as_completed(futures):
                    advance(futures[future], f"{future.result()} synapses in the last answer")
            finally:
                pool.shutdown(cancel_futures=True)
        return paths


def fetch(ask: Callable[[Question], Answer], question: Question) -> pd.DataFrame:
    """Return all rows that `question` asks for, splitting it wherever the server cut the answer.

    Rows that were not asked for are dropped, whatever the server made of the filters.
    """
    answer = ask(question)
    rows = _asked_for(answer.rows, question)
    if not answer.truncated:
        return rows
    return pd.concat([fetch(ask, part) for part in split(question, rows)], ignore_index=True)


def split(question: Question, rows: pd.DataFrame) -> tuple[Question, Question]:
    """Return two questions that together ask what `question` asks.

    One of several neurons is halved; else ids are, at the middle of those in the cut answer.
    """
    if len(question.roots) > 1:
        half = len(question.roots) // 2
        return (
            replace(question, roots=question.roots[:half]),
            replace(question, roots=question.roots[half:]),
        )
    key = NUCLEUS_ID if question.root_column is None and NUCLEUS_ID in rows else question.key
    ids = np.sort(rows[key].to_numpy(np.int64))
    if len(ids) == 0 or ids[0] == ids[-1]:
        raise ValueError(
            f"{question.table}: the server cuts even an answer of {len(ids)} rows of one {key}; "
            "raise cave.row_cap to the server's own, or ask its administrators"
        )
    middle = int(min(ids[len(ids) // 2], ids[-1] - 1))
    return replace(question, key=key, high=middle), replace(question, key=key, low=middle)


def _asked_for(rows: pd.DataFrame, question: Question) -> pd.DataFrame:
    keep = np.ones(len(rows), dtype=bool)
    if question.root_column is not None:
        keep &= rows[question.root_column].isin(question.roots).to_numpy()
    if question.low is not None:
        keep &= rows[question.key].to_numpy() > question.low
    if question.high is not None:
        keep &= rows[question.key].to_numpy() <= question.high
    return rows[keep]


def _fetch_part(cave: Cave, question: Question, schema: pa.Schema, path: Path) -> int:
    rows = fetch(cave.ask, question)
    if missing := [name for name in schema.names if name not in rows]:
        raise ValueError(
            f"{question.table}: no column {', '.join(missing)} among "
            f"{', '.join(map(str, rows.columns))}; name the right one in synapses.columns"
        )
    ids = [name for name in schema.names if pa.types.is_integer(schema.field(name).type)]
    if floats := [name for name in ids if pd.api.types.is_float_dtype(rows[name])]:
        raise ValueError(
            f"{question.table}: the server gives {', '.join(floats)} as floating-point numbers, "
            "which lose the last digits of ids; use the tables released as files"
        )
    rows = rows.drop_duplicates(question.key).sort_values(question.key)
    with atomic_write(path) as file:
        table = pa.Table.from_pandas(rows, schema, preserve_index=False)
        pq.write_table(table, file, write_page_checksum=True)
    return len(rows)


def _schema(question: Question, ids: set[str | None], positions: Sequence[str]) -> pa.Schema:
    """Return the columns of a synapse file, so that no answer's own types decide."""
    return pa.schema(
        [
            (part, pa.int64() if name in ids else pa.float64())
            for name in question.columns
            for part in ([f"{name}_{axis}" for axis in AXES] if name in positions else [name])
        ]
    )


def cache_folder(config: CaveConfig) -> Path:
    """Return where answers are kept: what the config says, or the user's own cache."""
    if config.cache is not None:
        return Path(config.cache)
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "synshards" / "cave"


@contextmanager
def _turn_to_write(folder: Path) -> Iterator[None]:
    """Wait until no other plan fetches into a folder of the cache, and keep others waiting."""
    said_at = time.monotonic() + TOLD_WAIT_S
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(sole_writer(folder))
                break
            except ValueError as error:
                if time.monotonic() > said_at:
                    LOG.warning("%s", str(error).replace("wait for it, or end it", "waiting"))
                    said_at = math.inf
                time.sleep(WAIT_S)
        yield


def _is_whole(path: Path, about: Path) -> bool:
    if not path.exists() or not about.exists():
        return False
    return _entry(about).get("sha256") == sha256_of_file(path)


def _entry(about: Path) -> Source:
    return read_document(Source, about, what="CAVE cache entry", cure=f"delete {about}")


def _chunks(items: Sequence[Item], size: int) -> Iterator[tuple[Item, ...]]:
    for start in range(0, len(items), size):
        yield tuple(items[start : start + size])
