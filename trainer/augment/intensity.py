"""Gray values of a batch: brightness, contrast, gamma, noise and blur.

x: (b, c, [z], y, x), 0 to 255. Each function returns x itself when it has nothing to do.
"""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import pad

from trainer.augment.keyed_random import Draw
from trainer.config import Augment


def regraded(x: Tensor, augment: Augment, draw: Draw) -> Tensor:
    """Return x with other gray values, float32 and clipped to 0 to 255."""
    unchanged = x
    if augment.brightness or augment.contrast:
        spread = 2.0 * draw("gray", 2) - 1.0
        contrast = per_sample(1.0 + augment.contrast * spread[:, 0], x)
        x = _scaled(x, contrast, per_sample(1.0 + augment.brightness * spread[:, 1], x), first=1)
    if augment.section_brightness or augment.section_contrast:
        sections = x.shape[2]
        spread = 2.0 * draw("section gray", 2 * sections) - 1.0
        most = np.repeat((augment.section_contrast, augment.section_brightness), sections)
        factors = torch.from_numpy((1.0 + most * spread).astype(np.float32)).to(x.device)
        contrast, brightness = factors.view(-1, 2, 1, sections, 1, 1).unbind(1)
        x = _scaled(x, contrast, brightness, first=3)
    if augment.gamma:
        power = (1.0 + augment.gamma) ** (2.0 * draw("gamma", 1)[:, 0] - 1.0)
        x = 255.0 * (x.float().clamp(0.0, 255.0) / 255.0) ** per_sample(power, x)
    if augment.blur_p:
        x = _blurred(x, draw("blur", 2), augment.blur_p)
    return x if x is unchanged else x.clamp(0.0, 255.0)


def per_sample(values: npt.NDArray[np.generic], x: Tensor) -> Tensor:
    """Return values (b,) on x's device, shaped to broadcast over x; floats as float32."""
    if values.dtype == np.float64:
        values = values.astype(np.float32)
    return torch.from_numpy(values).to(x.device).view(-1, *(1,) * (x.ndim - 1))


def _scaled(x: Tensor, contrast: Tensor, brightness: Tensor, *, first: int) -> Tensor:
    """Scale the deviation from the mean over the axes from `first` on, then everything."""
    x = x.float()
    mean = x.mean(dim=tuple(range(first, x.ndim)), keepdim=True)
    return ((x - mean) * contrast + mean) * brightness


def _blurred(x: Tensor, draws: npt.NDArray[np.float64], probability: float) -> Tensor:
    """Blur by a Gaussian of 3 pixels in y and x with sigma 0.1 to 1 in the chosen samples."""
    sigma = 0.1 + 0.9 * draws[:, 1]
    side = np.exp(-0.5 / sigma**2)
    side = np.where(draws[:, 0] < probability, side / (1.0 + 2.0 * side), 0.0)
    w = per_sample(side, x.flatten(1, -3))
    y = x.float().flatten(1, -3)
    p = pad(y, (0, 0, 1, 1), mode="replicate")
    y = (1.0 - 2.0 * w) * y + w * (p[..., :-2, :] + p[..., 2:, :])
    p = pad(y, (1, 1, 0, 0), mode="replicate")
    y = (1.0 - 2.0 * w) * y + w * (p[..., :-2] + p[..., 2:])
    return y.reshape(x.shape)
