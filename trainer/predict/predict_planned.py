"""Predictions of a planned data set, part by part, straight from its volume."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from eval.inputs.parts import PARTS, Parts, part_path, read_parts_info, rejects_path
from eval.inputs.predictions import PredictionsInfo, with_probabilities, write_predictions
from shards.cli.progress import Advance, progress
from shards.contract.documents import write_document
from shards.contract.schema import IDENTITY_COLUMNS
from shards.storage.atomic import sha256_of_file
from shards.storage.locks import shared_writer
from trainer.checkpoint.checkpoint import STATE
from trainer.checkpoint.load import Trained, check_fit
from trainer.config import System, differences
from trainer.models.infer import Predict
from trainer.predict.ensemble import Options, load_models, mean_of, native_config, predictor
from trainer.predict.planned import BlockImages, Images, PlannedData, write_rejects
from trainer.setup.distributed import make_accelerator
from trainer.setup.faults import with_cures

TABLE = pa.schema([*IDENTITY_COLUMNS.items(), ("qc_flags", pa.string()), ("split", pa.string())])
Network = Callable[[dict[str, Images]], tuple[Tensor, Tensor]]  # to (b, classes), (b, features)


def predict_planned(
    runs: tuple[str, ...],
    *,
    data: Path,
    out: Path,
    splits: tuple[str, ...],
    options: Options,
    system: System,
    task_index: int,
    num_tasks: int,
    embed: bool = False,
) -> str:
    """Write a part of predictions for every few blocks of the plan in `data`; return a summary.

    Parts that are in `out` already are kept; parts of other models, another plan or other options
    are a `ValueError`. More rejects than the job allows are one, too, once the parts are there.
    Each model sees the view of the plan that it was trained for; an image is read once for all of
    them. `embed` adds the input (features) of the model's last layer, float16.
    """
    models = load_models(runs, options)
    planned = PlannedData(data, splits)
    views = [_view_of(trained, planned) for trained in models]
    config = native_config(models[0].config)
    accelerator = make_accelerator(config, system)
    parts = _parts_of(runs, models, planned, options, embed=embed)
    network = _network(accelerator, models, views, options, embed=embed)
    batch_size = options.batch_size or config.batch_size
    name, mine = planned.share(
        index=task_index,
        count=num_tasks,
        rank=accelerator.process_index,
        ranks=accelerator.num_processes,
    )
    with shared_writer(out, name):
        if (out / PARTS).exists():
            parts = _same(out, read_parts_info(out), parts)
        todo = [part for part in mine if not part_path(out, part).is_file()]
        num_predicted, reasons = 0, Counter[str]()
        if todo:
            planned.check()
            write_document(out / PARTS, parts)
        shown = progress("predict", planned.num_samples(todo))
        with (
            shown if accelerator.is_main_process else nullcontext(_nothing) as advance,
            with_cures(batch_size=batch_size, training=False),
        ):
            blocks = planned.read(todo, sorted(set(views)), num_threads=system.readers)
            for part, of_part in groupby(blocks, key=itemgetter(0)):
                read: list[BlockImages] = []
                images = _noted((block for _, block in of_part), read, advance)
                table = _predicted(images, read, network, batch_size, parts.predictions)
                write_rejects(rejects_path(out, part), [block.rejects for block in read])
                path = part_path(out, part)
                write_predictions(path, table, parts.predictions, may_be_empty=True)
                num_predicted += len(table)
                reasons.update(reason for block in read for reason in block.rejects.reason)
    accelerator.wait_for_everyone()
    planned.check_rejects(num_predicted, reasons)
    return (
        f"{len(todo)} of {len(mine)} parts written: {num_predicted} samples predicted, "
        f"{reasons.total()} rejected"
    )


def _view_of(trained: Trained, planned: PlannedData) -> str:
    """Return the view of the plan whose images a model was trained on, or such larger ones."""
    own = trained.inputs.image
    alike = [name for name, image in planned.images.items() if image.view == own.view]
    right = [name for name in alike if planned.images[name].voxel_size_nm == own.voxel_size_nm]
    same = [name for name in right if planned.images[name].shape == own.shape]
    for name in (*same, *right, *alike):
        where = f"{planned.layout.root}, view {name}"
        check_fit(trained, planned.images[name], planned.class_names, where=where)
        return name
    raise ValueError(
        f"{trained.folder} needs a {own.view}, but {planned.layout.root} plans "
        f"{', '.join(planned.images)}; add such a view to samples.views of the job and plan again"
    )


def _parts_of(
    runs: Sequence[str],
    models: Sequence[Trained],
    planned: PlannedData,
    options: Options,
    *,
    embed: bool,
) -> Parts:
    info = PredictionsInfo(
        class_names=planned.class_names,
        run=", ".join(runs),
        dataset=str(planned.layout.root.resolve()),
        checkpoint=options.checkpoint,
        tta=options.num_views,
    )
    return Parts(
        predictions=info,
        num_parts=planned.num_parts,
        plan_sha256=planned.plan_sha256,
        models=tuple(sha256_of_file(trained.folder / STATE) for trained in models),
        splits=planned.splits,
        raw=options.raw,
        in_plane=options.in_plane,
        embed=embed,
    )


def _same(out: Path, there: Parts, asked: Parts) -> Parts:
    """Return what the parts in `out` are of; that must be what is asked for, wherever it lies."""
    names = there.predictions
    alike = replace(asked.predictions, run=names.run, dataset=names.dataset)
    asked = replace(asked, predictions=alike)
    if changed := differences(there, asked):
        raise ValueError(
            f"{out} holds predictions of something else ({'; '.join(changed)}); choose another "
            "--out, or predict with the same models, plan and options to complete it"
        )
    return there


def _network(
    accelerator: Accelerator,
    models: Sequence[Trained],
    views: Sequence[str],
    options: Options,
    *,
    embed: bool,
) -> Network:
    """Return a function from images by view to probabilities and features (none: (b, 0))."""
    predictors = [predictor(accelerator, trained, options) for trained in models]
    by_model = list(zip(views, predictors, strict=True))
    predict = mean_of([partial(_of_view, view=view, model=model) for view, model in by_model])
    features: list[Tensor] = []
    if embed:
        *_, head = (module for module in models[0].model.modules() if isinstance(module, nn.Linear))
        head.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0].half()))

    def moved(images: Images) -> Tensor:
        x = torch.from_numpy(images)
        if accelerator.device.type == "cuda":
            return x.pin_memory().to(accelerator.device, non_blocking=True)
        return x.to(accelerator.device)

    @torch.inference_mode()
    def network(images: dict[str, Images]) -> tuple[Tensor, Tensor]:
        probabilities = predict({name: moved(stack) for name, stack in images.items()})
        return probabilities, features.pop() if embed else probabilities[:, :0]

    return network


def _of_view(x: dict[str, Tensor], *, view: str, model: Predict) -> Tensor:
    return model(x[view])


def _noted(
    blocks: Iterable[BlockImages], read: list[BlockImages], advance: Advance
) -> Iterator[dict[str, Images]]:
    """Yield the blocks' images, and note the rest of each block in `read`."""
    for block in blocks:
        yield block.images
        block.images.clear()
        read.append(block)
        advance(block.planned)


def _predicted(
    blocks: Iterable[dict[str, Images]],
    read: list[BlockImages],
    network: Network,
    batch_size: int,
    info: PredictionsInfo,
) -> pa.Table:
    """Return the table of a part, whose samples are in `read` once all blocks were taken."""
    outputs: list[tuple[Tensor, Tensor]] = []
    for images in _batches(blocks, batch_size):
        outputs.append(network(images))
        if len(outputs) > 1:  # not this batch: what comes next overlaps with its computing
            outputs[-2] = outputs[-2][0].cpu(), outputs[-2][1].cpu()
    frame = pd.concat([block.samples for block in read], ignore_index=True)
    table = pa.Table.from_pandas(frame[TABLE.names], TABLE, preserve_index=False)
    table = table.replace_schema_metadata(None)
    if not outputs:
        return with_probabilities(table, np.empty((0, len(info.class_names))), info.class_names)
    probabilities, features = (torch.cat([o[i].cpu() for o in outputs]) for i in (0, 1))
    table = with_probabilities(table, probabilities.double().numpy(), info.class_names)
    if features.shape[1]:
        values = pa.array(features.numpy().ravel())
        column = pa.FixedSizeListArray.from_arrays(values, features.shape[1])
        table = table.append_column("embedding", column)
    return table


def _batches(blocks: Iterable[dict[str, Images]], size: int) -> Iterator[dict[str, Images]]:
    """Yield the images of blocks in batches of `size`, the last one smaller."""
    rest: dict[str, Images] = {}
    for block in blocks:
        joined = {n: np.concatenate([rest[n], x]) for n, x in block.items()} if rest else block
        count = len(next(iter(joined.values())))
        whole = count - count % size
        for start in range(0, whole, size):
            yield {name: images[start : start + size] for name, images in joined.items()}
        rest = {name: images[whole:] for name, images in joined.items()}
    if rest and len(next(iter(rest.values()))):
        yield rest


def _nothing(count: int, note: str = "") -> None:
    """Show no progress: ranks but the first."""
