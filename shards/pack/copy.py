"""Copies a shard set from one URL to another, checked by hash, resumable, manifest last."""

from collections.abc import Iterator

from shards.cli.progress import progress
from shards.contract.schema import Manifest, parse_manifest
from shards.storage.local import Storage, hash_of, open_storage, sole_writer_to
from shards.stream.shardset import read_manifest
from shards.workers.threads import Pool, result_of


def copy(source: str, target: str, *, fold: int | None = None, workers: int = 4) -> Manifest:
    """Copy every file that the source's manifest names; the target is complete when it returns.

    Files that are already there whole (by hash here, by size on an object store) are kept. A
    source file whose hash is not the manifest's is an error, and nothing of it appears. Files of
    another set are never replaced. Of a cross-validation `fold` is copied, all of its tars.
    """
    if workers < 1:
        raise ValueError(f"copy needs 1 or more workers, got {workers}")
    reading, writing = open_storage(source), open_storage(target)
    name, data = read_manifest(reading, fold)
    manifest = parse_manifest(data, where=f"{reading.url}/{name}")
    with sole_writer_to(writing):
        _copy_files(reading, writing, list(_files(manifest)), (name, data), workers)
    return manifest


def _copy_files(
    reading: Storage,
    writing: Storage,
    files: list[tuple[str, str]],
    manifest: tuple[str, bytes],
    workers: int,
) -> None:
    there, (manifest_name, data) = set(writing.names()), manifest
    if manifest_name in there and writing.read(manifest_name) != data:
        raise ValueError(
            f"{writing.url} holds another shard set; give another URL, or empty this one"
        )
    try:
        with Pool(workers, "shards-copy") as pool, progress("copy", len(files)) as advance:
            here = [file for file in files if file[0] in there]
            same = pool.map(lambda file: _is_same(reading, writing, *file), here)
            whole = {file for file, is_same in zip(here, same, strict=True) if is_same}
            if manifest_name not in there and len(whole) < len(here):
                name = next(name for name, sha256 in here if (name, sha256) not in whole)
                raise ValueError(
                    f"{writing.url}/{name} is a file of another set; give another URL, or remove it"
                )
            advance(len(whole))
            missing = [file for file in files if file not in whole]
            for job in [pool.submit(_copy_file, reading, writing, *file) for file in missing]:
                result_of(job)
                advance(1)
        with writing.create(manifest_name) as out:
            out.write(data)
    finally:
        reading.close()  # no request is tried again
        writing.discard_unfinished()


def _files(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Yield (name, SHA-256) of every tar and index."""
    for shard in manifest.shards():
        yield shard.name, shard.sha256
        yield shard.index_name, shard.index_sha256


def _copy_file(reading: Storage, writing: Storage, name: str, sha256: str) -> None:
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
