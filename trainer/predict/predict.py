"""Predictions of trained models: a row per sample, for any split of any shard set that fits."""

import sys
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path

import pyarrow as pa
from accelerate import Accelerator
from torch import Tensor

from eval.inputs.columns import probability_columns
from eval.inputs.predictions import PredictionsInfo, write_predictions
from shards.cli.progress import progress
from shards.contract.schema import IDENTITY_COLUMNS, with_names
from shards.images.channels import em_channels
from shards.storage.locks import sole_writer_of_file
from shards.stream.shardset import ShardSet, open_shards
from trainer.augment.stress import stressed
from trainer.checkpoint.load import Trained, check_fit, load_trained, model_folder
from trainer.checkpoint.run_folder import absolute_url, read_run
from trainer.config import System
from trainer.models.classifier import sections_to_read
from trainer.models.infer import Alter, Floats, Predict, softmax_of, split_probabilities
from trainer.predict.tta import Transform, averaged, symmetries
from trainer.setup.distributed import make_accelerator
from trainer.setup.faults import with_cures
from trainer.setup.preflight import is_native


def predict_runs(
    runs: tuple[str, ...],
    *,
    data: str | None,
    fold: int | None = None,
    out: Path,
    splits: tuple[str, ...],
    checkpoint: str = "best",
    tta: bool = False,
    in_plane: bool = False,
    raw: bool = False,
    stress: tuple[str, ...] = (),
    batch_size: int = 0,
    system: System,
) -> list[Path]:
    """Write OUT/predictions/SPLIT.parquet for each split and return the paths.

    `data` and `fold` are the first run's own shard set where `data` is None; it must then be as it
    was in training. Several runs are an ensemble: the mean of their probabilities. `tta` averages
    over 8 symmetries, `in_plane` over the other 8 of a cube (see `symmetries`). With `stress` the
    files are SPLIT.NAME.parquet, of degraded images. `batch_size` is per rank; 0 takes the first
    run's own.
    """
    if data is None:
        own = read_run(Path(runs[0]))
        place, fold = own.data_url, own.fold
    else:
        place = data
    models = [load_trained(model_folder(run, checkpoint), raw=raw) for run in runs]
    first = models[0].config
    if not is_native(first.precision):
        sys.stderr.write(
            f"this device does not compute in {first.precision}: predicting in full precision\n"
        )
        first = replace(first, precision="no")
    accelerator = make_accelerator(first, system)
    written = []
    with open_shards(place, fold=fold) as shards:
        for split in splits:
            if split not in shards.manifest.splits:
                raise ValueError(
                    f"{shards.url}: no split {split!r}; it has {', '.join(shards.manifest.splits)}"
                )
        for number, trained in enumerate(models):
            check_fit(trained, shards)
            _check_data(trained, shards, own=data is None and not number)
        wanted = {sections_to_read(m.config, shards.manifest.image) for m in models}
        sections = wanted.pop() if len(wanted) == 1 else None  # several read whole cubes
        views = symmetries(first.view, in_plane=in_plane) if tta or in_plane else []
        predict = _mean_of([_predictor(accelerator, trained, views) for trained in models])
        for split, name in product(splits, stress or (None,)):
            stem = f"{split}.{name}" if name else split
            info = PredictionsInfo(
                class_names=models[0].inputs.class_names,
                run=", ".join(runs),
                data_url=absolute_url(shards.url),
                fold=shards.fold,
                manifest_sha256=shards.manifest_sha256,
                checkpoint=checkpoint,
                tta=max(1, len(views)),
                stress=name,
            )
            per_rank = -(-len(shards.index(split)) // accelerator.num_processes)
            shown = progress(f"predict {stem}", per_rank) if accelerator.is_main_process else None
            path = out / "predictions" / f"{stem}.parquet"
            with (
                sole_writer_of_file(path) if accelerator.is_main_process else nullcontext(),
                shown or nullcontext(lambda count: None) as advance,
                with_cures(batch_size=batch_size or first.batch_size, training=False),
            ):
                probabilities = split_probabilities(
                    accelerator,
                    predict,
                    shards,
                    split,
                    batch_size=batch_size or first.batch_size,
                    readers=system.readers,
                    sections=sections,
                    alter=_stress(name, models, shards) if name else None,
                    advance=advance,
                )
                if accelerator.is_main_process:
                    write_predictions(path, _table(shards, split, probabilities, info), info)
            written.append(path)
    return written


def _check_data(trained: Trained, shards: ShardSet, *, own: bool) -> None:
    """Refuse a run's own shard set that was altered since; note where it is another one."""
    if trained.state.manifest_sha256 == shards.manifest_sha256:
        return
    if own:
        raise ValueError(
            f"{shards.url} is not as it was when {trained.folder} was trained (manifest "
            f"{trained.state.manifest_sha256[:12]}, now {shards.manifest_sha256[:12]}), so samples "
            "of test may have been trained on; train again, or say --data to predict all the same"
        )
    sys.stderr.write(
        f"note: {trained.folder} was trained on another shard set; where the two share samples, "
        "it may have been trained on some of these\n"
    )


def _predictor(accelerator: Accelerator, trained: Trained, views: list[Transform]) -> Predict:
    plain = softmax_of(trained.model.to(accelerator.device))

    def predict(x: Tensor) -> Tensor:
        with accelerator.autocast():
            return plain(x)

    return averaged(predict, views, trained.config.crop) if views else predict


def _mean_of(predictors: list[Predict]) -> Predict:
    def predict(x: Tensor) -> Tensor:
        total = predictors[0](x)
        for predictor in predictors[1:]:
            total = total + predictor(x)
        return total / len(predictors)

    return predict


def _stress(name: str, models: list[Trained], shards: ShardSet) -> Alter:
    """Return a function that degrades images within the models' crop, so that all of it is seen."""
    crops = {trained.config.crop for trained in models}
    if len(crops) > 1:
        raise ValueError(
            f"the runs look at crops of different sizes, {', '.join(map(str, sorted(crops)))}; "
            "predict under --stress with one at a time"
        )
    channels = shards.manifest.image.channels
    if not (em := em_channels(channels)):
        raise ValueError(
            f"{shards.url}: channels {', '.join(channels)} are masks, which --stress leaves alone; "
            "correct the names of the channels in its manifest, or predict without --stress"
        )
    return partial(stressed, name=name, crop=crops.pop(), seed=models[0].config.seed, em=em)


def _table(shards: ShardSet, split: str, probabilities: Floats, info: PredictionsInfo) -> pa.Table:
    index = shards.index(split).table
    known = with_names(IDENTITY_COLUMNS, index.column_names)
    table = index.select([*known, "qc_flags"])
    table = table.append_column("split", pa.array([split] * len(table)))
    columns = probability_columns(info.class_names)
    values = probabilities[:, 1:] if len(columns) == 1 else probabilities
    for number, name in enumerate(columns):
        table = table.append_column(name, pa.array(values[:, number]))
    return table
