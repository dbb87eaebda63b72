"""A folder of image files: what is in it, and a tree SPLIT/CLASS/FILE as a table."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
from pydantic import JsonValue

SUFFIXES = (".tif", ".tiff", ".png", ".jpg", ".jpeg")
TREE_COLUMNS = ("id", "split", "class", "file")
DEPTH = len(("SPLIT", "CLASS", "FILE"))
MAX_ID = 2**63 - 1


def tree_table(folder: str) -> pa.RecordBatch:
    """Return the images in SPLIT/CLASS/ as a table of TREE_COLUMNS, by path.

    `id` is the number that a file is named by where all are, each by its own; else its place.
    """
    root = local_folder(folder)
    files = sorted(_images_below(root))
    if not files:
        raise ValueError(f"{root}: 0 valid images; expected SPLIT/CLASS/*{' or *'.join(SUFFIXES)}")
    if outside := [path for path in files if len(path.parts) != DEPTH]:
        raise ValueError(
            f"{root}: {len(outside)} images do not lie in SPLIT/CLASS/, first {outside[0]}; move "
            "them there or elsewhere"
        )
    ids = [int(path.stem) if path.stem.isdecimal() else -1 for path in files]
    if min(ids) < 0 or max(ids) > MAX_ID or len(set(ids)) < len(ids):
        ids = list(range(1, len(files) + 1))
    names = [path.as_posix() for path in files]
    columns = [ids, [p.parts[0] for p in files], [p.parts[1] for p in files], names]
    return pa.record_batch(columns, names=list(TREE_COLUMNS))


def _images_below(root: Path) -> Iterator[Path]:
    """Yield the images in a tree, from `root`; those in it itself, and hidden ones, are none."""
    for path in root.rglob("*"):
        place = path.relative_to(root)
        if len(place.parts) == 1 or any(part.startswith(".") for part in place.parts):
            continue
        if is_image(path):
            try:
                place.as_posix().encode()
            except UnicodeEncodeError:
                raise ValueError(f"{str(path)!a}: a name that is not UTF-8; rename it") from None
            yield place


def local_folder(path: str) -> Path:
    """Return a folder of images."""
    folder = Path(path.removeprefix("file://"))
    if not folder.is_dir():
        raise ValueError(f"{path}: no such folder here; correct its path, or copy the images here")
    return folder


def folder_identity(path: str) -> dict[str, JsonValue]:
    """Return number and joint sha256 of the names and sizes of all images in a folder."""
    folder = local_folder(path)
    digest, count = hashlib.sha256(), 0
    for file in sorted(file for file in folder.rglob("*") if is_image(file)):
        digest.update(f"{file.relative_to(folder).as_posix()} {file.stat().st_size}\n".encode())
        count += 1
    return {"path": path, "files": count, "sha256": digest.hexdigest()}


def is_image(path: Path) -> bool:
    """Return whether a path is named like an image."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
