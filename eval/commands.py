"""The actions of the command line: open the subjects, evaluate each, write the page."""

from collections import Counter
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from eval.evaluate import Evaluation, Options, evaluate
from eval.inputs.parts import has_parts
from eval.report.gallery import public_source
from eval.report.neuroglancer_layer import SHADER, layer_of, write_layer
from eval.report.pool_folds import POOLED_NOTE, pool_folds
from eval.report.report import REPORT, metrics_of, write_report
from eval.report.text import headline
from eval.subject import Subject, folder_of, open_subject, read_table_or_parts, read_tags
from shards.cli.progress import progress
from shards.storage.atomic import TEMPORARY_PATTERN
from shards.storage.locks import sole_writer, sole_writer_of_file

STEPS = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Sources:
    """Predictions to evaluate, and what else is known about them."""

    paths: tuple[Path, ...]
    data: str | None = None
    fold: int | None = None  # of a cross-validation at `data`
    use_data: bool = True
    tags: Path | None = None
    segmentation: str | None = None
    split: str = "test"  # the rows that are scored


def evaluate_paths(
    sources: Sources, options: Options, *, out: Path | None, command: list[str], pool: bool = False
) -> None:
    """Evaluate runs or predictions files; write metrics.json and report.html; print headlines.

    One evaluation at a time writes to a folder; `pool` takes the runs as folds of one.
    """
    if sources.segmentation and not public_source(sources.segmentation):
        raise ValueError(
            f"--segmentation {sources.segmentation} cannot be linked to; give the URL (http, "
            "https, s3, gs) of a precomputed segmentation"
        )
    folder = out or folder_of(sources.paths[0])
    with sole_writer_of_file(folder / REPORT):
        for leftover in folder.glob(TEMPORARY_PATTERN.replace("?*", REPORT)):
            leftover.unlink()
        if pool:
            pooled = pool_folds(sources.paths, folder, options.criterion)
            sources = replace(sources, paths=(pooled,))
            options = replace(options, notes=(*options.notes, POOLED_NOTE))
        tags = read_tags(sources.tags) if sources.tags else None
        subjects = [replace(_open(path, sources), tags=tags) for path in sources.paths]
        evaluations = [_evaluate(subject, options) for subject in with_names(subjects)]
        metrics = metrics_of(evaluations, command)
        _, page = write_report(
            evaluations,
            metrics,
            folder,
            images=options.images,
            segmentation=sources.segmentation,
            now=datetime.now(UTC),
        )
    headline(metrics, print)
    print(f"report: {page}")


def _open(path: Path, sources: Sources) -> Subject:
    return open_subject(
        path,
        data=sources.data,
        fold=sources.fold,
        use_data=sources.use_data,
        split=sources.split,
    )


def _evaluate(subject: Subject, options: Options) -> Evaluation:
    with progress(f"evaluate {subject.name}", STEPS) as advance:
        return evaluate(subject, options, lambda step: advance(1, step))


def with_names(subjects: list[Subject]) -> list[Subject]:
    """Tell subjects of the same name apart by their folders, then by number."""
    counts = Counter(subject.name for subject in subjects)
    named = [
        replace(s, name=f"{s.folder.resolve().name}/{s.name}") if counts[s.name] > 1 else s
        for s in subjects
    ]
    repeated = Counter(subject.name for subject in named)
    return [
        replace(s, name=f"{s.name} ({place + 1})") if repeated[s.name] > 1 else s
        for place, s in enumerate(named)
    ]


def export_path(path: Path, out: Path) -> None:
    """Write a predictions file, or a run's test predictions, as a Neuroglancer layer."""
    is_run = path.is_dir() and not has_parts(path)
    file = path / "predictions" / "test.parquet" if is_run else path
    frame, info = read_table_or_parts(file)
    layer = layer_of(frame, info, where=str(file))
    with sole_writer(out):
        write_layer(out, layer, info.class_names)
    print(f"{len(frame):,} annotations in {out}: serve it, add the layer precomputed://URL, and")
    print(f"color it with the shader {SHADER}")
