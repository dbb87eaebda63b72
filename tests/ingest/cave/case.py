"""The tables that CAVE's tests ask for, and how they are compared."""

import numpy as np
import pandas as pd

from ingest.job.cave_config import CaveConfig
from ingest.job.job_config import SynapseConfig
from ingest.tables.cave import Library
from ingest.tables.cave_client import CaveRetries

TOKEN = "5ecc37" * 6
ROOT = 864691135000000000
HASTE = CaveRetries(attempts=12, first_wait_s=0.001, longest_wait_s=0.01)
TYPES = {"excitatory_neuron": "excitatory", "inhibitory_neuron": "inhibitory"}
CENTRES = np.random.default_rng(3).integers((190, 130, 65), (330, 240, 105), (500, 3))


def synapse_table() -> pd.DataFrame:
    """500 synapses of 30 neurons, over 150 of them of one, in CAVE's columns and in no order."""
    rng = np.random.default_rng(4)
    number = np.arange(len(CENTRES))
    table = pd.DataFrame(
        {
            "id": rng.permutation(10 * number + 7),
            "size": rng.integers(100, 9000, len(number)),
            "pre_pt_root_id": ROOT + np.where(number < 150, 0, rng.integers(0, 30, len(number))),
            "post_pt_root_id": ROOT + rng.integers(0, 40, len(number)),
        }
    )
    for name in ("pre", "ctr", "post"):
        for axis, letter in enumerate("xyz"):
            table[f"{name}_pt_position_{letter}"] = CENTRES[:, axis] * (2, 2, 1)[axis]
    return table


def cell_types() -> pd.DataFrame:
    """26 of the 30 neurons by class, in turn; two of them merged into one root; one is glia."""
    number = np.arange(28)
    systems = np.where(number % 2 == 0, "excitatory_neuron", "inhibitory_neuron")
    systems[27] = "nonneuron"
    return pd.DataFrame(
        {
            "id": 5000 + number[::-1],
            "valid": True,
            "target_id": 100_000 + number,
            "classification_system": systems,
            "cell_type": "made up",
            "pt_root_id": ROOT + np.where(number == 26, 25, number),
        }
    )


SYNAPSES = synapse_table()
LABELLED = SYNAPSES[SYNAPSES.pre_pt_root_id < ROOT + 25]


def ask_for(config: CaveConfig, roots: list[int]) -> pd.DataFrame:
    """Return the synapses of `roots` through a fresh library, in our columns."""
    columns = SynapseConfig(source="cave", path="synapses_pni_2")
    return pd.read_parquet(Library(config, HASTE).synapses(columns, roots))


def assert_exact(found: pd.DataFrame, expected: pd.DataFrame) -> None:
    """Compare with the ground truth, row by row, whatever the order."""
    sorted_by_id = [frame.sort_values("id", ignore_index=True) for frame in (found, expected)]
    pd.testing.assert_frame_equal(
        sorted_by_id[0][expected.columns], sorted_by_id[1], check_dtype=False
    )


ALL_ROOTS = [ROOT + number for number in range(30)]
