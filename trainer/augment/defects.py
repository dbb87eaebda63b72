"""EM's own defects: lost, blurred and displaced sections, and noise, boxes and holes.

Each works on one image (c, [z], y, x) of float32, 0 to 255, in place; u are its uniform numbers.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from trainer.augment.keyed_random import Draw, Rows, seed_for
from trainer.config import Augment

Numbers = npt.NDArray[np.float64]
DRAWS = 9  # one decides if the defect happens, up to eight describe it
DEFOCUS_PX = 5


def damaged(
    x: Tensor, rows: Rows, augment: Augment, draw: Draw, *, seed: int, epoch: int
) -> Tensor:
    """Return x (b, c, [z], y, x) with the defects of `augment`; x itself if there are none."""
    probabilities = {name: p for name in DEFECTS if (p := getattr(augment, f"{name}_p")) > 0}
    if not probabilities and not augment.noise:
        return x
    x = x.float() if x.dtype == torch.uint8 else x.clone()
    for b, row in enumerate(rows):
        rng = torch.Generator(x.device).manual_seed(seed_for("noise", seed, epoch, int(row)))
        if augment.noise:
            sigma = 255.0 * augment.noise * draw("noise", 1)[b, 0]
            x[b] += sigma * torch.randn(x[b].shape, generator=rng, device=x.device)
        for name, probability in probabilities.items():
            u = draw(name, DRAWS)[b]
            if u[0] < probability:
                DEFECTS[name](x[b], u[1:], augment.misalign_vx, rng)
    return x.clamp_(0.0, 255.0)


def missing(image: Tensor, u: Numbers, most_vx: int, rng: torch.Generator) -> None:
    """Lose one or two sections: black, or the mean gray."""
    value = 0.0 if u[0] < 0.5 else float(image.mean())
    for place in u[1 : 2 + int(u[3] < 0.5)]:
        image[:, int(place * image.shape[1])] = value


def blurred(image: Tensor, u: Numbers, most_vx: int, rng: torch.Generator) -> None:
    """Take one section out of focus."""
    z = int(u[0] * image.shape[1])
    image[:, z] = defocused(image[:, z])


def defocused(x_syx: Tensor) -> Tensor:
    """Return images out of focus: the mean over `DEFOCUS_PX` pixels in y and x."""
    return avg_pool2d(x_syx, DEFOCUS_PX, 1, DEFOCUS_PX // 2, count_include_pad=False)


def slip(image: Tensor, u: Numbers, most_vx: int, rng: torch.Generator) -> None:
    """Displace one section."""
    z = int(u[0] * image.shape[1])
    image[:, z : z + 1] = _displaced(image[:, z : z + 1], u[1:3], most_vx)


def step(image: Tensor, u: Numbers, most_vx: int, rng: torch.Generator) -> None:
    """Displace every section from one on."""
    z = int(u[0] * image.shape[1])
    image[:, z:] = _displaced(image[:, z:], u[1:3], most_vx)


def noise_box(image: Tensor, u: Numbers, most_vx: int, rng: torch.Generator) -> None:
    """Fill a box with noise."""
    part = image[_box(image, u)]
    part.copy_(255.0 * torch.rand(part.shape, generator=rng, device=image.device))


def cutout(image: Tensor, u: Numbers, most_vx: int, rng: torch.Generator) -> None:
    """Fill a box with the mean gray (DeVries and Taylor 2017)."""
    image[_box(image, u)] = image.mean()


DEFECTS: dict[str, Callable[[Tensor, Numbers, int, torch.Generator], None]] = {
    "missing": missing,
    "blurred": blurred,
    "slip": slip,
    "step": step,
    "noise_box": noise_box,
    "cutout": cutout,
}


def _box(image: Tensor, u: Numbers) -> tuple[slice, ...]:
    """Return a box of up to half of each axis, over all channels."""
    box = [slice(None)]
    for axis, size in enumerate(image.shape[1:]):
        length = max(1, round(u[2 * axis] * size / 2))
        start = int(u[2 * axis + 1] * (size - length + 1))
        box.append(slice(start, start + length))
    return tuple(box)


def _displaced(sections: Tensor, u: Numbers, most_vx: int) -> Tensor:
    """Move (c, z, y, x) in the plane; what comes in repeats the edge."""
    shifts = np.rint((2.0 * u - 1.0) * most_vx).astype(int)
    out = sections
    for axis, shift in zip((-2, -1), shifts, strict=True):
        size = sections.shape[axis]
        source = (torch.arange(size, device=sections.device) - int(shift)).clamp(0, size - 1)
        out = out.index_select(axis, source)
    return out
