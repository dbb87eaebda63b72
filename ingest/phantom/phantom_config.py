"""The options of a phantom."""

from dataclasses import dataclass

from shards.contract.documents import document

CHUNK = (128, 128, 16)  # x, y, z
MIN_SIZE = (384, 384, 64)


@document
@dataclass(frozen=True, kw_only=True, slots=True)
class PhantomConfig:
    """The volume, its synapses, and what is wrong with them."""

    size: tuple[int, int, int] = (1664, 1408, 256)
    """voxels of 8×8×40 nm along x, y, z; multiples of 128, 128 and 16"""
    neurons: int = 60
    """presynaptic neurons, half of them excitatory"""
    synapses: int = 1020
    """of all neurons together"""
    seed: int = 42
    """of everything that is random"""
    label_noise: float = 0.0
    """the part of the neurons whose class is wrong in the cell type table"""
    contrast: float = 1.0
    """of all structure, against a noise that stays the same"""
    merges: int = 0
    """axons that have the root id of a neuron of the other class"""
    strays: int = 0
    """single synapses that have the root id of such a neuron"""

    def __post_init__(self) -> None:
        if any(n % c or n < low for n, c, low in zip(self.size, CHUNK, MIN_SIZE, strict=True)):
            raise ValueError(
                f"size must be multiples of {CHUNK} voxels (x, y, z) and at least {MIN_SIZE}, got "
                f"{tuple(self.size)}"
            )
        if not 2 <= self.neurons <= self.synapses:
            raise ValueError(
                f"a phantom needs two neurons or more and a synapse for each, got neurons "
                f"{self.neurons}, synapses {self.synapses}"
            )
        if self.seed < 0:
            raise ValueError(f"seed must be 0 or more, got {self.seed}")
        if not 0 <= self.label_noise <= 1 or not 0 < self.contrast <= 2:
            raise ValueError(
                f"label_noise must be in [0, 1] and contrast in (0, 2], got {self.label_noise} "
                f"and {self.contrast}"
            )
        if not 0 <= self.merges < self.neurons // 2 or self.strays < 0:
            raise ValueError(
                f"merges and strays must be 0 or more and leave a neuron of each class of "
                f"{self.neurons} unmerged, got merges {self.merges}, strays {self.strays}"
            )

    @property
    def size_zyx(self) -> tuple[int, int, int]:
        """Voxels along z, y, x."""
        x, y, z = self.size
        return z, y, x
