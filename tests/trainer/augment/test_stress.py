"""Images made worse: each in its way, inside the crop, the same for a sample whatever its batch."""

import numpy as np
import pytest
import torch

from trainer.augment.stress import STRESSES, half_size_jpeg, stressed
from trainer.models.classifier import center_crop

ROWS = np.array([3, 14, 15], np.int64)
SHAPES = {"cube": (3, 2, 9, 31, 30), "patch": (3, 2, 31, 30)}
CROPS = {"cube": (5, 21, 20), "patch": (21, 20)}


def images(view: str) -> torch.Tensor:
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.integers(0, 256, SHAPES[view], dtype=np.uint8))


@pytest.mark.parametrize("view", SHAPES)
@pytest.mark.parametrize("name", STRESSES)
def test_every_sample_is_worse_and_its_mask_is_not(name: str, view: str) -> None:
    x, crop = images(view), CROPS[view]
    worse = stressed(x, ROWS, name, crop=crop, seed=7, em=(0,))
    plain = center_crop(x, crop)
    assert worse.shape == plain.shape
    assert worse.min() >= 0
    assert worse.max() <= 255
    assert torch.equal(worse[:, 1], plain[:, 1].to(worse.dtype))
    for b in range(len(x)):
        assert not torch.equal(worse[b, 0], plain[b, 0].to(worse.dtype))
        alone = stressed(x[b : b + 1], ROWS[b : b + 1], name, crop=crop, seed=7, em=(0,))
        torch.testing.assert_close(alone[0], worse[b])
    assert torch.equal(x, images(view))  # what was given is left alone


def test_a_cube_loses_sections_and_a_patch_a_box() -> None:
    cube = stressed(images("cube"), ROWS, "missing", crop=CROPS["cube"], seed=7)
    flat = (cube[:, 0].flatten(2).std(dim=2) == 0).sum(dim=1)
    assert ((flat == 1) | (flat == 2)).all()
    patch = stressed(images("patch"), ROWS, "missing", crop=CROPS["patch"], seed=7)
    changed = (patch != center_crop(images("patch"), CROPS["patch"])).float().mean(dim=(1, 2, 3))
    assert ((changed > 0) & (changed < 0.3)).all()


def test_jpeg_at_half_resolution_keeps_what_is_smooth_and_loses_what_is_fine() -> None:
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(63.0), indexing="ij")
    smooth = 128 + 100 * torch.sin(y / 15) * torch.cos(x / 15)
    fine = 128 + 100 * (-1.0) ** (y + x)
    stored = half_size_jpeg(torch.stack([smooth, fine])[None])[0]
    assert (stored[0] - smooth).abs().mean() < 3
    assert stored[1][:, :62].std() < 2
