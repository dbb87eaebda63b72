"""Draw docs/assets/phantom.png: python docs/assets/phantom_figure.py docs/assets/phantom.png."""

import sys

import numpy as np
from PIL import Image

from ingest.phantom.fields import VOXEL_NM, Gray
from ingest.phantom.make_phantom import make_scene
from ingest.phantom.phantom_config import PhantomConfig
from ingest.phantom.section import Scene, draw_section

CONFIG = PhantomConfig(size=(640, 640, 96), neurons=10, synapses=70)
STEPS = (-2, -1, 0, 1, 2, 3)
HALF, ROWS = 36, 3


def section(scene: Scene, z: int) -> Gray:
    """Return one whole section."""
    return draw_section(scene, z, scene.owners.plane(z), scene.owners.plane(z + 1))


def strips(scene: Scene, excitatory: bool) -> Gray:
    """Return rows of sections through clefts of one class."""
    is_excitatory = scene.densities.post_nm > 1.5 * scene.densities.pre_nm
    chosen = np.flatnonzero((is_excitatory == excitatory) & ~scene.synapses.at_edge)[:ROWS]
    rows = []
    for z, y, x in (scene.synapses.center_nm[chosen] / VOXEL_NM).astype(int):
        window = slice(y - HALF, y + HALF), slice(x - HALF, x + HALF)
        rows.append(np.hstack([section(scene, z + step)[window] for step in STEPS]))
    return np.vstack(rows)


def main(path: str) -> None:
    """Write the figure: a section, then excitatory synapses above inhibitory ones."""
    scene, _, _ = make_scene(CONFIG)
    right = np.vstack([strips(scene, True), np.full((8, 2 * HALF * len(STEPS)), 255, np.uint8)])
    right = np.vstack([right, strips(scene, False)])
    left = section(scene, 40)[: len(right), : len(right)]
    gap = np.full((len(right), 8), 255, np.uint8)
    image = Image.fromarray(np.hstack([left, gap, right]))
    image.quantize(16).save(path, optimize=True)


if __name__ == "__main__":
    main(sys.argv[1])
