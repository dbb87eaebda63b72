"""The format of a volume, from what lies at its path."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from ingest.job.image_config import VolumeConfig, VolumeFormat
from ingest.volume.arrays.array_levels import MARKERS
from ingest.volume.files.image_folder import is_image
from ingest.volume.files.tiff_stack import SUFFIXES as TIFF_SUFFIXES
from ingest.volume.ranges.byte_ranges import Fetcher, local_folder

FILES: dict[VolumeFormat, tuple[str, ...]] = {
    "precomputed": ("info",),
    "zarr": (*MARKERS["zarr"], ".zattrs"),
    "n5": MARKERS["n5"],
}
HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
HDF5_SUFFIXES = (".h5", ".hdf", ".hdf5", ".he5")
PREFIX = "precomputed://"


def with_format(config: VolumeConfig) -> VolumeConfig:
    """Return a volume of which the format is known; one that is stated is checked here alone."""
    if config.format is None:
        is_stated = config.info is not None or config.reader == "cloudvolume"
        kind = "precomputed" if is_stated else detect_format(config.path)
        return replace(config, format=kind)
    folder = local_folder(config.path.removeprefix(PREFIX))
    if folder is None or config.format == "images":
        return config
    found = _format_here(folder)
    if found is not None and found != config.format:
        raise ValueError(
            f"{config.path}: it is {found}, but the job says `format: {config.format}`; write "
            f"`format: {found}` under volume, or remove format"
        )
    return config


def segmentation_of(config: VolumeConfig) -> VolumeConfig:
    """Return the segmentation of a volume, as a volume; in its voxels where it states none."""
    assert config.segmentation is not None
    kind = detect_format(config.segmentation)
    if kind in ("tiff", "images"):
        raise ValueError(
            f"{config.segmentation}: a segmentation is read from precomputed, zarr, N5 and HDF5; "
            "convert it, and correct volume.segmentation"
        )
    is_precomputed = kind == "precomputed"
    return VolumeConfig(
        path=config.segmentation,
        format=kind,
        voxel_size_nm=None if is_precomputed else config.voxel_size_nm,
        reader=config.reader if is_precomputed else "ranged",
    )


def detect_format(path: str) -> VolumeFormat:
    """Return the format of what is at a path or URL; a `ValueError` says what is there instead."""
    if path.startswith(PREFIX):
        return "precomputed"
    folder = local_folder(path)
    if folder is None:
        return _format_there(path)
    if (found := _format_here(folder)) is not None:
        return found
    if not folder.exists():
        raise ValueError(f"{path}: no volume there, no such file or folder; correct its path")
    images = [file for file in folder.iterdir() if is_image(file)] if folder.is_dir() else []
    if images:
        raise ValueError(
            f"{path}: a folder of {len(images)} images; write `format: tiff` under volume if they "
            "are sections of one stack, `format: images` if each is a sample"
        )
    raise ValueError(
        f"{path}: no volume there that is known: {_expected(FILES)}, an HDF5 or TIFF file, or a "
        "folder of TIFF sections is; correct its path, or write its `format` under volume"
    )


def _format_here(path: Path) -> VolumeFormat | None:
    """Return the format of a file or folder, None where its name and files do not tell."""
    if path.is_dir():
        for kind, names in FILES.items():
            if any((path / name).is_file() for name in names):
                return kind
        return None
    file = next((part for part in (path, *path.parents) if part.is_file()), None)
    if file is None:
        return None
    with file.open("rb") as data:
        if data.read(len(HDF5_MAGIC)) == HDF5_MAGIC or file.suffix.lower() in HDF5_SUFFIXES:
            return "hdf5"
    return "tiff" if file.suffix.lower() in TIFF_SUFFIXES and file == path else None


def _format_there(url: str) -> VolumeFormat:
    """Return the format of what is at a URL, by asking for the files that tell."""
    suffixes = {part[part.rfind(".") :].lower() for part in url.split("/")[3:] if "." in part}
    for name, endings in (("HDF5", HDF5_SUFFIXES), ("TIFF", TIFF_SUFFIXES)):
        if suffixes.intersection(endings):
            raise ValueError(
                f"{url}: {name} is read from files of this machine; copy it here, or convert it to "
                "OME-Zarr, which is read from where it is"
            )
    fetcher = Fetcher(url)
    for kind in sorted(FILES, key=lambda kind: f".{kind}" not in suffixes):
        if any(fetcher.file(name) is not None for name in FILES[kind]):
            return kind
    raise ValueError(f"{url}: no volume there ({_expected(FILES)} is); correct its path")


def _expected(files: Iterable[VolumeFormat]) -> str:
    return ", ".join(f"{kind} ({' or '.join(FILES[kind])})" for kind in files)
