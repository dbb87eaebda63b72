"""From the sample store to shards: zarr in, tar and index out, one Dask task a shard."""

import hashlib
import importlib.metadata
import json
import math
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
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
    MANIFEST,
    SCHEMA_VERSION,
    Manifest,
    PackNotes,
    ShardInfo,
    SplitInfo,
)
from shards.pack.assign import (
    PackOptions,
    ShardPlan,
    choose_samples,
    class_counts,
    plan_shards,
    samples_per_shard,
)
from shards.pack.folds import OVERLAP, split_by_fold
from shards.pack.statistics import Moments, moments_of
from shards.pack.tar import TarWriter, npy_header
from shards.storage.local import Storage, hash_of, open_storage, sole_writer_to
from shards.workers.tasks import Scheduler, run_tasks

NOT_CONTENT = ("files",)
READ_BYTES = 32 << 20  # of images a task holds at a time
MAX_ROWS = 10**7  # of another packing's index


@dataclass(frozen=True, kw_only=True)
class PackedShard:
    """A finished shard, and the moments of its voxels."""

    info: ShardInfo
    moments: Moments


def pack(
    dataset_dir: Path,
    view: str,
    url: str,
    options: PackOptions,
    *,
    workers: int = 2,
    scheduler: Scheduler = "threads",
) -> Manifest:
    """Write the samples of a store as a shard set at `url`.

    The same store and options give the same bytes, whatever the workers, the scheduler and the
    interruptions. Finished shards of an interrupted run are verified (by hash here, by size on an
    object store) and kept; a folder with shards of another packing is refused.
    """
    storage = open_storage(url)
    with sole_writer_to(storage):
        store = open_store(dataset_dir)
        store.array(view)
        samples, left_out = choose_samples(store.samples, options)
        if options.fold is not None:
            samples, left_out[OVERLAP] = split_by_fold(samples, options, store.dataset)
        per_shard = samples_per_shard(options, store.dataset.views[view])
        identity = _content_identity(store, view)
        plans = plan_shards(
            samples, per_shard=per_shard, seed=options.seed, content_identity=identity
        )
        _refuse_others(storage, plans)
        write = partial(pack_shard, dataset_dir, view, url, class_names=store.dataset.class_names)
        packed = _pack_all(plans, write, scheduler, workers)
        notes = PackNotes(
            **asdict(options) | {"samples_per_shard": per_shard, "left_out": left_out}
        )
        manifest = _manifest(store, view, notes, plans, packed)
        if storage.is_remote:  # where nothing can be locked
            _refuse_others(storage, plans)
            _check_ours(storage, packed)
        with storage.create(MANIFEST) as file:
            file.write(sealed_json(manifest))
        storage.discard_unfinished()
        return manifest


def pack_shard(
    dataset_dir: Path, view: str, url: str, plan: ShardPlan, class_names: tuple[str, ...]
) -> PackedShard:
    """Write one tar and then its index, unless both are there already and whole."""
    storage = open_storage(url)
    if (finished := _finished(storage, plan, class_names)) is not None:
        return finished
    store = open_store(dataset_dir)
    with storage.create(plan.name) as file:
        writer = TarWriter(file)
        places, moments = _write_samples(writer, store, view, plan.samples)
        tar_sha256 = writer.close()
    notes = IndexNotes(
        plan=plan.identity, tar_bytes=writer.offset, tar_sha256=tar_sha256, moments=moments
    )
    with storage.create(plan.index_name) as file:
        file.write(index_bytes(_index_table(plan.samples, places), notes))
    finished = _finished(storage, plan, class_names, trust_tar=True)
    assert finished is not None
    return finished


def identity_json(row: dict[str, Any]) -> bytes:
    """Return KEY.json: the identity columns and QC flags of a sample; NaN becomes null."""
    names = (*IDENTITY_COLUMNS, "qc_flags")
    values = {name: row[name] for name in names}
    plain = {
        name: None if isinstance(value, float) and math.isnan(value) else value
        for name, value in values.items()
    }
    return json.dumps(plain, separators=(",", ":"), allow_nan=False).encode()


def _write_samples(
    writer: TarWriter, store: SampleStore, view: str, samples: pa.Table
) -> tuple[list[tuple[int, int, int]], Moments]:
    """Write the members of all samples; return (offset, length, crc32c) of each one's voxels."""
    spec = store.dataset.views[view]
    npy = npy_header(spec.shape, spec.dtype)
    group = max(1, READ_BYTES // math.prod(spec.shape))
    files = store.files(view)
    places, moments = [], []
    for start in range(0, len(samples), group):
        rows = samples.slice(start, group).to_pylist()
        images = files.read([row["row"] for row in rows])
        moments.append(moments_of(images))
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
    return places, reduce(add, moments)


def _index_table(samples: pa.Table, places: list[tuple[int, int, int]]) -> pa.Table:
    offset, length, crc32c = zip(*places, strict=True)
    kept = [name for name in INDEX_COLUMNS if name in samples.column_names]
    table = samples.select(kept)
    for name, values in (("offset", offset), ("length", length), ("crc32c", crc32c)):
        table = table.append_column(name, pa.array(values, INDEX_COLUMNS[name]))
    return table.select(list(INDEX_COLUMNS))


def _finished(
    storage: Storage, plan: ShardPlan, class_names: tuple[str, ...], *, trust_tar: bool = False
) -> PackedShard | None:
    """Return the shard that this plan has written before, if it is whole.

    A tar on an object store is trusted by its size: it appeared whole, and hashing it would mean
    to fetch it; `verify` does.
    """
    data, notes = _index(storage, plan.index_name, len(plan.samples))
    if notes is None or notes.plan != plan.identity or not notes.sha256 or notes.moments is None:
        return None
    if not trust_tar and not _is_whole(storage, plan.name, notes):
        return None
    labels = plan.samples["label"].to_numpy()
    info = ShardInfo(
        name=plan.name,
        bytes=notes.tar_bytes,
        sha256=notes.tar_sha256,
        index_name=plan.index_name,
        index_sha256=hashlib.sha256(data).hexdigest(),
        num_samples=len(labels),
        class_counts=class_counts(labels, class_names),
    )
    return PackedShard(info=info, moments=notes.moments)


def _index(storage: Storage, name: str, max_rows: int) -> tuple[bytes, IndexNotes | None]:
    """Return an index file and its notes; no notes if it is missing, altered or cannot be read."""
    try:
        data = storage.read(name)
        return data, parse_index(data, where=name, max_rows=max_rows)[1]
    except (ValueError, OSError):
        return b"", None


def _is_whole(storage: Storage, name: str, notes: IndexNotes) -> bool:
    try:
        if storage.sizes([name]) != [notes.tar_bytes]:
            return False
        return storage.is_remote or hash_of(storage, name) == notes.tar_sha256
    except ValueError:
        return False


def _refuse_others(storage: Storage, plans: Sequence[ShardPlan]) -> None:
    """Refuse a folder that holds another packing, or files of somebody else's with our names."""
    planned, there = {plan.index_name: plan for plan in plans}, set(storage.names())
    cure = "give another --out, or empty this one"
    is_ours = False
    for name in sorted(name for name in there if name.endswith(INDEX)):
        plan = planned.get(name)
        _, notes = _index(storage, name, MAX_ROWS)
        if notes is not None and (plan is None or notes.plan != plan.identity):
            raise ValueError(
                f"{storage.url}/{name} belongs to another packing (other samples, seed or shard "
                f"size); {cure}"
            )
        is_ours |= notes is not None
    if MANIFEST in there and not is_ours:
        raise ValueError(f"{storage.url}/{MANIFEST} is not of this packing; {cure}")
    for plan in plans:
        if plan.name in there and plan.index_name not in there and not _begins(storage, plan):
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


def _check_ours(storage: Storage, packed: Sequence[PackedShard]) -> None:
    """Refuse to complete a set in which another packing has replaced files meanwhile."""
    infos = [shard.info for shard in packed]
    sizes = storage.sizes([info.name for info in infos])
    for info, size in zip(infos, sizes, strict=True):
        data = storage.read(info.index_name)
        if size != info.bytes or hashlib.sha256(data).hexdigest() != info.index_sha256:
            raise ValueError(
                f"{storage.url}/{info.name} was replaced by another packing meanwhile; give each "
                "its own --out, and empty this one"
            )


def _pack_all(
    plans: Sequence[ShardPlan],
    write: Callable[[ShardPlan], PackedShard],
    scheduler: Scheduler,
    workers: int,
) -> list[PackedShard]:
    """Write all shards, and return them in the order of the plans."""
    packed: dict[int, PackedShard] = {}
    tasks = run_tasks(write, plans, scheduler=scheduler, num_workers=workers)
    with progress("pack", len(plans)) as advance, closing(tasks):
        for number, shard in tasks:
            packed[number] = shard
            advance(1)
    return [packed[number] for number in range(len(plans))]


def _content_identity(store: SampleStore, view: str) -> str:
    """Return what tells this content from another: all of dataset.json but how it is checked."""
    described = {k: v for k, v in to_plain(store.dataset).items() if k not in NOT_CONTENT}
    return json.dumps([SCHEMA_VERSION, view, described], sort_keys=True, default=str)


def _manifest(
    store: SampleStore,
    view: str,
    notes: PackNotes,
    plans: Sequence[ShardPlan],
    packed: Sequence[PackedShard],
) -> Manifest:
    splits = list(dict.fromkeys(plan.split for plan in plans))
    described = "train" if "train" in splits else "all"
    moments = [
        shard.moments
        for plan, shard in zip(plans, packed, strict=True)
        if described in (plan.split, "all")
    ]
    total = reduce(add, moments)
    dataset = to_plain(store.dataset)
    return Manifest(
        schema_version=SCHEMA_VERSION,
        class_names=store.dataset.class_names,
        image=store.dataset.views[view],
        splits={split: _split_info(store, split, plans, packed) for split in splits},
        mean=total.mean,
        std=total.std,
        pack=replace(
            notes,
            mean_and_std_of=described,
            code_version=importlib.metadata.version("synshards"),
        ),
        dataset={name: dataset[name] for name in ("config", "sources", "rules", "code_version")},
    )


def _split_info(
    store: SampleStore, split: str, plans: Sequence[ShardPlan], packed: Sequence[PackedShard]
) -> SplitInfo:
    chosen = [pair for pair in zip(plans, packed, strict=True) if pair[0].split == split]
    labels = np.concatenate([plan.samples["label"].to_numpy() for plan, _ in chosen])
    neurons = np.concatenate([plan.samples["neuron_id"].to_numpy() for plan, _ in chosen])
    return SplitInfo(
        num_samples=len(labels),
        num_neurons=len(np.unique(neurons[neurons != 0])),
        class_counts=class_counts(labels, store.dataset.class_names),
        shards=tuple(shard.info for _, shard in chosen),
    )
