"""Predictions of trained models: a row per sample, for any split of any shard set that fits."""

import sys
from contextlib import nullcontext
from functools import partial
from itertools import product
from pathlib import Path

import pyarrow as pa

from eval.inputs.predictions import PredictionsInfo, with_probabilities, write_predictions
from shards.cli.progress import progress
from shards.contract.schema import IDENTITY_COLUMNS, with_names
from shards.images.channels import em_channels
from shards.storage.locks import sole_writer_of_file
from shards.stream.shardset import ShardSet, open_shards
from trainer.augment.stress import stressed
from trainer.checkpoint.load import Trained, check_fit
from trainer.checkpoint.run_folder import absolute_url, read_run
from trainer.config import System
from trainer.models.classifier import sections_to_read
from trainer.models.infer import Alter, Floats, split_probabilities
from trainer.predict.ensemble import Options, load_models, mean_of, native_config, predictor
from trainer.setup.distributed import make_accelerator
from trainer.setup.faults import with_cures


def predict_runs(
    runs: tuple[str, ...],
    *,
    data: str | None,
    fold: int | None = None,
    out: Path,
    splits: tuple[str, ...],
    options: Options,
    system: System,
) -> list[Path]:
    """Write OUT/predictions/SPLIT.parquet for each split and return the paths.

    `data` and `fold` are the first run's own shard set where `data` is None; it must then be as it
    was in training. Several runs are an ensemble: the mean of their probabilities. With
    `options.stress` the files are SPLIT.NAME.parquet, of degraded images.
    """
    if data is None:
        own = read_run(Path(runs[0]))
        place, fold = own.data_url, own.fold
    else:
        place = data
    models = load_models(runs, options)
    first = native_config(models[0].config)
    batch_size = options.batch_size or first.batch_size
    accelerator = make_accelerator(first, system)
    written = []
    with open_shards(place, fold=fold) as shards:
        for split in splits:
            if split not in shards.manifest.splits:
                raise ValueError(
                    f"{shards.url}: no split {split!r}; it has {', '.join(shards.manifest.splits)}"
                )
        manifest = shards.manifest
        for number, trained in enumerate(models):
            check_fit(trained, manifest.image, manifest.class_names, where=shards.url)
            _check_data(trained, shards, own=data is None and not number)
        wanted = {sections_to_read(m.config, shards.manifest.image) for m in models}
        sections = wanted.pop() if len(wanted) == 1 else None  # several read whole cubes
        predict = mean_of([predictor(accelerator, trained, options) for trained in models])
        for split, name in product(splits, options.stress or (None,)):
            stem = f"{split}.{name}" if name else split
            info = PredictionsInfo(
                class_names=models[0].inputs.class_names,
                run=", ".join(runs),
                data_url=absolute_url(shards.url),
                fold=shards.fold,
                manifest_sha256=shards.manifest_sha256,
                checkpoint=options.checkpoint,
                tta=options.num_views,
                stress=name,
            )
            per_rank = -(-len(shards.index(split)) // accelerator.num_processes)
            shown = progress(f"predict {stem}", per_rank) if accelerator.is_main_process else None
            path = out / "predictions" / f"{stem}.parquet"
            with (
                sole_writer_of_file(path) if accelerator.is_main_process else nullcontext(),
                shown or nullcontext(lambda count: None) as advance,
                with_cures(batch_size=batch_size, training=False),
            ):
                probabilities = split_probabilities(
                    accelerator,
                    predict,
                    shards,
                    split,
                    batch_size=batch_size,
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
    return with_probabilities(table, probabilities, info.class_names)
