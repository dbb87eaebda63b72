"""MixUp and CutMix: each sample is mixed with the one before it in its rank's batch.

λ is the part of the sample itself, by voxels for CutMix; targets are mixed alike. What is drawn is
a function of (seed, epoch, row), but the partner depends on the batch, so on the number of ranks.
"""

import numpy as np
import numpy.typing as npt
from scipy.special import betaincinv
from torch import Tensor

from trainer.augment.intensity import per_sample
from trainer.augment.keyed_random import uniforms

Floats = npt.NDArray[np.float64]


def mix(
    x: Tensor,
    targets_bk: Tensor,
    rows: npt.NDArray[np.int64],
    *,
    mixup: float,
    cutmix: float,
    seed: int,
    epoch: int,
) -> tuple[Tensor, Tensor]:
    """Return mixed images (b, c, [z], y, x) and targets (b, k)."""
    draws = uniforms("mix", seed, epoch, rows, 2 + x.ndim)
    cut = draws[:, 0] < (0.5 if mixup and cutmix else float(bool(cutmix)))
    alpha = np.where(cut, cutmix, mixup)
    lam = betaincinv(alpha, alpha, draws[:, 1])
    if mixup:
        whole = np.where(cut, 1.0, lam)
        weight = per_sample(whole, x)
        mixed = x.float() * weight + x.roll(1, 0).float() * (1.0 - weight)
        x, partner = mixed, x.roll(1, 0)
    else:
        partner = x.roll(1, 0)
    if cutmix:
        x, lam = cut_and_paste(x, partner, lam, draws[:, 2:], cut)
    weight = per_sample(lam, targets_bk)
    return x, targets_bk * weight + targets_bk.roll(1, 0) * (1.0 - weight)


def cut_and_paste(
    x: Tensor, partner: Tensor, lam: Floats, centers: Floats, chosen: npt.NDArray[np.bool_]
) -> tuple[Tensor, Floats]:
    """Paste a box of the partner into each chosen sample; return images and true λ (b,).

    The box covers the part (1 - λ)^(1/d) of each axis about a uniform center, less what lies
    outside the image (Yun et al. 2019); λ is then what is left of the sample.
    """
    x, true = x.clone(), lam.copy()
    sizes = np.array(x.shape[2:])
    for b in np.flatnonzero(chosen):
        sides = np.rint(sizes * (1.0 - lam[b]) ** (1.0 / len(sizes)))
        start = np.floor(centers[b, : len(sizes)] * sizes - sides / 2.0)
        low = np.clip(start, 0, sizes).astype(int)
        high = np.clip(start + sides, 0, sizes).astype(int)
        box = tuple(slice(i, j) for i, j in zip(low.tolist(), high.tolist(), strict=True))
        x[b][:, *box] = partner[b][:, *box].to(x.dtype)
        true[b] = 1.0 - float(np.prod(high - low) / np.prod(sizes))
    return x, true
