"""Losses, mixing, moving average, accumulation, defects: against formulas and hand-made cases."""

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch import nn
from torch.nn.functional import one_hot
from torchvision.ops import sigmoid_focal_loss

from shards.contract.documents import parse_plain, to_plain
from trainer.augment.mixing import cut_and_paste, mix
from trainer.augment.spatial import augment_batch
from trainer.config import Augment, Config
from trainer.models.memory_format import checkpoint_activations
from trainer.recipes import RECIPES
from trainer.setup.preflight import is_native, warnings_for
from trainer.train.losses import build_loss, class_weights
from trainer.train.optim import moving_average

ROWS = np.arange(6, dtype=np.int64)
LABELS = torch.tensor([0, 1, 1, 0, 1, 0])


def config(**changes: object) -> Config:
    values = to_plain(RECIPES["unet3d_small"]()) | changes
    return parse_plain(Config, values, where="test", cure="")


def logits(classes: int = 2) -> torch.Tensor:
    return torch.randn(6, classes, generator=torch.Generator().manual_seed(0))


# Losses


def test_inverse_class_weights_agree_with_sklearn() -> None:
    labels = np.repeat([0, 1, 2], [50, 30, 20])
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    np.testing.assert_allclose(class_weights("inverse", [50, 30, 20]), expected)


def test_effective_class_weights_follow_the_formula() -> None:
    n = np.array([1000.0, 100.0])
    raw = (1 - 0.999) / (1 - 0.999**n)
    expected = raw / ((raw * n).sum() / n.sum())
    np.testing.assert_allclose(class_weights("effective", [1000, 100]), expected)
    with pytest.raises(ValueError, match="samples of every class"):
        class_weights("effective", [3, 0])


@pytest.mark.parametrize("alpha", [-1.0, 0.25])
def test_focal_loss_agrees_with_torchvision(alpha: float) -> None:
    z, targets = logits(), one_hot(LABELS, 2).float()
    loss = build_loss(config(loss="focal", focal_gamma=2.0, focal_alpha=alpha), [3, 3])
    expected = sigmoid_focal_loss(z[:, 1] - z[:, 0], LABELS.float(), alpha, 2.0)
    torch.testing.assert_close(loss(z, targets), expected)


def test_bce_agrees_with_torch_and_with_cross_entropy() -> None:
    z, targets = logits(), one_hot(LABELS, 2).float()
    settings = {"class_weights": "inverse"}
    weights = class_weights("inverse", [10, 40])
    bce = build_loss(config(loss="bce", **settings), [10, 40])(z, targets)
    expected = nn.functional.binary_cross_entropy_with_logits(
        z[:, 1] - z[:, 0],
        LABELS.float(),
        weight=torch.tensor(weights)[LABELS],
        reduction="none",
    )
    torch.testing.assert_close(bce, expected)
    torch.testing.assert_close(build_loss(config(**settings), [10, 40])(z, targets), expected)


def test_label_smoothing_agrees_with_torch() -> None:
    z, labels = logits(3), LABELS + 1
    loss = build_loss(config(label_smoothing=0.1), [1, 1, 1])(z, one_hot(labels, 3).float())
    expected = nn.functional.cross_entropy(z, labels, label_smoothing=0.1, reduction="none")
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weighting", ["none", "inverse", "effective"])
@pytest.mark.parametrize("kind", ["cross_entropy", "bce", "focal"])
def test_losses_of_soft_labels_follow_their_formulas(
    kind: str, weighting: str, smoothing: float
) -> None:
    settings = config(loss=kind, class_weights=weighting, label_smoothing=smoothing)
    z, counts = logits(), [40, 10]
    soft = torch.rand(6, 2, generator=torch.Generator().manual_seed(1)).softmax(dim=1)
    found = build_loss(settings, counts)(z, soft).numpy()
    w = np.array(class_weights(weighting, counts))
    t = soft.double().numpy() * (1 - smoothing) + smoothing / 2
    p = np.exp(z.double().numpy())
    p /= p.sum(axis=1, keepdims=True)
    if kind == "cross_entropy":
        expected = -(w * t * np.log(p)).sum(axis=1)
    elif kind == "bce":
        expected = -(w * t).sum(axis=1) * (t * np.log(p)).sum(axis=1)
    else:
        expected = -(w * t * (1 - p) ** 2 * np.log(p)).sum(axis=1)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_two_class_losses_refuse_three_classes() -> None:
    with pytest.raises(ValueError, match="are for two classes, the data has 3"):
        build_loss(config(loss="bce"), [1, 1, 1])
    with pytest.raises(ValueError, match="both correct for unequal classes"):
        config(balance="class", class_weights="inverse")


# MixUp and CutMix


@pytest.mark.parametrize("shape", [(6, 1, 8, 10), (6, 1, 4, 8, 10)])
def test_cutmix_targets_are_the_parts_of_the_voxels(shape: tuple[int, ...]) -> None:
    x = torch.arange(6.0).view(-1, *(1,) * (len(shape) - 1)).expand(shape)
    targets = torch.eye(6)
    mixed, soft = mix(x, targets, ROWS, mixup=0.0, cutmix=1.0, seed=1, epoch=0)
    assert not torch.equal(mixed, x)
    for b in range(6):
        parts = [(mixed[b] == value).float().mean().item() for value in range(6)]
        np.testing.assert_allclose(soft[b].numpy(), parts, atol=1e-6)


def test_a_box_by_hand() -> None:
    x, partner = torch.zeros(1, 1, 4, 4), torch.ones(1, 1, 4, 4)
    chosen = np.array([True])
    lam, centre = np.array([0.75]), np.array([[0.5, 0.0]])
    mixed, true = cut_and_paste(x, partner, lam, centre, chosen)
    expected = torch.zeros(4, 4)
    expected[1:3, 0:1] = 1.0  # sides of 2, centred on row 2 and cut off at column 0
    assert torch.equal(mixed[0, 0], expected)
    assert true[0] == pytest.approx(1 - 2 / 16)


def test_mixup_is_the_weighted_mean_of_neighbours() -> None:
    x = torch.arange(6.0).view(6, 1, 1, 1).expand(6, 1, 3, 3) * 10
    mixed, soft = mix(x, torch.eye(6), ROWS, mixup=0.4, cutmix=0.0, seed=1, epoch=0)
    values = (soft * torch.arange(6.0) * 10).sum(dim=1)
    torch.testing.assert_close(mixed[:, 0, 0, 0], values)
    torch.testing.assert_close(soft.sum(dim=1), torch.ones(6))
    assert ((soft > 0).sum(dim=1) == 2).all()


# Moving average


def test_the_moving_average_has_its_closed_form() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    average = moving_average(model, decay=0.5)
    values, expected = [3.0, -1.0, 4.0, 1.0], 0.0
    for n, value in enumerate(values, start=1):
        nn.init.constant_(model.weight, value)
        average.update_parameters(model)
        decay = min(0.5, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * value
    assert average.module.weight.item() == pytest.approx(expected)
    assert model.weight.item() == 1.0


def test_the_moving_average_copies_counters() -> None:
    model = nn.BatchNorm1d(2)
    average = moving_average(model, decay=0.9)
    model(torch.rand(4, 2))
    average.update_parameters(model)
    assert average.module.num_batches_tracked == 1


# Recomputing


def test_recomputing_activations_changes_nothing_but_memory() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU()), nn.Flatten(), nn.LazyLinear(2)
    )
    x = torch.rand(2, 1, 6, 6)
    names = list(model.state_dict())
    model(x).sum().backward()
    before = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    checkpoint_activations(model)
    model(x).sum().backward()
    assert list(model.state_dict()) == names
    for p, expected in zip(model.parameters(), before, strict=True):
        torch.testing.assert_close(p.grad, expected)


# Augmentations


def grid(shape: tuple[int, ...]) -> torch.Tensor:
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.integers(20, 230, shape, dtype=np.uint8))


def plain(**changes: float) -> Augment:
    return Augment(flip=False, turn=False, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "name",
    [
        "rotate", "scale", "elastic_vx", "gamma", "section_brightness", "section_contrast", "noise",
        "blur_p", "missing_p", "blurred_p", "slip_p", "step_p", "noise_box_p", "cutout_p",
    ],
)  # fmt: skip
def test_each_augmentation_acts_and_depends_on_the_sample_alone(name: str) -> None:
    amount = {"rotate": 20.0, "elastic_vx": 2.0}.get(name, 1.0 if name.endswith("_p") else 0.3)
    x, augment = grid((6, 1, 6, 24, 24)), plain(**{name: amount})
    crop = (4, 16, 16)
    out = augment_batch(x, ROWS, augment, crop=crop, seed=3, epoch=1)
    assert out.shape == (6, 1, *crop)
    assert out.min() >= 0
    assert out.max() <= 255
    still = augment_batch(x, ROWS, plain(), crop=crop, seed=3, epoch=1).float()
    changed = [not torch.equal(a, b) for a, b in zip(out, still, strict=True)]
    assert sum(changed) >= (4 if name == "blur_p" else 6)  # its smallest sigmas round to nothing
    alone = augment_batch(x[4:5], ROWS[4:5], augment, crop=crop, seed=3, epoch=1)
    torch.testing.assert_close(out[4:5], alone, atol=1e-3, rtol=1e-5)


def test_a_resampling_by_almost_nothing_is_the_central_crop() -> None:
    x = grid((6, 1, 5, 25, 24))
    out = augment_batch(x, ROWS, plain(rotate=1e-6), crop=(3, 16, 16), seed=0, epoch=0)
    expected = augment_batch(x, ROWS, plain(), crop=(3, 16, 16), seed=0, epoch=0).float()
    torch.testing.assert_close(out, expected, atol=0.01, rtol=0)


def test_gray_values_change_in_em_and_geometry_in_masks_too() -> None:
    x = grid((6, 1, 4, 16, 16)).repeat(1, 2, 1, 1, 1)
    augment = Augment(brightness=0.3, noise=0.1)
    out = augment_batch(x, ROWS, augment, crop=(), seed=0, epoch=0)
    moved = augment_batch(x, ROWS, Augment(), crop=(), seed=0, epoch=0).float()
    assert torch.equal(out[:, 1], moved[:, 1])
    assert not torch.equal(out[:, 0], moved[:, 0])


def test_missing_and_shifted_sections_leave_the_others_alone() -> None:
    x = grid((6, 1, 8, 16, 16))
    for name, most in (("missing_p", 2), ("slip_p", 1), ("blurred_p", 1)):
        out = augment_batch(x, ROWS, plain(**{name: 1.0}), crop=(), seed=0, epoch=0)
        changed = (out != x.float()).flatten(3).any(dim=3)[:, 0].sum(dim=1)
        assert (changed >= 1).all()
        assert (changed <= most).all()


def test_patches_have_no_sections() -> None:
    with pytest.raises(ValueError, match=r"augment\.missing_p is for cubes"):
        Config(model="resnet18", view="patch", augment=Augment(missing_p=0.1))


# Versions


def test_known_bad_versions_are_named() -> None:
    bf16 = config(precision="bf16")
    assert "four times slower" in warnings_for(bf16, "2.9.1", 91200)[0]
    assert "wrong 3D convolutions" in warnings_for(bf16, "2.10.0", 90900)[0]
    assert warnings_for(bf16, "2.14.1", 91200) == []
    assert warnings_for(config(), "2.9.1", 90900) == []
    assert warnings_for(bf16, "2.9.1", None) == []
    assert "emulates bf16" in warnings_for(bf16, "2.14.1", None, native=False)[0]


def test_a_device_without_a_precision_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert is_native("no")
    assert not is_native("fp16")
    assert is_native("bf16") == torch.ops.mkldnn._is_mkldnn_bf16_supported()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *, including_emulation: False)
    assert is_native("fp16")
    assert not is_native("bf16")
