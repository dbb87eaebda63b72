"""From the sample store to shards: zarr in, tar and index out, one Dask task a shard."""

import importlib.metadata
import json
import math
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial, reduce
from operator import add
from pathlib import Path
from typing import Any

import crc32c
import numpy as np
import pyarrow as pa

from shards.cli.progress import progress
from shards.contract.documents import sealed_json, to_plain
from shards.contract.index import IndexNotes, index_bytes, parse_index
from shards.contract.sample_store import SampleStore, open_store
from shards.contract.schema import (
    IDENTITY_COLUMNS,
    INDEX,
    INDEX_COLUMNS,
    MANIFESTS,
    SCHEMA_VERSION,
    Manifest,
    PackNotes,
    manifest_name,
    with_names,
)
from shards.contract.statistics import Moments, moments_of
from shards.pack.assign import (
    Division,
    PackOptions,
    ShardPlan,
    choose_samples,
    plan_shards,
    samples_per_shard,
)
from shards.pack.folds import OVERLAP, divide_in_folds
from shards.pack.make_manifest import FinishedShard, make_manifest
from shards.pack.tar import TarWriter, npy_header
from shards.storage.local import Storage, hash_of, open_storage, sole_writer_to
from shards.workers.tasks import Scheduler, run_tasks

NOT_CONTENT = ("files",)
READ_BYTES = 32 << 20  # of images a task holds at a time
MAX_ROWS = 10**7  # of another packing's index


def pack(
    dataset_dir: Path,
    view: str,
    url: str,
    options: PackOptions,
    *,
    workers: int = 2,
    scheduler: Scheduler = "threads",
) -> Manifest:
    """Write the samples of a store as a shard set at `url`; of several folds return the first's.

    The same store and options give the same bytes, whatever the workers, the scheduler and the
    interruptions. Finished shards of an interrupted run are verified (by hash here, by size on an
    object store) and kept; a folder with shards of another packing is refused.
    """
    storage = open_storage(url)
    with sole_writer_to(storage):
        store = open_store(dataset_dir)
        store.array(view)
        samples, left_out = choose_samples(store.samples, options)
        if options.folds is None:
            splits = samples["split"].to_numpy(zero_copy_only=False)
            divisions = [Division(fold=None, splits=splits, listed=np.ones(len(samples), bool))]
        else:
            samples, divisions = divide_in_folds(
                samples, options.folds, options.seed, store.dataset
            )
        per_shard = samples_per_shard(options, store.dataset.views[view])
        plans = plan_shards(
            samples,
            divisions,
            per_shard=per_shard,
            seed=options.seed,
            content_identity=_content_identity(store, view),
        )
        names = [manifest_name(division.fold) for division in divisions]
        _refuse_others(storage, plans, names)
        write = partial(pack_shard, dataset_dir, view, url)
        packed = _pack_all(plans, write, scheduler, workers)
        by_division = list(zip(*packed, strict=True))
        if storage.is_remote:  # where nothing can be locked
            _refuse_others(storage, plans, names)
            _check_ours(storage, [shard for shards in packed for shard in shards])
        manifests = []
        for name, division, shards in zip(names, divisions, by_division, strict=True):
            overlapping = int((~division.listed).sum())
            notes = PackNotes(
                samples_per_shard=per_shard,
                seed=options.seed,
                unlabelled=options.unlabelled,
                exclude_flags=options.exclude_flags,
                num_folds=options.folds,
                fold=division.fold,
                left_out=left_out | ({} if division.fold is None else {OVERLAP: overlapping}),
                code_version=importlib.metadata.version("synshards"),
            )
            manifests.append(_manifest(store, view, notes, shards))
            with storage.create(name) as file:
                file.write(sealed_json(manifests[-1]))
        storage.discard_unfinished()
        return manifests[0]


def pack_shard(
    dataset_dir: Path, view: str, url: str, plan: ShardPlan
) -> tuple[FinishedShard, ...]:
    """Write one tar and then its indices, unless all are there already and whole."""
    storage = open_storage(url)
    if (finished := _finished(storage, plan)) is not None:
        return finished
    store = open_store(dataset_dir)
    with storage.create(plan.name) as file:
        writer = TarWriter(file)
        places, moments = _write_samples(writer, store, view, plan.samples)
        tar_sha256 = writer.close()
    table = _index_table(plan.samples, places)
    nothing = moments_of(np.empty((0, *store.dataset.views[view].shape), np.uint8))
    for index in plan.indices:
        rows = np.flatnonzero(index.listed)
        notes = IndexNotes(
            plan=index.identity,
            tar_bytes=writer.offset,
            tar_sha256=tar_sha256,
            moments=reduce(add, [moments[row] for row in rows], nothing),
        )
        with storage.create(index.name) as file:
            file.write(index_bytes(table.take(pa.array(rows)), notes))
    finished = _finished(storage, plan, trust_tar=True)
    assert finished is not None
    return finished


def identity_json(row: dict[str, Any]) -> bytes:
    """Return KEY.json: the identity columns and QC flags of a sample; NaN becomes null."""
    names = with_names({**IDENTITY_COLUMNS, "qc_flags": pa.string()}, row)
    values = {name: row[name] for name in names}
    plain = {
        name: None if isinstance(value, float) and math.isnan(value) else value
        for name, value in values.items()
    }
    return json.dumps(plain, separators=(",", ":"), allow_nan=False).encode()


def _write_samples(
    writer: TarWriter, store: SampleStore, view: str, samples: pa.Table
) -> tuple[list[tuple[int, int, int]], list[Moments]]:
    """Write the members of all samples; return (offset, length, crc32c) and moments of each."""
    spec = store.dataset.views[view]
    npy = npy_header(spec.shape, spec.dtype)
    group = max(1, READ_BYTES // math.prod(spec.shape))
    files = store.files(view)
    places: list[tuple[int, int, int]] = []
    moments: list[Moments] = []
    for start in range(0, len(samples), group):
        rows = samples.slice(start, group).to_pylist()
        images = files.read([row["row"] for row in rows])
        moments += [moments_of(image[None]) for image in images]
        for row, image in zip(rows, images, strict=True):
            voxels = image.reshape(-1).data
            offset = writer.add(
                [
                    (f"{row['key']}.image.npy", (npy, voxels)),
                    (f"{row['key']}.cls", (str(row["label"]).encode(),)),
                    (f"{row['key']}.json", (identity_json(row),)),
                ]
            )[0]
            places.append((offset + len(npy), len(voxels), crc32c.crc32c(image.reshape(-1))))
    return places, moments


def _index_table(samples: pa.Table, places: list[tuple[int, int, int]]) -> pa.Table:
    offset, length, crc32c = zip(*places, strict=True)
    columns = with_names(INDEX_COLUMNS, samples.column_names)
    kept = [name for name in columns if name in samples.column_names]
    table = samples.select(kept)
    for name, values in (("offset", offset), ("length", length), ("crc32c", crc32c)):
        table = table.append_column(name, pa.array(values, INDEX_COLUMNS[name]))
    return table.select(list(with_names(INDEX_COLUMNS, table.column_names)))


def _finished(
    storage: Storage, plan: ShardPlan, *, trust_tar: bool = False
) -> tuple[FinishedShard, ...] | None:
    """Return the shard that this plan has written before by each of its indices, if it is whole.

    A tar on an object store is trusted by its size: it appeared whole, and hashing it would mean
    to fetch it; `verify` does.
    """
    finished = []
    for index in plan.indices:
        data, notes = _index(storage, index.name, len(plan.samples))
        if notes is None or notes.plan != index.identity or not notes.sha256 or not notes.moments:
            return None
        listed = plan.samples.filter(pa.array(index.listed))
        finished.append(
            FinishedShard(
                split=index.split,
                name=plan.name,
                num_bytes=notes.tar_bytes,
                sha256=notes.tar_sha256,
                index_name=index.name,
                index=data,
                labels=listed["label"].to_numpy(),
                neuron_ids=listed["neuron_id"].to_numpy(),
                moments=notes.moments,
            )
        )
    tars = {(shard.num_bytes, shard.sha256) for shard in finished}
    if len(tars) > 1 or not (trust_tar or _is_whole(storage, plan.name, *tars.pop())):
        return None
    return tuple(finished)


def _index(storage: Storage, name: str, max_rows: int) -> tuple[bytes, IndexNotes | None]:
    """Return an index file and its notes; no notes if it is missing, altered or cannot be read."""
    try:
        data = storage.read(name)
        return data, parse_index(data, where=name, max_rows=max_rows)[1]
    except (ValueError, OSError):
        return b"", None


def _is_whole(storage: Storage, name: str, size: int, sha256: str) -> bool:
    try:
        if storage.sizes([name]) != [size]:
            return False
        return storage.is_remote or hash_of(storage, name) == sha256
    except ValueError:
        return False


def _refuse_others(storage: Storage, plans: Sequence[ShardPlan], manifests: list[str]) -> None:
    """Refuse a folder that holds another packing, or files of somebody else's with our names."""
    there = set(storage.names())
    planned = {index.name: index.identity for plan in plans for index in plan.indices}
    cure = "give another --out, or empty this one"
    is_ours = False
    for name in sorted(name for name in there if name.endswith(INDEX)):
        _, notes = _index(storage, name, MAX_ROWS)
        if notes is not None and notes.plan != planned.get(name):
            raise ValueError(
                f"{storage.url}/{name} belongs to another packing (other samples, seed or shard "
                f"size); {cure}"
            )
        is_ours |= notes is not None
    for name in sorted(name for name in there if MANIFESTS.fullmatch(name)):
        if not is_ours or name not in manifests:
            raise ValueError(f"{storage.url}/{name} is not of this packing; {cure}")
    for plan in plans:
        has_index = any(index.name in there for index in plan.indices)
        if plan.name in there and not has_index and not _begins(storage, plan):
            raise ValueError(f"{storage.url}/{plan.name} is not of this packing; {cure}")


def _begins(storage: Storage, plan: ShardPlan) -> bool:
    """Tell whether a tar begins with the plan's first sample: a killed packing left it."""
    name = f"{plan.samples['key'][0].as_py()}.image.npy".encode()
    start = bytearray(len(name) + 1)
    try:
        storage.read_into(plan.name, 0, memoryview(start))
    except ValueError:
        return False
    return start == name + b"\0"


def _check_ours(storage: Storage, shards: Sequence[FinishedShard]) -> None:
    """Refuse to complete a set in which another packing has replaced files meanwhile."""
    sizes = storage.sizes([shard.name for shard in shards])
    for shard, size in zip(shards, sizes, strict=True):
        if size != shard.num_bytes or storage.read(shard.index_name) != shard.index:
            raise ValueError(
                f"{storage.url}/{shard.name} was replaced by another packing meanwhile; give each "
                "its own --out, and empty this one"
            )


def _pack_all(
    plans: Sequence[ShardPlan],
    write: Callable[[ShardPlan], tuple[FinishedShard, ...]],
    scheduler: Scheduler,
    workers: int,
) -> list[tuple[FinishedShard, ...]]:
    """Write all shards, and return them in the order of the plans."""
    packed: dict[int, tuple[FinishedShard, ...]] = {}
    tasks = run_tasks(write, plans, scheduler=scheduler, num_workers=workers)
    with progress("pack", len(plans)) as advance, closing(tasks):
        for number, shards in tasks:
            packed[number] = shards
            advance(1)
    return [packed[number] for number in range(len(plans))]


def _content_identity(store: SampleStore, view: str) -> str:
    """Return what tells this content from another: all of dataset.json but how it is checked."""
    described = {k: v for k, v in to_plain(store.dataset).items() if k not in NOT_CONTENT}
    return json.dumps([SCHEMA_VERSION, view, described], sort_keys=True, default=str)


def _manifest(
    store: SampleStore, view: str, notes: PackNotes, shards: Sequence[FinishedShard]
) -> Manifest:
    dataset = to_plain(store.dataset)
    return make_manifest(
        shards,
        store.dataset.class_names,
        store.dataset.views[view],
        notes,
        {name: dataset[name] for name in ("config", "sources", "rules", "code_version")},
    )
