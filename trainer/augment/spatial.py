"""Augmentation of a batch on its device: uint8 images in, images of the crop's size out.

What happens to a sample is a function of (seed, epoch, row) alone (see `keyed_random`).
b batch, c channels, z y x axes; 2D images have no z. Gray values are 0 to 255 throughout.
Geometry applies to every channel; gray values change in those that hold EM, not in masks.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import ndtri
from torch import Tensor
from torch.nn.functional import grid_sample, interpolate

from trainer.augment.defects import damaged
from trainer.augment.intensity import per_sample, regraded
from trainer.augment.keyed_random import Draw, Rows, uniforms
from trainer.config import Augment
from trainer.models.classifier import center_crop, crop_start

ELASTIC_NODES = 4


def augment_batch(
    x: Tensor,
    rows: Rows,
    augment: Augment,
    *,
    crop: tuple[int, ...],
    seed: int,
    epoch: int,
    em: Sequence[int] = (0,),
) -> Tensor:
    """Return augmented images of size `crop` (of x's own size when empty).

    x: (b, c, [z], y, x) uint8; rows (b,) are the samples' numbers in their split; `em` are the
    channels that hold EM, if any. The result is float32 when gray values change, uint8 otherwise.
    """

    def draw(purpose: str, count: int) -> npt.NDArray[np.float64]:
        return uniforms(purpose, seed, epoch, rows, count)

    crop = crop or tuple(x.shape[2:])
    if augment.rotate or augment.scale or augment.elastic_vx:
        x = _resampled(x, crop, augment, draw)
    else:
        x = _shifted_crop(x, crop, augment.shift_vx, draw("shift", 2))
    if augment.flip:
        x = _flipped(x, draw("flip", x.ndim - 2) < 0.5)
    if augment.turn:
        x = _turned(x, np.floor(draw("turn", 1)[:, 0] * 4).astype(np.int64))
    if not em:
        return x
    gray = x[:, list(em)]
    changed = damaged(regraded(gray, augment, draw), rows, augment, draw, seed=seed, epoch=epoch)
    if changed is gray:
        return x
    if gray.shape[1] == x.shape[1]:
        return changed
    x = x.to(changed.dtype)
    x[:, list(em)] = changed
    return x


def _shifted_crop(
    x: Tensor, crop: tuple[int, ...], shift_vx: int, draws: npt.NDArray[np.float64]
) -> Tensor:
    if shift_vx == 0:
        return center_crop(x, crop)
    x = center_crop(x, crop[:-2] + tuple(x.shape[-2:]))
    parts = []
    for image, draw in zip(x, draws, strict=True):
        y, x_start = (
            _shifted_start(image.shape[axis], crop[axis], shift_vx, u)
            for axis, u in zip((-2, -1), draw, strict=True)
        )
        parts.append(image[..., y : y + crop[-2], x_start : x_start + crop[-1]])
    return torch.stack(parts)


def _shifted_start(size: int, crop: int, shift: int, u: float) -> int:
    start = crop_start(size, crop)
    return start + round((2.0 * u - 1.0) * min(shift, start, size - crop - start))


def _resampled(x: Tensor, crop: tuple[int, ...], augment: Augment, draw: Draw) -> Tensor:
    """Rotate, scale, deform, shift in the plane, and crop, in one bilinear resampling."""
    x = center_crop(x, crop[:-2] + tuple(x.shape[-2:]))
    points = _source_points(tuple(x.shape[-2:]), crop[-2:], augment, draw)
    flat = x.reshape(len(x), -1, *x.shape[-2:]).float()
    grid = torch.from_numpy(points.astype(np.float32)).to(x.device)
    out = grid_sample(flat, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    return out.reshape(*x.shape[:-2], *crop[-2:])


def _source_points(
    size: tuple[int, ...], crop: tuple[int, ...], augment: Augment, draw: Draw
) -> npt.NDArray[np.float64]:
    """Return where each pixel of the crop is read, (b, y, x, 2) as x, y in grid_sample's units."""
    spread = 2.0 * draw("affine", 4) - 1.0
    angle = np.deg2rad(augment.rotate * spread[:, 0])
    factor = (1.0 + augment.scale) ** spread[:, 1]
    y0, x0 = np.meshgrid(*(np.arange(n) - (n - 1) / 2.0 for n in crop), indexing="ij")
    cos, sin = ((factor * f(angle))[:, None, None] for f in (np.cos, np.sin))
    shifts = augment.shift_vx * spread[:, 2:, None, None]
    y, x = cos * y0 + sin * x0 + shifts[:, 0], cos * x0 - sin * y0 + shifts[:, 1]
    if augment.elastic_vx:
        nodes = ndtri(np.clip(draw("elastic", 2 * ELASTIC_NODES**2), 1e-9, 1 - 1e-9))
        nodes = torch.from_numpy(nodes.reshape(-1, 2, ELASTIC_NODES, ELASTIC_NODES))
        field = interpolate(nodes, size=crop, mode="bicubic", align_corners=True).numpy()
        y, x = y + augment.elastic_vx * field[:, 0], x + augment.elastic_vx * field[:, 1]
    # The crop's own center, which for an odd border is half a voxel off the image's.
    centers = [crop_start(n, c) + (c - 1) / 2.0 for n, c in zip(size, crop, strict=True)]
    points = [
        (2.0 * (p + center) + 1.0) / n - 1.0
        for p, center, n in zip((y, x), centers, size, strict=True)
    ]
    return np.stack(points[::-1], axis=-1)


def _flipped(x: Tensor, flips: npt.NDArray[np.bool_]) -> Tensor:
    """Mirror axis 2 + a of sample b where flips[b, a]."""
    for a in range(flips.shape[1]):
        x = torch.where(per_sample(flips[:, a], x), x.flip(2 + a), x)
    return x


def _turned(x: Tensor, quarters: npt.NDArray[np.int64]) -> Tensor:
    if x.shape[-1] != x.shape[-2]:
        raise ValueError(
            f"quarter turns need square images, got {tuple(x.shape[-2:])} (y, x); "
            "crop to a square or use --augment.no-turn"
        )
    for count in (1, 2, 3):
        x = torch.where(per_sample(quarters == count, x), x.rot90(count, (-2, -1)), x)
    return x
