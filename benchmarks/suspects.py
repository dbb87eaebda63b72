"""How well eval's lists of suspects find errors of segmentation that a phantom has planted.

Usage: python benchmarks/suspects.py PREDICTIONS TRUTH [PREDICTIONS TRUTH ...]

PREDICTIONS is of test, with val beside it; TRUTH the phantom's truth.parquet. A listed neuron is
right when its root id was given to a second axon, a listed synapse when it is counted to a neuron
that is not its own. Recall is over what is in the test split: merged neurons, and stray synapses.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from eval.evaluate import Options, evaluate
from eval.subject import open_subject

Found = tuple[str, int, int, int, int]  # what, listed, right, planted, found


def score(predictions: Path, truth: Path) -> Iterator[Found]:
    """Yield how many are listed and right, planted and found, of neurons and of synapses."""
    subject = open_subject(predictions, use_data=False)
    evaluation = evaluate(subject, Options(), lambda step: None)
    frame = evaluation.subject.test.frame
    error = frame["synapse_id"].map(pd.read_parquet(truth).set_index("id")["error"])
    neurons = set(frame["neuron_id"][error == "merge"])
    mixed = {r["neuron_id"] for r in evaluation.document["suspects"]["mixed_neurons"]["listed"]}
    yield "merged neurons", len(mixed), len(mixed & neurons), len(neurons), len(mixed & neurons)
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
            f"{what}: precision {right}/{listed} = {right / listed:.2f}, "
            f"recall {found}/{planted} = {found / planted:.2f}"
        )


if __name__ == "__main__":
    main()
