"""The compressed Morton code: the number of a cell of a grid, as precomputed volumes store it.

https://github.com/google/neuroglancer/blob/master/src/datasource/precomputed/volume.md
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def compressed_morton(
    positions: npt.NDArray[np.int64], shape: Sequence[int]
) -> npt.NDArray[np.uint64]:
    """Return the codes (n,) of positions (n, 3), z, y, x, in a grid of `shape`.

    Bits of x, y and z are interleaved, x lowest, and an axis drops out at the bit that its
    grid size no longer needs. A grid of more than 64 bits is a `ValueError`.
    """
    bits = [max(int(n) - 1, 0).bit_length() for n in shape]
    if sum(bits) > 64:
        raise ValueError(f"a grid of {tuple(shape)} chunks needs {sum(bits)} bits, more than 64")
    columns = np.asarray(positions, dtype=np.int64).astype(np.uint64).T
    codes = np.zeros(columns.shape[1], dtype=np.uint64)
    place = 0
    for bit in range(max(bits, default=0)):
        for axis in (2, 1, 0):
            if bit < bits[axis]:
                one = (columns[axis] >> np.uint64(bit)) & np.uint64(1)
                codes |= one << np.uint64(place)
                place += 1
    return codes
