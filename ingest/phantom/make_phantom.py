"""The phantom: a made-up piece of neuropil with tables, whose every synapse is known.

`OUT/em` precomputed volume, `OUT/synapses.parquet` and `OUT/cell_types.parquet` in CAVE's columns,
`OUT/truth.parquet` what each synapse is, `OUT/ingest.yaml` a job for `ingest plan`, and
`OUT/phantom.json`, written last, so that its presence means a complete phantom.
"""

import shutil
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd

from ingest.phantom import fields
from ingest.phantom.fields import Float, Gray, Points, Triple
from ingest.phantom.phantom_config import PhantomConfig
from ingest.phantom.phantom_tables import INGEST_YAML, make_tables, owners
from ingest.phantom.phantom_volume import create_volume, write_volume
from ingest.phantom.scene import Synapses, dendrites, mitochondria, place_synapses
from ingest.phantom.section import Scene, draw_section, make_textures
from ingest.phantom.segmentation import Ids, partners, segment, write_segmentation
from ingest.phantom.synapse import densities, tubules, vesicles
from shards.cli.progress import progress
from shards.contract.documents import document, read_document, write_document
from shards.storage.atomic import atomic_write

PHANTOM_VERSION = 1
OFFSET_XYZ = (1152, 640, 208)  # differs by axis, so that swapped axes show
OFFSET_ZYX = (208, 640, 1152)
Pixels = TypeVar("Pixels", Gray, Ids)
UNFINISHED = "phantom.unfinished"
MISSING_FRACTION, SHIFTED_FRACTION, MAX_SHIFT_PX = 0.008, 0.03, 7


@dataclass(frozen=True, slots=True)
class Damage:
    """Sections that were lost, wholly or in their lower half, and sections that moved."""

    missing: dict[int, float]  # section -> the part of it that is zero
    shifted: dict[int, tuple[int, int]]  # section -> pixels along y, x


@document
@dataclass(frozen=True, kw_only=True, slots=True)
class PhantomDocument:
    """`phantom.json`: what was made up, and which sections are damaged, by number."""

    version: int
    what: str = "a made-up volume; every synapse's true class is in truth.parquet"
    config: PhantomConfig
    voxel_offset_xyz: Triple
    missing_sections: dict[str, float]  # the part of a section that is zero
    shifted_sections_yx: dict[str, tuple[int, int]]  # pixels


def write_phantom(out: Path, config: PhantomConfig, *, workers: int = 2) -> None:
    """Write the phantom into the folder `out`; do nothing where it is already complete.

    The files depend on `config` alone, not on `workers`. A folder that holds another phantom, or
    files that are not a phantom's, is a `ValueError`; an unfinished phantom is begun again.
    """
    if _is_complete(out, config):
        sys.stderr.write(f"{out}: this phantom is already complete, nothing to do\n")
        return
    _prepare(out)
    scene, tables, damage = make_scene(config)
    volume = create_volume(out / "em", config.size, OFFSET_XYZ)
    draw = partial(draw_sections, scene, damage)
    with progress("phantom", config.size[2]) as advance:
        for sections in write_volume(volume, draw, workers=workers):
            advance(sections)
    for name, table in tables.items():
        with atomic_write(out / f"{name}.parquet") as file:
            table.to_parquet(file, index=False)
    with atomic_write(out / "ingest.yaml") as file:
        file.write(INGEST_YAML.encode())
    described = PhantomDocument(
        version=PHANTOM_VERSION,
        config=config,
        voxel_offset_xyz=OFFSET_XYZ,
        missing_sections={str(z): part for z, part in sorted(damage.missing.items())},
        shifted_sections_yx={str(z): yx for z, yx in sorted(damage.shifted.items())},
    )
    write_document(out / "phantom.json", described)
    (out / UNFINISHED).unlink()


def write_masks(out: Path, config: PhantomConfig) -> None:
    """Add the segmentation of a complete phantom, and a job with masks as channels, to `out`."""
    scene, tables, damage = make_scene(config)
    sides = partners(scene.synapses, tables["synapses"], OFFSET_ZYX)

    def draw(section: int) -> Ids:
        return _damaged(segment(scene.owners, sides, section), section, damage)

    write_segmentation(out, config.size, OFFSET_XYZ, draw, INGEST_YAML)


def draw_sections(scene: Scene, damage: Damage, first: int, last: int) -> Gray:
    """Return the sections from `first` to `last`, (z, y, x); safe to call from several threads."""
    below = scene.owners.plane(first)
    sections = np.empty((last - first, *below.shape), np.uint8)
    for section in range(first, last):
        above = scene.owners.plane(section + 1)
        drawn = draw_section(scene, section, below, above)
        sections[section - first] = _damaged(drawn, section, damage)
        below = above
    return sections


def _damaged(image: Pixels, section: int, damage: Damage) -> Pixels:
    """Return an image (y, x) as it came out of the microscope."""
    dy, dx = damage.shifted.get(section, (0, 0))
    if dy or dx:
        image = np.roll(image, (dy, dx), (0, 1))
        image[slice(0, dy) if dy > 0 else slice(image.shape[0] + dy, None)] = 0
        image[:, slice(0, dx) if dx > 0 else slice(image.shape[1] + dx, None)] = 0
    lost = damage.missing.get(section, 0.0)
    if lost:
        image[round((1 - lost) * image.shape[0]) :] = 0
    return image


def make_layout(
    config: PhantomConfig,
) -> tuple[Synapses, npt.NDArray[np.bool_], dict[str, pd.DataFrame]]:
    """Return the synapses, which of them are excitatory, and the tables, without any voxel.

    The tables are synapses, cell_types and truth.
    """
    size, rng = config.size_zyx, _stream(config, 0)
    synapses = place_synapses(size, neurons=config.neurons, synapses=config.synapses, rng=rng)
    excitatory = rng.permutation(np.arange(config.neurons) % 2 == 0)
    owner = owners(
        synapses, excitatory, merges=config.merges, strays=config.strays, rng=_stream(config, 5)
    )
    tables = make_tables(
        synapses,
        excitatory,
        size,
        OFFSET_ZYX,
        owner,
        label_noise=config.label_noise,
        rng=_stream(config, 3),
    )
    return synapses, excitatory[synapses.neuron], tables


def make_scene(config: PhantomConfig) -> tuple[Scene, dict[str, pd.DataFrame], Damage]:
    """Return all that the sections are drawn from, the tables, and what happens to sections."""
    size, shape, paint = config.size_zyx, _stream(config, 1), _stream(config, 2)
    synapses, excitatory, tables = make_layout(config)
    field, across = _make_fields(size, synapses, shape)
    scene = Scene(
        owners=fields.Owners(field, size),
        synapses=synapses,
        densities=densities(synapses, excitatory, paint),
        vesicles=vesicles(synapses, excitatory, paint),
        tubules=tubules(size, paint),
        across_dendrites=across,
        textures=make_textures(size[1:], paint),
        contrast=config.contrast,
        seed=config.seed,
    )
    return scene, tables, _make_damage(size[0], _stream(config, 4))


def _stream(config: PhantomConfig, number: int) -> np.random.Generator:
    return np.random.default_rng([config.seed, number])


def _make_fields(
    size: Triple, synapses: Synapses, rng: np.random.Generator
) -> tuple[Float, Points]:
    """Return the fields with all bumps, and two directions across each family of dendrites."""
    field = fields.neuropil_fields(size, rng)
    across = []
    for color in fields.DENDRITES:
        trunks, axis = dendrites(size, rng)
        fields.add_bumps(field[color], trunks)
        across.append(np.linalg.svd(axis[None])[2][1:])
    inner, sheath = mitochondria(size, synapses, rng)
    fields.add_bumps(field[fields.MITOCHONDRION], inner)
    fields.add_bumps(field[fields.HOST], sheath)
    fields.add_bumps(field[fields.PRE], synapses.bouton_bumps())
    fields.add_bumps(field[fields.POST], synapses.spine_bumps())
    fields.make_uneven(field)
    return field, np.array(across)


def _make_damage(num_sections: int, rng: np.random.Generator) -> Damage:
    order = [int(z) for z in rng.permutation(num_sections)]
    lost = max(1, round(MISSING_FRACTION * num_sections))
    moved = max(1, round(SHIFTED_FRACTION * num_sections))
    missing = {z: 1.0 if i % 2 == 0 else 0.5 for i, z in enumerate(order[:lost])}
    steps = rng.choice([-1, 1], (moved, 2)) * rng.integers(2, MAX_SHIFT_PX + 1, (moved, 2))
    shifted = {z: (int(s[0]), int(s[1])) for z, s in zip(order[lost:], steps, strict=False)}
    return Damage(missing, shifted)


def _is_complete(out: Path, config: PhantomConfig) -> bool:
    path = out / "phantom.json"
    if not path.exists():
        return False
    cure = "remove the folder and make it again"
    complete = read_document(PhantomDocument, path, what="phantom", cure=cure)
    made, wanted = (complete.version, complete.config), (PHANTOM_VERSION, config)
    if made != wanted:
        raise ValueError(
            f"{out} holds another phantom, {made}, not {wanted}; choose another folder or remove "
            "this one"
        )
    return True


def _prepare(out: Path) -> None:
    """Make the folder, or clear what an interrupted run left in it."""
    out.mkdir(parents=True, exist_ok=True)
    mark = out / UNFINISHED
    if not mark.exists() and any(out.iterdir()):
        raise ValueError(f"{out} has files that are not a phantom's; choose a new or empty folder")
    mark.touch()
    shutil.rmtree(out / "em", ignore_errors=True)
