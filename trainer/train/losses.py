"""Losses: logits (b, k) and targets (b, k) of probabilities to a loss per sample (b,).

Every loss takes soft targets and is linear in the samples, so that parts of a batch, or of a global
batch on other ranks, add up. Class weights average to 1 over the training samples.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import (
    binary_cross_entropy_with_logits,
    cross_entropy,
    log_softmax,
)

from trainer.config import Config

Loss = Callable[[Tensor, Tensor], Tensor]
EFFECTIVE_BETA = 0.999


def build_loss(config: Config, counts: Sequence[int]) -> Loss:
    """Return the loss of a config for classes with `counts` training samples each."""
    weights = torch.tensor(class_weights(config.class_weights, counts))
    if len(counts) != 2 and (config.loss == "bce" or config.focal_alpha >= 0):
        raise ValueError(
            f"loss bce and focal_alpha are for two classes, the data has {len(counts)}; "
            "use --loss cross_entropy or focal, with --class-weights"
        )
    if config.loss == "focal" and config.focal_alpha >= 0:
        weights = weights * torch.tensor([1.0 - config.focal_alpha, config.focal_alpha])

    def loss(logits_bk: Tensor, targets_bk: Tensor) -> Tensor:
        logits_bk, w_k = logits_bk.float(), weights.to(logits_bk.device)
        share = config.label_smoothing  # of the target, to all classes alike (Szegedy et al. 2016)
        targets_bk = targets_bk * (1.0 - share) + share / targets_bk.shape[1]
        if config.loss == "focal":
            return focal(logits_bk, targets_bk, w_k, config.focal_gamma)
        if config.loss == "bce":
            return binary_cross_entropy(logits_bk, targets_bk, w_k)
        return cross_entropy(logits_bk, targets_bk, weight=w_k, reduction="none")

    return loss


def class_weights(kind: str, counts: Sequence[int]) -> list[float]:
    """Return a weight per class: `none`, `inverse` frequency, or `effective` number of samples.

    The effective number of n samples is (1 - β^n) / (1 - β) (Cui et al. 2019). A class without
    samples is an error.
    """
    if kind == "none":
        return [1.0] * len(counts)
    if min(counts) < 1:
        raise ValueError(f"class weights need samples of every class, got counts {tuple(counts)}")
    if kind == "inverse":
        raw = [1.0 / n for n in counts]
    else:
        raw = [(1.0 - EFFECTIVE_BETA) / (1.0 - EFFECTIVE_BETA**n) for n in counts]
    mean = sum(w * n for w, n in zip(raw, counts, strict=True)) / sum(counts)
    return [w / mean for w in raw]


def binary_cross_entropy(logits_bk: Tensor, targets_bk: Tensor, w_k: Tensor) -> Tensor:
    """Return the weighted BCE of the logit difference of two classes, (b,).

    The softmax of two logits is the sigmoid of their difference, so this equals `cross_entropy`
    but for the weighting of soft targets: here a sample is weighted as a whole.
    """
    logit_b = logits_bk[:, 1] - logits_bk[:, 0]
    weight_b = (targets_bk * w_k).sum(dim=1)
    return binary_cross_entropy_with_logits(
        logit_b, targets_bk[:, 1], weight=weight_b, reduction="none"
    )


def focal(logits_bk: Tensor, targets_bk: Tensor, w_k: Tensor, gamma: float) -> Tensor:
    """Return -sum_k w_k t_k (1 - p_k)^γ log p_k, (b,) (Lin et al. 2017)."""
    log_p = log_softmax(logits_bk, dim=1)
    return -(w_k * targets_bk * (1.0 - log_p.exp()) ** gamma * log_p).sum(dim=1)
