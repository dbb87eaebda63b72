"""Images degraded as by microscopes and stores, to measure what that costs a trained model.

What happens to a sample is a function of (stress, seed, row) alone. b batch, c channels, z y x
axes; s channels and sections together. A patch is a cube of one section here.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from io import BytesIO

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from trainer.augment.defects import defocused
from trainer.augment.keyed_random import Rows
from trainer.augment.spatial import augment_batch
from trainer.config import Augment
from trainer.models.classifier import center_crop

STILL = Augment(flip=False, turn=False)
JPEG_QUALITY = 85
# Of cubes, and of patches: these have no section to lose or to be displaced against.
DRAWN = {
    "missing": (replace(STILL, missing_p=1.0), replace(STILL, cutout_p=1.0)),
    "shift": (replace(STILL, step_p=1.0), replace(STILL, slip_p=1.0)),
    "contrast": (replace(STILL, contrast=0.5, brightness=0.2),) * 2,
}


def stressed(
    x: Tensor, rows: Rows, name: str, *, crop: tuple[int, ...], seed: int, em: Sequence[int] = (0,)
) -> Tensor:
    """Return images of size `crop` (x's own when empty) under one of `STRESSES`.

    x: (b, c, [z], y, x) uint8; rows (b,) are the samples' numbers in their split; `em` are the
    channels that hold EM, at least one.
    """
    x = center_crop(x, crop)
    x_bczyx = x if x.ndim == 5 else x.unsqueeze(2)
    if name in DRAWN:
        drawn = DRAWN[name][x.ndim != 5]
        worse = augment_batch(x_bczyx, rows, drawn, crop=(), seed=seed, epoch=0, em=em)
    else:
        worse = x_bczyx.float()
        gray = worse[:, list(em)]
        worse[:, list(em)] = WHOLE[name](gray.flatten(1, 2)).view_as(gray)
    return worse.view(x.shape)


def half_size_jpeg(x_bsyx: Tensor) -> Tensor:
    """Store every section at half its resolution as JPEG, as minnie65's mip 1 is, and read it."""
    half = avg_pool2d(x_bsyx, 2, ceil_mode=True, count_include_pad=False).round().byte()
    read = np.stack([_through_jpeg(section) for section in half.flatten(0, 1).cpu().numpy()])
    small = torch.from_numpy(read).to(x_bsyx.device).view_as(half).float()
    return interpolate(small, size=x_bsyx.shape[2:], mode="bilinear", align_corners=False)


def _through_jpeg(section: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    buffer = BytesIO()
    Image.fromarray(section).save(buffer, "JPEG", quality=JPEG_QUALITY)
    return np.asarray(Image.open(buffer))


WHOLE: dict[str, Callable[[Tensor], Tensor]] = {"blur": defocused, "jpeg": half_size_jpeg}
STRESSES = (*DRAWN, *WHOLE)
