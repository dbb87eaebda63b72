"""The two ways in which a precomputed volume stores chunks, each fetched for a window of boxes."""

from collections.abc import Callable
from concurrent.futures import Executor, Future, wait
from functools import partial
from typing import Any, Protocol

import numpy as np

from ingest.volume.geometry import Box, Ints
from ingest.volume.ranges.assemble import Chunk, Window
from ingest.volume.ranges.byte_ranges import Fetcher
from ingest.volume.ranges.chunk_codec import Decoder, Stored
from ingest.volume.ranges.coalesce import range_numbers
from ingest.volume.ranges.compression import COMPRESSIONS, SUFFIXES
from ingest.volume.ranges.shard_files import Minishard, VolumeShards
from ingest.volume.ranges.shard_index import Codes
from ingest.volume.scale import StoredSizes


class Source(Protocol):
    """A source of chunks."""

    def start(self, window: Window) -> None:
        """Set going whatever hands in each chunk of the window, once; return at once."""
        ...

    def stored_sizes(self, chunks: list[Chunk]) -> StoredSizes | None:
        """Return the mean size of these chunks as they are stored; None if none is."""
        ...


class ShardedSource:
    """Chunks in shard files: indices of shards, indices of minishards, ranges that hold chunks.

    Each step follows as soon as the one before has come. Indices have a pool of their own, and so
    run ahead of the data.
    """

    def __init__(
        self,
        files: VolumeShards,
        fetcher: Fetcher,
        decoder: Decoder,
        *,
        compression: str,
        index_pool: Executor,
        data_pool: Executor,
        gap: int,
    ) -> None:
        self._files, self._fetcher, self._decoder, self._gap = files, fetcher, decoder, gap
        self._compression = compression
        self._index_pool, self._data_pool = index_pool, data_pool

    def start(self, window: Window) -> None:
        """Ask for the indices of the window's shards; all else follows."""
        parts: dict[int, list[tuple[int, Ints]]] = {}
        for number, members in _by_value(self._files.sharding.minishards(window.codes)):
            parts.setdefault(self._files.shard_of(number), []).append((number, members))
        for shard, minishards in parts.items():
            self._after(self._files.shards.get(shard), self._with_shard, window, minishards)

    def stored_sizes(self, chunks: list[Chunk]) -> StoredSizes | None:
        """Return the mean size of these chunks, and of their minishards' indices."""
        codes = np.array([chunk.code for chunk in chunks], dtype=np.uint64)
        parts = _by_value(self._files.sharding.minishards(codes))
        shards = {self._files.shard_of(number) for number, _ in parts}
        wait([self._files.shards.get(shard) for shard in shards])
        indices = [self._files.minishards.get(number) for number, _ in parts]
        sizes = [np.zeros(0, dtype=np.int64)]
        for (_, members), index in zip(parts, indices, strict=True):
            found = index.result()
            places = found.find(codes[members])
            sizes.append((found.stops - found.starts)[places[places >= 0]])
        every = np.concatenate(sizes)
        if len(every) == 0:
            return None
        index_bytes = float(np.mean([index.result().num_bytes for index in indices]))
        return StoredSizes(chunk_bytes=float(every.mean()), index_bytes=index_bytes)

    def _after(
        self, future: Future[Any], then: Callable[..., None], window: Window, *arguments: Any
    ) -> None:
        """Go on with what `future` brings, in the pool for indices."""

        def ended(done: Future[Any]) -> None:
            if (error := done.exception()) is not None:
                window.fail(error)
            elif not window.cancelled:
                window.watch(self._index_pool.submit(then, done.result(), window, *arguments))

        future.add_done_callback(ended)

    def _with_shard(self, _: Any, window: Window, minishards: list[tuple[int, Ints]]) -> None:
        for number, members in minishards:
            found = self._files.minishards.get(number)
            self._after(found, self._with_minishard, window, number, members)

    def _with_minishard(self, found: Minishard, window: Window, number: int, members: Ints) -> None:
        name = self._files.name(self._files.shard_of(number))
        places = found.find(window.codes[members])
        for member in members[places < 0].tolist():
            window.fill(member, None)
        members, places = members[places >= 0], places[places >= 0]
        for _, part in _by_value(range_numbers(found.runs[places], places, self._gap)):
            at = places[part]
            spans = np.stack([found.starts[at], found.stops[at]], axis=1).tolist()
            task = self._data_pool.submit(self._read, window, name, members[part].tolist(), spans)
            window.watch(task)

    def _read(self, window: Window, name: str, members: list[int], spans: list[list[int]]) -> None:
        """Fetch one range, decode its chunks and hand them in."""
        if window.cancelled:
            return
        begin, end = spans[0][0], spans[-1][1]
        data = self._fetcher.range(name, begin, end)
        for member, (start, stop) in zip(members, spans, strict=True):
            if data is None:
                window.fill(member, None)
                continue
            image = self._decoder.persist(
                Stored(data[start - begin : stop - begin], self._compression),
                window.chunks[member].box.shape,
                partial(self._again, name, start, stop),
                what=f"{name}, bytes {start} to {stop}",
            )
            window.fill(member, image)

    def _again(self, name: str, start: int, stop: int) -> Stored | None:
        data = self._fetcher.range(name, start, stop)
        return None if data is None else Stored(data, self._compression)


class FileSource:
    """Chunks in files of their own, named by the voxels that they hold."""

    def __init__(
        self, key: str, fetcher: Fetcher, decoder: Decoder, *, data_pool: Executor
    ) -> None:
        self._key, self._fetcher, self._decoder = key, fetcher, decoder
        self._data_pool = data_pool

    def start(self, window: Window) -> None:
        """Ask for each chunk's file."""
        for number in range(len(window.chunks)):
            window.watch(self._data_pool.submit(self._read, window, number))

    def stored_sizes(self, chunks: list[Chunk]) -> StoredSizes | None:
        """Return the mean size of these chunks; the files are read."""
        files = self._data_pool.map(lambda chunk: self._file(chunk.box), chunks)
        sizes = [len(file.data) for file in files if file is not None]
        return StoredSizes(chunk_bytes=float(np.mean(sizes)), index_bytes=0.0) if sizes else None

    def _name(self, box: Box) -> str:
        spans = zip(box.start[::-1], box.stop[::-1], strict=True)
        return f"{self._key}/" + "_".join(f"{low}-{high}" for low, high in spans)

    def _read(self, window: Window, number: int) -> None:
        if window.cancelled:
            return
        box = window.chunks[number].box
        stored = self._file(box)
        if stored is None:
            window.fill(number, None)
            return
        again = partial(self._file, box)
        window.fill(number, self._decoder.persist(stored, box.shape, again, what=self._name(box)))

    def _file(self, box: Box) -> Stored | None:
        """Return a chunk's file; CloudVolume names compressed ones on a disk NAME.gz, NAME.br."""
        name = self._name(box)
        found = self._fetcher.file(name)
        if found is None and self._fetcher.is_local:
            for suffix, compression in SUFFIXES.items():
                if (compressed := self._fetcher.file(name + suffix)) is not None:
                    found = compressed[0], compression
                    break
        if found is None or len(found[0]) == 0:  # a file of no bytes: nothing is there
            return None
        data, compression = found
        if compression not in COMPRESSIONS:
            raise ValueError(
                f"{self._fetcher.url}/{name}: content encoding {compression!r} cannot be read by "
                f"byte ranges, only {', '.join(filter(None, COMPRESSIONS))}; set volume.reader to "
                "cloudvolume in the config"
            )
        return self._decoder.stored(data, compression, box.shape)


def _by_value(values: Ints | Codes) -> list[tuple[int, Ints]]:
    """Return each value of an array with the places at which it stands, both rising."""
    order = np.argsort(values, kind="stable")
    found, first = np.unique(values[order], return_index=True)
    places = np.split(order, first[1:]) if len(found) else []
    return list(zip(found.tolist(), places, strict=True))
