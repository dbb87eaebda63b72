"""Mutated inputs of every kind of file that users bring or strangers send, counted by outcome.

    python benchmarks/hostile/fuzz.py [--kind csv] [--count 2000] [--seed 0] [--json fuzz.json]

A third of the inputs mean the same as a right one in another form; what the project reads must be
the same. The others are edited or damaged. They must be refused in one line, or read as an
independent reader reads them, or as before the damage. `hostile/` says for each kind which reader
and which edits. Each input is tried in a child process with 20 s and 8 GB; the verdicts are

    right             the right answer
    refused           a ValueError, OSError or RuntimeError with a message
    refused wrongly   that, for an input that means the same as a right one
    silent            another answer
    traceback         another exception
    hang, crash       no answer in time; the child ended

Exit code 1 where any but `right` and `refused` is not zero.
"""

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from functools import partial
from pathlib import Path

from benchmarks.hostile import documents, pictures, tables, tensors
from benchmarks.hostile.guarded import Guarded
from benchmarks.hostile.kinds import Judge

KINDS = {
    "job": documents.JobYaml,
    "site": documents.SiteToml,
    "info": documents.VolumeInfo,
    "manifest": documents.ManifestJson,
    "csv": tables.SynapseCsv,
    "parquet": tables.SynapseParquet,
    "predictions": tables.Predictions,
    "tiff": pictures.Tiff,
    "tar": pictures.Tar,
    "weights": tensors.Weights,
}
VERDICTS = ("right", "refused", "refused wrongly", "silent", "traceback", "hang", "crash")
BAD = VERDICTS[2:]


def judge(kind: str, folder: Path, seed: int) -> Judge:
    """Return the judge of a kind; called in the child."""
    return Judge(KINDS[kind], folder, seed)


def fuzz(kind: str, count: int, seed: int, show: int) -> Counter[str]:
    """Try `count` inputs of a kind and print the first bad ones of each verdict."""
    counts = Counter[str]()
    with tempfile.TemporaryDirectory(prefix=f"fuzz-{kind}-") as folder:
        guarded = Guarded(partial(judge, kind, Path(folder), seed))
        try:
            for number in range(count):
                outcome = guarded(number)
                verdict, *told = (outcome, "", "") if isinstance(outcome, str) else outcome
                counts[verdict] += 1
                if verdict in BAD and counts[verdict] <= show:
                    print(f"  {kind} {number}: {verdict}: {' | '.join(told)}", file=sys.stderr)
        finally:
            guarded.close()
    return counts


def main() -> int:
    """Print a row a kind."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kind", nargs="*", choices=KINDS, default=list(KINDS), help="which")
    parser.add_argument("--count", type=int, default=2000, help="inputs of each kind")
    parser.add_argument("--seed", type=int, default=0, help="of all edits")
    parser.add_argument("--json", type=Path, help="file for the counts")
    parser.add_argument("--show", type=int, default=5, help="bad ones to show of each verdict")
    asked = parser.parse_args()
    print(f"{'kind':12}" + "".join(f"{name:>16}" for name in VERDICTS) + f"{'seconds':>9}")
    result = {}
    for kind in asked.kind:
        start = time.monotonic()
        counts = fuzz(kind, asked.count, asked.seed, asked.show)
        result[kind] = {name: counts[name] for name in VERDICTS}
        line = "".join(f"{counts[name]:16}" for name in VERDICTS)
        print(f"{kind:12}{line}{time.monotonic() - start:9.0f}", flush=True)
    if asked.json:
        asked.json.write_text(json.dumps(result, indent=2) + "\n")
    return int(any(counts[name] for counts in result.values() for name in BAD))


if __name__ == "__main__":
    sys.exit(main())
