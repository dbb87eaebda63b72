"""Evaluate predictions of a trained run or of any other model.

    python -m eval RUN|PREDICTIONS [OTHER …] [--out FOLDER]    metrics.json and report.html
    python -m eval compare RUN OTHER [OTHER …] [--out FOLDER]  the same, two at least
    python -m eval export RUN|PREDICTIONS --out FOLDER         a Neuroglancer annotation layer

Example: python -m eval runs/demo/2d runs/demo/3d --out runs/demo
"""

import signal
import sys

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
    # Ctrl-C while modules are imported ends the process without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from shards.cli.command import HELP, UsageError, parse, run_command, show_usage


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Write metrics.json and report.html, with everything measured on test and tuned on val.

    Example: python -m eval runs/demo/2d runs/demo/3d --out runs/demo
    """

    paths: tyro.conf.Positional[tuple[Path, ...]]
    """Run folders, or predictions (parquet; CSV of synapse_id, probability, label, neuron)."""
    compare: tuple[Path, ...] = ()
    """More runs or predictions files, to compare with."""
    out: Path | None = None
    """Folder for the two files; the first run's folder unless given."""
    criterion: Literal["balanced_accuracy", "accuracy", "f1", "mcc"] = "balanced_accuracy"
    """Score that the threshold maximizes on validation."""
    data: str | None = None
    """Shard set of the predictions; the one recorded with them unless given."""
    use_data: bool = True
    """Open the shard set: for images, baselines, and the audit of all splits."""
    images: bool = True
    """Read images: for the gallery, the image baseline and image duplicates."""
    split: Literal["test", "val", "train", "all"] = "test"
    """Split to score; all takes every row of a table, whatever its splits."""
    pool: bool = False
    """Take the runs as the folds of one cross-validation: all their test neurons together."""
    tags: Path | None = None
    """Table with synapse_id (or id) and tag, the target compartment: parquet or CSV."""
    segmentation: str | None = None
    """Precomputed segmentation for the Neuroglancer links; the ingest job's unless given."""


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write a Neuroglancer precomputed annotation layer, points colored by class.

    Example: python -m eval export runs/demo/3d/predictions/test.parquet --out runs/demo/layer
    """

    path: tyro.conf.Positional[Path]
    """A run's folder (its test predictions) or a predictions file; labels are not needed."""
    out: Path
    """Folder of the layer."""


def main(args: list[str]) -> None:
    """Do what the arguments say."""
    if not args or args[0] in HELP:
        show_usage(f"{__doc__}\nOptions: python -m eval compare --help", args)
    elif args[0] == "export":
        asked = parse(Export, args[1:], prog="python -m eval export")
        from eval.commands import export_path

        export_path(asked.path, asked.out)
    else:
        _evaluate(args)


def _evaluate(args: list[str]) -> None:
    at_least = 2 if args[0] == "compare" else 1
    asked = parse(Evaluate, args[at_least - 1 :], prog="python -m eval")
    paths = (*asked.paths, *asked.compare)
    if len(paths) < at_least:
        raise UsageError(f"give at least {at_least} runs or predictions files, got {len(paths)}")
    from eval.commands import Sources, evaluate_paths
    from eval.evaluate import Options

    sources = Sources(
        paths=paths,
        data=asked.data,
        use_data=asked.use_data,
        tags=asked.tags,
        segmentation=asked.segmentation,
        split=asked.split,
    )
    options = Options(criterion=asked.criterion, images=asked.images)
    command = ["python", "-m", "eval", *args]
    evaluate_paths(sources, options, out=asked.out, command=command, pool=asked.pool)


if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:]))
