"""BatchNorm to GroupNorm, for any model: small batches of 3D images give poor batch statistics."""

from collections.abc import Callable

import torch
from torch import nn

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
MOST_GROUPS = 32  # as in Wu and He 2018


def set_norm(model: nn.Module, kind: str) -> tuple[nn.Module, list[str]]:
    """Return the model with `batch`, `group` or `sync` (over ranks) norms, and what changed."""
    if kind == "group":
        return model, to_group_norm(model)
    if kind == "sync":
        convert: Callable[[nn.Module], nn.Module] = nn.SyncBatchNorm.convert_sync_batchnorm
        synced = convert(model)
        return synced, [n for n, m in synced.named_modules() if isinstance(m, nn.SyncBatchNorm)]
    return model, []


def to_group_norm(model: nn.Module) -> list[str]:
    """Replace every batch norm in place; return each one's name, channels and groups.

    Scale and shift are kept; running statistics have no counterpart and are dropped.
    """
    replaced = []
    for name, module in list(model.named_modules()):
        if not isinstance(module, BATCH_NORMS):
            continue
        parent, _, leaf = name.rpartition(".")
        new = group_norm_like(module)
        model.get_submodule(parent).register_module(leaf, new)
        replaced.append(f"{name} ({new.num_channels} channels, {new.num_groups} groups)")
    return replaced


def group_norm_like(norm: nn.Module) -> nn.GroupNorm:
    """Return a GroupNorm with a batch norm's channels, epsilon, scale and shift."""
    assert isinstance(norm, BATCH_NORMS)
    channels = norm.num_features
    # At least two channels per group, where there are that many, or it is an instance norm.
    fitting = (n for n in range(MOST_GROUPS, 0, -1) if channels % n == 0 and 2 * n <= channels)
    new = nn.GroupNorm(next(fitting, 1), channels, eps=norm.eps, affine=norm.affine)
    if norm.affine:
        with torch.no_grad():
            new.weight.copy_(norm.weight)
            new.bias.copy_(norm.bias)
    return new.to(norm.weight.device if norm.affine else "cpu")
