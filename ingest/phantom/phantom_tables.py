"""The phantom's tables, in CAVE's columns, its truth, and a job for `ingest plan`."""

import numpy as np
import numpy.typing as npt
import pandas as pd

from ingest.phantom.fields import Points, Triple, size_nm
from ingest.phantom.scene import POSITION_ERROR_NM, Synapses

POSITION_NM = np.array([40.0, 4.0, 4.0])
PAIRS_PER_PARTNER = 5
EXCITATORY_TYPES = ("23P", "4P", "5P-IT", "5P-ET", "6P-IT", "6P-CT")
INHIBITORY_TYPES = ("BC", "MC", "BPC", "NGC")
GLIA = ("astrocyte", "oligo", "microglia", "OPC")
CLASS_NAMES = ("inhibitory", "excitatory")
Owners = npt.NDArray[np.int64]

INGEST_YAML = """\
# A job for: python -m ingest plan THIS_FILE --out DATASET
axes: xyz
volume:
  path: em
synapses:
  path: synapses.parquet
labels:
  class_names: [inhibitory, excitatory]
  tables:
    - path: cell_types.parquet
      column: classification_system
      classes: {excitatory_neuron: excitatory, inhibitory_neuron: inhibitory}
samples:
  center: ctr
  views:
    patch: {size: [256, 256]}
    cube: {size: [128, 128, 32]}
"""


def owners(
    synapses: Synapses,
    excitatory: npt.NDArray[np.bool_],
    *,
    merges: int,
    strays: int,
    rng: np.random.Generator,
) -> Owners:
    """Return the neuron (n,) that each synapse is counted to, with errors of segmentation.

    A merge gives the whole axon of one neuron to a neuron of the other class, an excitatory and an
    inhibitory one in turns; the soma that lost it keeps its own root id. A stray is one synapse of
    another neuron that is counted to a neuron of the other class.
    """
    owner = synapses.neuron.copy()
    of_class = [rng.permutation(np.flatnonzero(excitatory == value)) for value in (True, False)]
    for pair in range(merges):
        kept, lost = (own[pair] for own in (of_class if pair % 2 else of_class[::-1]))
        owner[owner == lost] = kept
    alone = [own[merges:] for own in of_class]
    rows = np.flatnonzero(np.isin(synapses.neuron, np.concatenate(alone)) & ~synapses.at_edge)
    if strays > len(rows):
        raise ValueError(f"strays must be at most {len(rows)}, the unmerged synapses, got {strays}")
    for row in rng.permutation(rows)[:strays]:
        owner[row] = rng.choice(alone[int(excitatory[owner[row]])])
    return owner


def _taken_whole(owner: Owners, neuron: Owners) -> npt.NDArray[np.bool_]:
    """Return which synapses are of neurons of which no synapse is counted to themselves."""
    return ~np.isin(neuron, neuron[owner == neuron])


def make_tables(
    synapses: Synapses,
    excitatory: npt.NDArray[np.bool_],
    size_zyx: Triple,
    offset_zyx: Triple,
    owner: Owners,
    *,
    label_noise: float,
    rng: np.random.Generator,
) -> dict[str, pd.DataFrame]:
    """Return the tables synapses, cell_types and truth. `excitatory` has one row per neuron.

    `owner` (n,) is the neuron whose root id each synapse has in the synapse table. Label noise
    calls `label_noise` of the neurons, the same part of both classes, by the other class's name
    in the cell type table; `truth` keeps whose synapses they are and what they are.
    """
    neurons, count = len(excitatory), len(synapses.neuron)
    partners = max(2, count // PAIRS_PER_PARTNER)
    roots = _ids(864691135000000000, 10**9, neurons + partners + len(GLIA), rng)
    nuclei = _ids(100_000, 600_000, neurons + len(GLIA), rng)
    post = roots[neurons + rng.integers(0, partners, count)]
    called = excitatory ^ _flipped(excitatory, label_noise, rng)
    table = pd.DataFrame(
        {
            "id": _ids(100_000_000, 10**8, count, rng),
            "created": pd.Timestamp("2020-01-01"),
            "superceded_id": pd.array([pd.NA] * count, dtype="Int64"),
            "valid": "t",
            "size": np.rint(_sizes(synapses, rng)).astype(np.int64),
            "pre_pt_supervoxel_id": _ids(87_000_000_000_000_000, 10**12, count, rng),
            "pre_pt_root_id": roots[owner],
            "post_pt_supervoxel_id": _ids(87_000_000_000_000_000, 10**12, count, rng),
            "post_pt_root_id": post,
        }
    )
    for name, ahead_nm in (("pre", -95.0), ("post", 95.0), ("ctr", 0.0)):
        point = synapses.center_nm + ahead_nm * synapses.normal
        error = rng.normal(0, POSITION_ERROR_NM / 2, (count, 2))
        point[:, 1:] += error.clip(-POSITION_ERROR_NM, POSITION_ERROR_NM)
        for axis, values in zip("zyx", _positions(point, size_zyx, offset_zyx).T, strict=True):
            table[f"{name}_pt_position_{axis}"] = values
    truth = pd.DataFrame(
        {
            "id": table["id"],
            "pre_pt_root_id": roots[synapses.neuron],
            "target_id": nuclei[synapses.neuron],
            "class_name": _names(excitatory[synapses.neuron]),
            "table_class_name": _names(called[owner]),
            "error": np.select(
                [owner == synapses.neuron, _taken_whole(owner, synapses.neuron)],
                ["", "merge"],
                "stray",
            ),
            "at_edge": synapses.at_edge,
            "radius_nm": synapses.radius_nm,
            **{f"normal_{axis}": synapses.normal[:, k] for k, axis in enumerate("zyx")},
        }
    )
    cells = _cell_types(called, nuclei, roots[[*range(neurons), *range(-len(GLIA), 0)]], rng)
    frames = {"synapses": table, "cell_types": cells, "truth": truth}
    return {name: frame.sort_values("id", ignore_index=True) for name, frame in frames.items()}


def _ids(base: int, span: int, count: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Return different ids in random order."""
    distinct = np.unique(rng.integers(0, span, 2 * count + 64))
    return base + rng.permutation(distinct)[:count].astype(np.int64)


def _flipped(
    excitatory: npt.NDArray[np.bool_], label_noise: float, rng: np.random.Generator
) -> npt.NDArray[np.bool_]:
    flipped = np.zeros(len(excitatory), bool)
    for value in (False, True):
        members = np.flatnonzero(excitatory == value)
        flipped[rng.permutation(members)[: round(label_noise * len(members))]] = True
    return flipped


def _sizes(synapses: Synapses, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Return cleft sizes as the public table has them, growing with the active zone's area."""
    area = (synapses.radius_nm / 165.0) ** 2
    return np.maximum(4700 * area * np.exp(rng.normal(0, 0.6, len(area))), 160)


def _positions(point_nm: Points, size_zyx: Triple, offset_zyx: Triple) -> npt.NDArray[np.int64]:
    """Return the 4×4×40 nm voxels that hold the points, z, y, x, in the volume's own frame."""
    inside = np.clip(point_nm, 0, size_nm(size_zyx) - 1)
    voxel: npt.NDArray[np.int64] = np.floor((inside + size_nm(offset_zyx)) / POSITION_NM).astype(
        np.int64
    )
    return voxel


def _names(excitatory: npt.NDArray[np.bool_]) -> list[str]:
    return [CLASS_NAMES[int(value)] for value in excitatory]


def _cell_types(
    called: npt.NDArray[np.bool_],
    nuclei: npt.NDArray[np.int64],
    roots: npt.NDArray[np.int64],
    rng: np.random.Generator,
) -> pd.DataFrame:
    """Return the cell type table: one row per neuron, and a few glia without synapses."""
    types = [str(rng.choice(EXCITATORY_TYPES if e else INHIBITORY_TYPES)) for e in called]
    systems = ["excitatory_neuron" if e else "inhibitory_neuron" for e in called]
    return pd.DataFrame(
        {
            "id": _ids(1, 100_000, len(nuclei), rng),
            "valid": "t",
            "target_id": nuclei,
            "pt_root_id": roots,
            "classification_system": systems + ["nonneuron"] * len(GLIA),
            "cell_type": types + list(GLIA),
        }
    )
