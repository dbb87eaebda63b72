"""Probabilities of a whole split, each sample exactly once whatever the number of ranks."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from accelerate import Accelerator
from torch import Tensor

from shards.stream.section_view import Sections
from shards.stream.shardset import ShardSet
from shards.stream.stream import evaluation_batches
from trainer.models.classifier import as_stored
from trainer.setup.distributed import sum_over_ranks

Floats = npt.NDArray[np.float64]
Predict = Callable[[Tensor], Tensor]  # images (b, c, [z], y, x) uint8 to probabilities (b, k)
Alter = Callable[[Tensor, npt.NDArray[np.int64]], Tensor]  # images and their rows to other images


def split_probabilities(
    accelerator: Accelerator,
    predict_batch: Predict,
    shards: ShardSet,
    split: str,
    *,
    batch_size: int,
    readers: int = 2,
    sections: Sections | None = None,
    alter: Alter | None = None,
    advance: Callable[[int], None] = lambda count: None,
) -> Floats:
    """Return (n, k) in the order of the split's index, the same on every rank.

    `batch_size` is of one rank. Images go through `alter` first. `advance` gets the number of
    samples that this rank has just done.
    """
    count = len(shards.index(split))
    if not count:
        raise ValueError(f"{shards.url}: split {split} has no samples; pack one that has some")
    classes = len(shards.manifest.class_names)
    # One more column counts how often each sample was predicted; ranks fill disjoint rows.
    sums = torch.zeros(count, classes + 1, dtype=torch.float64)
    rank, world_size = accelerator.process_index, accelerator.num_processes
    batches = evaluation_batches(
        shards, split, batch_size, rank, world_size, num_threads=readers, sections=sections
    )
    with torch.inference_mode():
        for batch in batches:
            x = torch.from_numpy(batch.images).to(accelerator.device)
            x = as_stored(x, shards.manifest.image)
            rows = torch.from_numpy(batch.rows)
            x = alter(x, batch.rows) if alter else x
            sums[rows, :classes] = predict_batch(x).double().cpu()
            sums[rows, classes] += 1.0
            advance(len(batch.rows))
    sums = sum_over_ranks(accelerator, sums)
    assert bool((sums[:, classes] == 1).all()), "a sample was predicted twice or never"
    return sums[:, :classes].numpy()


def softmax_of(model: torch.nn.Module) -> Predict:
    """Return a function from images to probabilities (b, k) of a model that returns logits."""
    return lambda x: model(x).float().softmax(dim=1)
