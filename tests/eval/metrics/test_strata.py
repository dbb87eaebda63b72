from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from eval.inputs.predictions import PredictionsInfo
from eval.metrics.bootstrap import score
from eval.metrics.strata import SMALLEST_STRATUM, score_strata, strata, subset
from eval.subject import make_part

Make = Callable[..., pd.DataFrame]


def test_every_stratum_is_scored_as_if_alone(make_predictions: Make) -> None:
    frame = make_predictions(1, neurons=40)
    frame["qc_flags"] = np.where(np.arange(len(frame)) % 3 == 0, "blurred,fold", "")
    frame["tag"] = np.where(np.arange(len(frame)) % 2 == 0, "spine", "shaft")
    scored = replace(make_part(frame, PredictionsInfo(), where="x").scored, tau=0.5)
    rows = score_strata(scored, np.ones(len(frame), bool), frame, np.zeros((5, 3)))
    found = {(row.what, row.which): row for row in rows}
    for which, mask in (("blurred", frame["qc_flags"] != ""), ("none", frame["qc_flags"] == "")):
        alone = score(subset(scored, mask.to_numpy()), num=1000, ranks=False)
        row = found["QC flag", which]
        assert row.synapses == mask.sum()
        assert sum(row.class_counts) == mask.sum()
        assert row.balanced_accuracy.value == alone["balanced_accuracy"].value
        assert row.balanced_accuracy.low == alone["balanced_accuracy"].low
    assert ("target compartment", "shaft") in found
    assert ("label tier", "manual") in found
    for what in ("synapse size", "distance to nearest training sample, µm"):
        assert sum(row.synapses for (name, _), row in found.items() if name == what) == len(frame)


def test_small_and_unknown_strata_are_left_out(make_predictions: Make) -> None:
    frame = make_predictions(1, neurons=10).assign(size=np.nan, label_tier="", qc_flags="")
    frame.loc[: SMALLEST_STRATUM - 2, "label_tier"] = "rare"
    names = {what for what, _, _ in strata(frame[["size", "label_tier"]], None)}
    assert not names


def test_depth_is_cut_into_even_parts(make_predictions: Make) -> None:
    frame = make_predictions(1, neurons=40)
    sizes = [mask.sum() for what, _, mask in strata(frame, None) if what.startswith("depth")]
    assert len(sizes) == 4
    assert np.ptp(sizes) <= 1
    assert sum(sizes) == pytest.approx(len(frame))


def test_unknown_places_are_at_no_distance(make_predictions: Make) -> None:
    frame = make_predictions(0)
    frame.loc[::3, "center_x_nm"] = np.nan
    train = np.array([[np.nan, 0, 0], [0, 0, 0]])
    masks = [mask for what, _, mask in strata(frame, train) if what.startswith("distance")]
    assert np.array_equal(np.any(masks, axis=0), frame["center_x_nm"].notna())
    nowhere = strata(frame, np.full((2, 3), np.nan))
    assert not any(what.startswith("distance") for what, _, _ in nowhere)
