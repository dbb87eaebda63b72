"""Predictions of trained models: a row a sample, for any split of any shard set that fits them."""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
from accelerate import Accelerator
from torch import Tensor

from eval.predictions import PredictionsInfo, probability_columns, write_predictions
from shards.progress import progress
from shards.schema import IDENTITY_COLUMNS
from shards.shardset import ShardSet, open_shards
from trainer.config import System
from trainer.distributed import make_accelerator
from trainer.evaluate import Floats, Predict, softmax_of, split_probabilities
from trainer.trained import Trained, check_fit, load_trained, model_folder
from trainer.tta import averaged, symmetries


def predict_runs(
    runs: tuple[str, ...],
    *,
    data: str,
    out: Path,
    splits: tuple[str, ...],
    checkpoint: str = "best",
    tta: bool = False,
    raw: bool = False,
    batch_size: int = 0,
    system: System,
) -> list[Path]:
    """Write OUT/predictions/SPLIT.parquet for each split and return the paths.

    Several runs are an ensemble: the mean of their probabilities. batch_size is a rank's; 0 takes
    the first run's own.
    """
    models = [load_trained(model_folder(run, checkpoint), raw=raw) for run in runs]
    accelerator = make_accelerator(models[0].config, system)
    written = []
    with open_shards(data) as shards:
        for split in splits:
            if split not in shards.manifest.splits:
                raise ValueError(
                    f"{data}: no split {split!r}; it has {', '.join(shards.manifest.splits)}"
                )
        for trained in models:
            check_fit(trained, shards)
        predict = _mean_of([_predictor(accelerator, trained, tta=tta) for trained in models])
        info = PredictionsInfo(
            class_names=models[0].inputs.class_names,
            run=", ".join(runs),
            data_url=shards.url,
            manifest_sha256=shards.manifest_sha256,
            checkpoint=checkpoint,
            tta=len(symmetries(models[0].config.view)) if tta else 1,
        )
        for split in splits:
            found = _with_progress(
                accelerator,
                predict,
                shards,
                split,
                batch_size=batch_size or models[0].config.batch_size,
                readers=system.readers,
            )
            path = out / "predictions" / f"{split}.parquet"
            if accelerator.is_main_process:
                write_predictions(path, _table(shards, split, found, info), info)
            written.append(path)
    return written


def _predictor(accelerator: Accelerator, trained: Trained, *, tta: bool) -> Predict:
    plain = softmax_of(trained.model.to(accelerator.device))

    def predict(x: Tensor) -> Tensor:
        with accelerator.autocast():
            return plain(x)

    if not tta:
        return predict
    return averaged(predict, symmetries(trained.config.view), trained.config.crop)


def _mean_of(predictors: list[Predict]) -> Predict:
    def predict(x: Tensor) -> Tensor:
        total = predictors[0](x)
        for predictor in predictors[1:]:
            total = total + predictor(x)
        return total / len(predictors)

    return predict


def _with_progress(
    accelerator: Accelerator,
    predictor: Predict,
    shards: ShardSet,
    split: str,
    *,
    batch_size: int,
    readers: int,
) -> Floats:
    def run(advance: Callable[[int], None]) -> Floats:
        return split_probabilities(
            accelerator,
            predictor,
            shards,
            split,
            batch_size=batch_size,
            readers=readers,
            advance=advance,
        )

    if not accelerator.is_main_process:
        return run(lambda count: None)
    mine = -(-len(shards.index(split)) // accelerator.num_processes)
    with progress(f"predict {split}", mine) as advance:
        return run(advance)


def _table(shards: ShardSet, split: str, found: Floats, info: PredictionsInfo) -> pa.Table:
    index = shards.index(split).table
    table = index.select([*IDENTITY_COLUMNS, "qc_flags"])
    table = table.append_column("split", pa.array([split] * len(table)))
    columns = probability_columns(info.class_names)
    values = found[:, 1:] if len(columns) == 1 else found
    for number, name in enumerate(columns):
        table = table.append_column(name, pa.array(values[:, number]))
    return table
