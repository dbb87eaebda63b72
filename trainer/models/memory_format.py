"""A model's memory format, channels_last or contiguous, and recomputed activations.

Which layout is faster depends on the model: layers without a channels_last kernel (some norms and
poolings) make every neighboring layer convert back and forth, so `trial` times both.
"""

from functools import partial

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from trainer.config import MemoryFormat


def to_memory_format(model: nn.Module, name: MemoryFormat) -> nn.Module:
    """Lay out each convolution's weights.

    By module, because `model.to(memory_format=torch.channels_last_3d)` refuses a model that also
    has a 2D convolution.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            target = torch.channels_last
        elif isinstance(module, nn.Conv3d):
            target = torch.channels_last_3d
        else:
            continue
        chosen = torch.contiguous_format if name == "contiguous" else target
        module.weight.data = module.weight.data.contiguous(memory_format=chosen)
    return model


def checkpoint_activations(model: nn.Module) -> None:
    """Keep only the inputs of the model's stages, and compute the rest again when going back.

    Stages are the outermost `nn.Sequential`s that hold convolutions; names of weights stay.
    """
    stages: list[nn.Module] = []

    def find(module: nn.Module) -> None:
        for child in module.children():
            inner = any(isinstance(m, nn.Conv2d | nn.Conv3d) for m in child.modules())
            if isinstance(child, nn.Sequential) and inner:
                stages.append(child)
            else:
                find(child)

    find(model)
    for stage in stages:
        stage.forward = partial(checkpoint, stage.forward, use_reentrant=False)
