"""Copies a shard set from one URL to another, checked by hash, resumable, manifest last."""

from collections.abc import Iterator

from shards.progress import progress
from shards.schema import MANIFEST, Manifest
from shards.shardset import open_shards
from shards.storage import Storage, hash_of, open_storage
from shards.threads import Pool


def copy(source: str, target: str, *, workers: int = 4) -> Manifest:
    """Copy every file that the source's manifest names; the target is complete when it returns.

    Files that are already there whole (by hash here, by size on an object store) are kept. A
    source file whose hash is not the manifest's is an error, and nothing of it appears.
    """
    with open_shards(source) as shards:
        manifest = shards.manifest
    reading, writing = open_storage(source), open_storage(target)
    files = list(_files(manifest))
    there = set(writing.names())
    if MANIFEST in there and writing.read(MANIFEST) != reading.read(MANIFEST):
        raise ValueError(f"{target} holds another shard set; give another URL, or empty this one")
    try:
        with Pool(workers, "copy") as pool, progress("copy", len(files)) as advance:
            jobs = [pool.submit(_copy_file, reading, writing, file, there) for file in files]
            for job in jobs:
                job.result()
                advance(1)
    except BaseException:
        reading.close()  # no request is tried again
        writing.discard_unfinished()
        raise
    with writing.create(MANIFEST) as out:
        out.write(reading.read(MANIFEST))
    writing.discard_unfinished()
    return manifest


def _files(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Yield (name, SHA-256) of every tar and index."""
    for shard in manifest.shards():
        yield shard.name, shard.sha256
        yield shard.index_name, shard.index_sha256


def _copy_file(reading: Storage, writing: Storage, file: tuple[str, str], there: set[str]) -> None:
    name, sha256 = file
    if name in there and _is_same(reading, writing, name, sha256):
        return
    with writing.create(name) as out:
        found = hash_of(reading, name, copy_to=out)
        if found != sha256:
            raise ValueError(
                f"{reading.url}/{name} has SHA-256 {found}, its manifest says {sha256}: it was "
                "altered; pack again"
            )


def _is_same(reading: Storage, writing: Storage, name: str, sha256: str) -> bool:
    if writing.is_remote:
        return writing.sizes([name]) == reading.sizes([name])
    return hash_of(writing, name) == sha256
