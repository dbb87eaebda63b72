"""Test-time augmentation: the mean probability over an image's symmetries."""

from collections.abc import Callable
from functools import partial
from itertools import compress, product

import torch
from torch import Tensor

from trainer.models.classifier import center_crop
from trainer.models.infer import Predict

Transform = Callable[[Tensor], Tensor]


def symmetries(view: str, *, in_plane: bool = False) -> list[Transform]:
    """Return 8 transforms of images (b, c, [z], y, x), the identity first.

    A patch has the square's 8 symmetries; a cube its 8 mirror images, since sections are thicker
    than pixels and so z cannot change places with y or x. With `in_plane` a cube, square in y and
    x, has the square's too, and keeps the order of its sections.
    """
    if view == "patch" or in_plane:
        return [_turn(quarters, mirror) for mirror in (False, True) for quarters in range(4)]
    return [
        partial(torch.flip, dims=tuple(compress((-1, -2, -3), chosen)))
        for chosen in product((False, True), repeat=3)
    ]


def averaged(predict: Predict, transforms: list[Transform], crop: tuple[int, ...]) -> Predict:
    """Return a function that averages `predict` over the transforms of the cropped images.

    Cropped first: about an odd border, cropping and mirroring do not commute.
    """

    def mean(x: Tensor) -> Tensor:
        x = center_crop(x, crop)
        total = predict(transforms[0](x))
        for transform in transforms[1:]:
            total = total + predict(transform(x))
        return total / len(transforms)

    return mean


def _turn(quarters: int, mirror: bool) -> Transform:
    def transform(x: Tensor) -> Tensor:
        return (x.flip(-1) if mirror else x).rot90(quarters, (-2, -1))

    return transform
