"""The voxel size that a TIFF file states."""

from pathlib import Path

TIFF = (".tif", ".tiff")
NM = {"nm": 1.0, "um": 1000.0, "micron": 1000.0, "\\u00B5m": 1000.0, "µm": 1000.0}


def voxel_size_of_tiff(path: str) -> tuple[float, float, float] | None:
    """Return x, y, z in nm as ImageJ writes them to a file, None where it does not."""
    import tifffile  # slow to import

    where = Path(path.removeprefix("file://"))
    if where.suffix.lower() not in TIFF or not where.is_file():
        return None
    try:
        with tifffile.TiffFile(where) as file:
            stated = file.imagej_metadata or {}
            tag = file.pages.first.tags.get("XResolution")
    except (tifffile.TiffFileError, OSError):
        return None  # whoever reads its voxels says why it is none
    nm = NM.get(str(stated.get("unit")))
    if nm is None or tag is None or "spacing" not in stated or not tag.value[0]:
        return None
    side = round(nm * tag.value[1] / tag.value[0], 6)
    return side, side, round(nm * float(stated["spacing"]), 6)
