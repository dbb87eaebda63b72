"""Images that others stored as PNG, JPEG or TIFF."""

import io

import numpy as np
import numpy.typing as npt
import tifffile
from PIL import Image, UnidentifiedImageError

EXTENSIONS = ("png", "jpg", "jpeg", "tif", "tiff")
TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def decoded(data: bytes) -> npt.NDArray[np.uint8]:
    """Return a file's image: (c, y, x), or (1, z, y, x) of a TIFF with several pages; uint8."""
    try:
        if data[:4] in TIFF_STARTS:
            array = tifffile.imread(io.BytesIO(data))
            colours = array.ndim == 3 and array.shape[-1] in (3, 4)
        else:
            with Image.open(io.BytesIO(data)) as image:
                array = np.asarray(image)
            colours = array.ndim == 3
    except (UnidentifiedImageError, OSError, ValueError, tifffile.TiffFileError) as error:
        raise ValueError(f"not a readable image ({error})") from None
    if array.dtype != np.uint8 or array.ndim not in (2, 3):
        raise ValueError(
            f"an image of {array.dtype} {array.shape}; give uint8, gray or colours, or a stack of "
            "gray sections"
        )
    return np.moveaxis(array, -1, 0) if colours else array[None]
