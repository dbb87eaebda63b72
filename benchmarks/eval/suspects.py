"""How well eval's lists of suspects find errors that a phantom has planted.

Usage: python benchmarks/eval/suspects.py PREDICTIONS TRUTH [PREDICTIONS TRUTH ...]

PREDICTIONS is of test, with val beside it; TRUTH the phantom's truth.parquet. A listed neuron is
right when its root id was given to a second axon, a listed synapse when it is counted to a neuron
that is not its own, a listed label when it is wrong. Recall is over what is in the test split:
merged neurons, stray synapses, and neurons whose label is wrong.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from eval.evaluate import Options, evaluate
from eval.subject import open_subject

Found = tuple[str, int, int, int, int]  # what, listed, right, planted, found


def score(predictions: Path, truth: Path) -> Iterator[Found]:
    """Yield how many are listed and right, planted and found, of neurons and of synapses."""
    subject = open_subject(predictions, use_data=False)
    evaluation = evaluate(subject, Options(), lambda step: None)
    frame = evaluation.subject.test.frame
    known = pd.read_parquet(truth).set_index("id").loc[frame["synapse_id"]]
    error = known["error"].reset_index(drop=True)
    labels = np.array(evaluation.run.class_names)[frame["label"]]
    wrong = (labels != known["class_name"].to_numpy()) & (error == "")
    suspects = evaluation.run.suspects
    if suspects is None:
        raise ValueError(f"{predictions}: its neurons are unknown, so that none can be suspect")
    mixed = {one.neuron_id for one in suspects.mixed_neurons.listed}
    mislabelled = {one.neuron_id for one in suspects.mislabelled_neurons.listed}
    for what, listed, rows in (
        ("merged neurons", mixed, error == "merge"),
        ("labels", mislabelled, wrong),
    ):
        neurons = set(frame["neuron_id"][rows])
        yield what, len(listed), len(listed & neurons), len(neurons), len(listed & neurons)
    odd = error.iloc[evaluation.odd_rows]
    strays = int((error == "stray").sum())
    yield "synapses", len(odd), int((odd != "").sum()), strays, int((odd == "stray").sum())


def main() -> None:
    """Print precision and recall for each phantom and for all together."""
    rows = [
        [truth, *found]
        for predictions, truth in zip(sys.argv[1::2], sys.argv[2::2], strict=True)
        for found in score(Path(predictions), Path(truth))
    ]
    table = pd.DataFrame(rows, columns=["of", "what", "listed", "right", "planted", "found"])
    print(table.to_string(index=False))
    for what, own in table.groupby("what"):
        listed, right, planted, found = own[["listed", "right", "planted", "found"]].sum()
        print(
            f"{what}: {right} of {listed} listed are right, {found} of {planted} planted are found"
        )


if __name__ == "__main__":
    main()
