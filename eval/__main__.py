"""The command line of eval: argument parsing only."""

import signal
import sys

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
    # Ctrl-C while modules are imported ends the process without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from shards.cli.arguments import Group, run_named
from shards.cli.command import UsageError, run_command

ABOUT = """\
Evaluate predictions of a trained run or of any other model.

Runs or predictions alone, as in `python -m eval RUN|PREDICTIONS [OTHER …] --out FOLDER`, give
metrics.json and report.html; `python -m eval compare --help` shows the options.
Example: python -m eval runs/demo/2d runs/demo/3d --out runs/demo
"""
Words = tuple[str, ...]


def evaluate(
    words: Words,
    at_least: int,
    paths: Positional[tuple[Path, ...]],
    *,
    compare: tuple[Path, ...] = (),
    out: Path | None = None,
    criterion: Literal["balanced_accuracy", "accuracy", "f1", "mcc"] = "balanced_accuracy",
    data: str | None = None,
    fold: int | None = None,
    use_data: bool = True,
    images: bool = True,
    split: Literal["test", "val", "train", "all"] = "test",
    pool: bool = False,
    tags: Path | None = None,
    segmentation: str | None = None,
) -> None:
    """Write metrics.json and report.html, with everything measured on test and tuned on val.

    Example: python -m eval runs/demo/2d runs/demo/3d --out runs/demo

    Args:
        words: the arguments as they were given, for the report
        at_least: number of runs or predictions that must be given
        paths: run folders, or predictions (parquet; CSV of synapse_id, probability, label, neuron;
            a folder of parts)
        compare: more runs or predictions files, to compare with
        out: folder for the two files; the first run's folder unless given
        criterion: score that the threshold maximizes on validation
        data: shard set of the predictions; the one recorded with them unless given
        fold: fold of a cross-validation at --data; the one recorded with them unless given
        use_data: open the shard set: for images, baselines, and the audit of all splits
        images: read images: for the gallery, the image baseline and image duplicates
        split: split to score; all takes every row of a table, whatever its splits
        pool: take the runs as the folds of one cross-validation: all their test neurons together
        tags: table with synapse_id (or id) and tag, the target compartment: parquet or CSV
        segmentation: precomputed segmentation for the Neuroglancer links; the ingest job's unless
            given
    """
    paths = (*paths, *compare)
    if len(paths) < at_least:
        raise UsageError(f"give at least {at_least} runs or predictions files, got {len(paths)}")
    if fold is not None and (data is None or not use_data):
        raise UsageError("--fold is one of the set at --data; give its URL, or leave --fold out")
    from eval.commands import Sources, evaluate_paths
    from eval.evaluate import Options

    sources = Sources(
        paths=paths,
        data=data,
        fold=fold,
        use_data=use_data,
        tags=tags,
        segmentation=segmentation,
        split=split,
    )
    options = Options(criterion=criterion, images=images)
    command = ["python", "-m", "eval", *words]
    evaluate_paths(sources, options, out=out, command=command, pool=pool)


def export(path: Positional[Path], *, out: Path) -> None:
    """Write a Neuroglancer precomputed annotation layer, points colored by class.

    Example: python -m eval export runs/demo/3d/predictions/test.parquet --out runs/demo/layer

    Args:
        path: a run's folder (its test predictions), or predictions, a file or a folder of parts;
            labels are not needed
        out: folder of the layer
    """
    from eval.commands import export_path

    export_path(path, out)


def group(args: Sequence[str] = ()) -> Group:
    """Return the commands, of which a report shows these arguments."""
    words = tuple(args)
    return Group(
        about=ABOUT,
        commands={"compare": partial(evaluate, words, 2), "export": export},
        summaries={"compare": "The same, of two runs or predictions at least."},
        otherwise=partial(evaluate, words, 1),
    )


def main(args: list[str], prog: str = "python -m eval") -> None:
    """Run one of the commands."""
    run_named(group(args), args, prog=prog)


if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:]))
