"""The chains: which synshards commands run, in which tasks, and in what order. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import PurePosixPath

from slurm.job import Command, Step

MIN_FOLDS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainTask:
    """One training run: a recipe on a shard set, into a folder of its own."""

    recipe: str
    data: str
    run: str
    seed: int | None = None
    fold: int | None = None

    def command(self, extra: Command) -> Command:
        """Return the trainer's arguments, with the user's own at the end."""
        seed = () if self.seed is None else ("--seed", str(self.seed))
        fold = () if self.fold is None else ("--fold", str(self.fold))
        paths = ("--data", self.data, *fold, "--out", self.run)
        return ("-m", "trainer", self.recipe, *paths, *seed, *extra)


def sweep(
    recipes: Sequence[str],
    data: Sequence[str],
    seeds: Sequence[int],
    run: PurePosixPath,
    folds: Sequence[int] = (),
) -> tuple[TrainTask, ...]:
    """Return a run for each recipe × shard set × fold × seed, named after all that vary."""
    names = dict(zip(data, _names(data), strict=True))
    tasks = tuple(
        TrainTask(
            recipe=recipe,
            data=url,
            seed=seed,
            fold=fold,
            run=str(run / (recipe + names[url] + _varied("fold", fold) + _varied("seed", seed))),
        )
        for recipe, url, fold, seed in product(recipes, data, folds or (None,), seeds or (None,))
    )
    if len({task.run for task in tasks}) < len(tasks):
        raise ValueError(
            "two runs of the sweep have the same recipe, data, fold and seed: give each once"
        )
    return tasks


def ingest(dataset: str, *, num_tasks: int, extra: Command) -> tuple[Step, ...]:
    """Return the steps that run a plan's blocks in `num_tasks` parts, then finish the data set."""
    run: Command = ("-m", "ingest", "run", dataset, *extra, "--num-tasks", str(num_tasks))
    return (
        Step(name="ingest", commands=(run,), parts=num_tasks),
        Step(name="finish", commands=(("-m", "ingest", "finish", dataset),)),
    )


def shard_sets(out: str, views: Sequence[str], num_folds: int | None) -> dict[str, Command]:
    """Return URL → arguments of `shards pack`, for each view; one set is OUT itself."""
    if num_folds is not None and num_folds < MIN_FOLDS:
        raise ValueError(
            f"a cross-validation needs {MIN_FOLDS} folds or more, got --folds {num_folds}: one to "
            "test, one to validate, the others to train on"
        )
    folds = () if num_folds is None else ("--folds", str(num_folds))
    return {
        out + (f"/{view}" if len(views) > 1 else ""): ("--view", view, *folds) for view in views
    }


def pack(dataset: str, sets: Mapping[str, Command], *, extra: Command) -> Step:
    """Return the step that packs each of `shard_sets`, one task per set."""
    commands = tuple(
        ("-m", "shards", "pack", dataset, *arguments, "--out", url, *extra)
        for url, arguments in sets.items()
    )
    return Step(name="pack", commands=commands)


def train(tasks: Sequence[TrainTask], *, extra: Command) -> Step:
    """Return the step that trains each run of the sweep, one task per run."""
    commands = tuple(task.command(extra) for task in tasks)
    return Step(name="train", commands=commands, launch="accelerate")


def predict(runs: Sequence[str], splits: Sequence[str], *, extra: Command) -> Step:
    """Return the step that predicts the splits with each run, one task per run."""
    commands = tuple(("-m", "trainer", "predict", run, "--split", *splits, *extra) for run in runs)
    return Step(name="predict", commands=commands)


def predict_plan(
    models: Sequence[str], dataset: str, out: str, *, num_tasks: int, extra: Command
) -> Step:
    """Return the step that predicts a planned data set, in `num_tasks` shares of its parts."""
    command: Command = (
        *("-m", "trainer", "predict", *models, "--data", dataset, "--out", out),
        *(*extra, "--num-tasks", str(num_tasks)),
    )
    return Step(name="predict", commands=(command,), parts=num_tasks)


def infer(
    config: str, run: PurePosixPath, models: Sequence[str], *, num_tasks: int, extra: Command
) -> tuple[Step, ...]:
    """Return the steps from a job to a class for each synapse and a layer, under `run`."""
    dataset, out = str(run / "dataset"), str(run / "predictions")
    layer: Command = ("-m", "eval", "export", out, "--out", str(run / "layer"))
    return (
        Step(name="plan", commands=(("-m", "ingest", "plan", config, "--out", dataset),)),
        predict_plan(models, dataset, out, num_tasks=num_tasks, extra=extra),
        Step(name="layer", commands=(layer,)),
    )


def evaluate(reports: Sequence[tuple[Command, str | None]], *, extra: Command) -> Step:
    """Return the step that reports on runs side by side, a task for each (runs, out)."""
    commands = tuple(
        ("-m", "eval", *runs, *(() if out is None else ("--out", out)), *extra)
        for runs, out in reports
    )
    return Step(name="eval", commands=commands)


def pipeline(
    config: str,
    run: PurePosixPath,
    recipes: Mapping[str, Sequence[str]],
    *,
    num_tasks: int,
    num_folds: int | None,
    seeds: Sequence[int],
    extra: Command,
) -> tuple[Step, ...]:
    """Return everything from plan to report under the folder `run`; `recipes` go by view."""
    dataset = str(run / "dataset")
    packs: dict[str, Command] = {}
    runs: list[TrainTask] = []
    for view, names in recipes.items():
        sets = shard_sets(str(run / "shards" / view), [view], num_folds)
        packs |= sets
        runs += sweep(names, list(sets), seeds, run / "runs", range(num_folds or 0))
    folders = tuple(task.run for task in runs)
    report = run / "report"
    return (
        Step(name="plan", commands=(("-m", "ingest", "plan", config, "--out", dataset),)),
        *ingest(dataset, num_tasks=num_tasks, extra=()),
        pack(dataset, packs, extra=()),
        train(runs, extra=extra),
        predict(folders, ("val", "test"), extra=()),
        evaluate(
            [(folders, str(report))] if num_folds is None else _pooled(runs, report), extra=()
        ),
    )


def _pooled(runs: Sequence[TrainTask], report: PurePosixPath) -> list[tuple[Command, str]]:
    """Return a report for each recipe and seed, over all its folds."""
    folds: dict[str, list[str]] = {}
    for task in runs:
        folds.setdefault(task.recipe + _varied("seed", task.seed), []).append(task.run)
    return [((*folders, "--pool"), str(report / name)) for name, folders in folds.items()]


def _varied(name: str, value: int | None) -> str:
    return "" if value is None else f"-{name}{value}"


def _names(urls: Sequence[str]) -> list[str]:
    """Name each URL by the parts of it that others do not share: `fold0` of S/fold0/patch."""
    if len(urls) == 1:
        return [""]
    parts = [url.rstrip("/").split("/") for url in urls]
    start = _num_shared(parts)
    end = _num_shared([part[start:][::-1] for part in parts])
    return ["-" + "-".join(part[start : len(part) - end]) for part in parts]


def _num_shared(lists: Sequence[Sequence[str]]) -> int:
    columns = list(zip(*lists, strict=False))
    return next((i for i, column in enumerate(columns) if len(set(column)) > 1), len(columns))
