"""Images that exist already, one file per sample."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from shards.images.decode import read_image_file
from shards.images.gray import ImageError

Image = npt.NDArray[np.uint8]


def read_image(path: Path, shape: tuple[int, ...]) -> Image:
    """Return a file's image (c, [z], y, x); `ImageError` unless it is uint8 of that shape.

    Its first channel must not be of one value. TIFF pages are sections unless the file says that
    they are channels.
    """
    expected = shape if len(shape) == 4 else (shape[0], 1, *shape[1:])
    try:
        image = read_image_file(path, gray=shape[0] == 1)
    except FileNotFoundError:
        raise ImageError("no_file", "no such file") from None
    if image.shape != expected:
        raise ImageError("wrong_shape", f"found {image.shape} (c, z, y, x), expected {expected}")
    image = image.reshape(shape)
    if image[0].min() == image[0].max():
        raise ImageError("constant", f"all voxels are {image[0].flat[0]}")
    return image
