"""Which of the arrays in a container is meant, where its path names none."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ingest.volume.scale import LAYERS, Layer

SHOWN = 12
SPATIAL = 3
IMAGE_BYTES = 2  # of a voxel; ids of segments take more


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """An array: its shape and type."""

    shape: Sequence[int]
    dtype: str
    itemsize: int

    def __str__(self) -> str:
        return f"{self.dtype} {'x'.join(map(str, self.shape))}"

    def could_be(self, layer: Layer) -> bool:
        """Return whether it has the dimensions and the type of such a layer."""
        is_whole = "int" in self.dtype and len(self.shape) >= SPATIAL
        return is_whole and (self.itemsize > IMAGE_BYTES) == (layer == "segmentation")


def choose_array(candidates: Mapping[str, Candidate], layer: Layer, *, where: str) -> str:
    """Return the only array, or the only one that could be such a layer.

    Else a `ValueError` that lists them.
    """
    fitting = [key for key, candidate in candidates.items() if candidate.could_be(layer)]
    spatial = [key for key, candidate in candidates.items() if len(candidate.shape) >= SPATIAL]
    if len(fitting) == 1 or len(spatial) == 1:
        return (fitting or spatial)[0]
    shown = ", ".join(f"{key} ({what})" for key, what in list(candidates.items())[:SHOWN])
    more = ", …" if len(candidates) > SHOWN else ""
    if not candidates:
        raise ValueError(f"{where}: no array was found in it; name one at the end of its path")
    raise ValueError(
        f"{where}: {len(fitting)} of its arrays could be {LAYERS[layer]}; name one at the end of "
        f"the path, as {where}/{(fitting or list(candidates))[0]}: found {shown}{more}"
    )
