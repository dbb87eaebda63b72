"""Memory: channels_last or contiguous, chosen by timing the real model both ways, and recomputing.

Which is faster depends on the model: layers without a channels_last kernel (some norms and
poolings) make every neighbour convert, so neither is safe to assume.
"""

import time
from collections.abc import Callable
from copy import deepcopy
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

TIMED_STEPS = 2


def to_memory_format(model: nn.Module, name: str) -> nn.Module:
    """Lay out each convolution's weights; `name` is `contiguous` or `channels_last`.

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


def choose_memory_format(
    model: nn.Module, step: Callable[[nn.Module], Tensor], device: torch.device
) -> tuple[str, dict[str, float]]:
    """Return the faster of the two layouts and the seconds a step of each.

    `step` runs the model forward on a real batch and returns a loss; it works on a copy, so the
    model's weights and statistics stay as they are.
    """
    seconds = {}
    for name in ("contiguous", "channels_last"):
        trial = to_memory_format(deepcopy(model), name)
        torch.autograd.backward(step(trial))
        _wait(device)
        start = time.perf_counter()
        for _ in range(TIMED_STEPS):
            torch.autograd.backward(step(trial))
        _wait(device)
        seconds[name] = (time.perf_counter() - start) / TIMED_STEPS
    return min(seconds, key=lambda name: seconds[name]), seconds


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


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
