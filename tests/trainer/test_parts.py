"""The parts of a run, each against a formula or what it replaces."""

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from shards.contract.documents import parse_plain, to_plain
from shards.contract.schema import ImageSpec
from trainer.augment.keyed_random import seed_for, uniforms
from trainer.augment.spatial import augment_batch
from trainer.checkpoint.load import check_fit
from trainer.config import Augment, Config, differences
from trainer.models.classifier import MODELS, center_crop
from trainer.models.memory_format import to_memory_format
from trainer.models.norms import to_group_norm
from trainer.predict.tta import averaged, symmetries
from trainer.recipes import RECIPES
from trainer.train.optim import build_optimizer, learning_rate
from trainer.train.trial import choose_memory_format
from trainer.weights.pretrained import adapt_input

ROWS = np.arange(6, dtype=np.int64)


def images(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.integers(0, 256, shape, dtype=np.uint8))


def config(**changes: object) -> Config:
    values = to_plain(RECIPES["unet3d_small"]()) | changes
    return parse_plain(Config, values, where="test", cure="")


# Randomness


@given(seed=st.integers(0, 2**40), epoch=st.integers(0, 10**6), start=st.integers(0, 10**9))
def test_numbers_of_a_sample_do_not_depend_on_its_batch(seed: int, epoch: int, start: int) -> None:
    rows = np.arange(start, start + 5, dtype=np.int64)
    together = uniforms("flip", seed, epoch, rows, 3)
    alone = uniforms("flip", seed, epoch, rows[3:4], 3)
    np.testing.assert_array_equal(together[3:4], alone)
    assert ((together >= 0) & (together < 1)).all()


def test_numbers_are_uniform_and_unrelated() -> None:
    numbers = uniforms("flip", 42, 3, np.arange(4000, dtype=np.int64), 4)
    counts = np.histogram(numbers, bins=20, range=(0, 1))[0]
    assert ((counts - 800) ** 2 / 800).sum() < 44  # chi-squared with 19 degrees, p = 0.001
    others = [
        uniforms("turn", 42, 3, np.arange(4000, dtype=np.int64), 4),
        uniforms("flip", 43, 3, np.arange(4000, dtype=np.int64), 4),
        uniforms("flip", 42, 4, np.arange(4000, dtype=np.int64), 4),
    ]
    for other in others:
        assert abs(np.corrcoef(numbers.ravel(), other.ravel())[0, 1]) < 0.03
    assert abs(np.corrcoef(numbers, rowvar=False) - np.eye(4)).max() < 0.06


def test_seeds_depend_on_order() -> None:
    assert len({seed_for("a", 1, 2), seed_for("a", 2, 1), seed_for("b", 1, 2)}) == 3


# Augmentation


@pytest.mark.parametrize("shape", [(6, 1, 16, 16), (6, 2, 4, 16, 16)])
def test_augmentation_of_a_sample_does_not_depend_on_its_batch(shape: tuple[int, ...]) -> None:
    augment = Augment(brightness=0.2, contrast=0.3, shift_vx=3)
    x, crop = images(shape), (2, 10, 10) if len(shape) == 5 else (10, 10)
    whole = augment_batch(x, ROWS, augment, crop=crop, seed=1, epoch=2)
    part = augment_batch(x[2:4], ROWS[2:4], augment, crop=crop, seed=1, epoch=2)
    assert whole.shape == (6, shape[1], *crop)
    torch.testing.assert_close(whole[2:4], part, rtol=0, atol=0)
    other = augment_batch(x, ROWS, augment, crop=crop, seed=1, epoch=3)
    assert not torch.equal(whole, other)


@pytest.mark.parametrize(("view", "shape"), [("patch", (40, 1, 8, 8)), ("cube", (90, 1, 3, 8, 8))])
def test_flips_and_turns_are_symmetries(view: str, shape: tuple[int, ...]) -> None:
    x = images((1, *shape[1:])).expand(shape)
    out = augment_batch(x, np.arange(shape[0]), Augment(), crop=(), seed=0, epoch=0)
    square = [image[0].numpy().tobytes() for f in symmetries("patch") for image in [f(x[:1])]]
    expected = set(square)
    if view == "cube":
        expected |= {f(x[:1].flip(2))[0].numpy().tobytes() for f in symmetries("patch")}
    found = {image.numpy().tobytes() for image in out}
    assert out.dtype == torch.uint8
    assert found == expected


def test_no_augmentation_is_the_central_crop() -> None:
    x = images((6, 1, 5, 9, 9))
    none = Augment(flip=False, turn=False)
    out = augment_batch(x, ROWS, none, crop=(3, 4, 4), seed=0, epoch=0)
    assert torch.equal(out, x[:, :, 1:4, 2:6, 2:6])


def test_brightness_and_contrast_stay_in_bounds() -> None:
    x = images((6, 1, 20, 20))
    augment = Augment(flip=False, turn=False, brightness=0.2, contrast=0.5)
    out = augment_batch(x, ROWS, augment, crop=(), seed=0, epoch=0)
    assert out.min() >= 0
    assert out.max() <= 255
    shifts = (out - x.float()).mean(dim=(1, 2, 3))
    assert shifts.abs().max() <= 0.2 * 255 + 5
    assert shifts.std() > 1


# Models, norms, memory formats


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_model_takes_channels_and_gives_logits(name: str) -> None:
    model = MODELS[name](config(width=4, dropout=0.1), 2, 3)
    flat = any(isinstance(m, nn.Conv2d) for m in model.modules())
    x = torch.rand(2, 2, 64, 64) if flat else torch.rand(2, 2, 8, 16, 16)
    assert model(x).shape == (2, 3)
    replaced = to_group_norm(model)
    assert replaced
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())
    assert model(x).shape == (2, 3)


def test_group_norm_keeps_scale_and_shift() -> None:
    model = nn.Sequential(nn.BatchNorm2d(48))
    nn.init.uniform_(model[0].weight)
    nn.init.uniform_(model[0].bias)
    weight, bias = model[0].weight.clone(), model[0].bias.clone()
    assert to_group_norm(model) == ["0 (48 channels, 24 groups)"]
    x = torch.rand(3, 48, 5, 5)
    expected = nn.functional.group_norm(x, 24, weight, bias, eps=1e-5)
    torch.testing.assert_close(model(x), expected)


@pytest.mark.parametrize("channels", [1, 2])
def test_a_summed_stem_sees_gray_as_it_saw_colour(channels: int) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, bias=True), nn.ReLU())
    gray = torch.rand(2, 1, 9, 9)
    expected = model(gray.expand(-1, 3, -1, -1))
    adapt_input(model, channels, pretrained=True)
    torch.testing.assert_close(model(gray.expand(-1, channels, -1, -1)), expected)


def test_channels_last_changes_layout_but_not_results() -> None:
    model = MODELS["unet3d_small"](config(width=4), 1, 2).eval()
    x = torch.rand(2, 1, 8, 32, 32)
    before = model(x)
    to_memory_format(model, "channels_last")
    conv = next(m for m in model.modules() if isinstance(m, nn.Conv3d) and m.in_channels > 1)
    assert conv.weight.is_contiguous(memory_format=torch.channels_last_3d)
    torch.testing.assert_close(model(x), before, atol=1e-5, rtol=1e-4)
    to_memory_format(model, "contiguous")
    assert conv.weight.is_contiguous()


def test_the_faster_memory_format_is_chosen_on_a_copy() -> None:
    model = MODELS["cnn_2d"](config(dropout=0.0, crop=[8, 32, 32]), 1, 2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    x = torch.rand(2, 1, 32, 32)
    chosen, seconds = choose_memory_format(
        model, lambda m: m(x).sum().backward(), torch.device("cpu")
    )
    assert seconds[chosen] == min(seconds.values())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(p.grad is None for p in model.parameters())


# Rate, optimizer


def test_learning_rates() -> None:
    cosine = config(schedule="cosine", warmup=0.0, lr=1.0)
    assert learning_rate(cosine, 0, 100) == 1.0
    assert learning_rate(cosine, 50, 100) == pytest.approx(0.5)
    assert learning_rate(cosine, 25, 100) == pytest.approx((1 + math.cos(math.pi / 4)) / 2)
    cycle = config(schedule="one_cycle", warmup=0.25, lr=1.0)
    rates = [learning_rate(cycle, step, 100) for step in range(100)]
    assert max(rates) == rates[25] == 1.0
    assert rates[:26] == sorted(rates[:26])
    assert rates[25:] == sorted(rates[25:], reverse=True)
    constant = config(schedule="constant", warmup=0.1, lr=1.0)
    assert [learning_rate(constant, s, 100) for s in (10, 99)] == [1.0, 1.0]
    assert 0 < learning_rate(constant, 0, 100) < learning_rate(constant, 9, 100) < 1
    scaled = config(schedule="constant", lr=1.0, batch_size=64, lr_batch=16, warmup=0.0)
    assert learning_rate(scaled, 5, 100) == 4.0


def test_vectors_are_not_decayed() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    optimizer = build_optimizer(config(optimizer="sgd", weight_decay=0.1), model)
    decay = {p: g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    assert [decay[p] for p in model.parameters()] == [0.1, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("kind", ["adam", "adamw", "sgd"])
def test_a_fused_optimizer_does_the_same(kind: str) -> None:
    torch.manual_seed(0)
    models = [nn.Linear(5, 3) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    settings, x = config(optimizer=kind, weight_decay=0.1), torch.rand(4, 5)
    for model, device in zip(models, ("cpu", "cuda"), strict=True):
        optimizer = build_optimizer(settings, model, torch.device(device))
        assert bool(optimizer.defaults["fused"]) == (device == "cuda")
        for _ in range(3):
            model(x).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(a, b)


# Configs


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_a_recipe_survives_json(name: str) -> None:
    recipe = RECIPES[name]()
    assert config(**to_plain(recipe)) == recipe
    assert recipe.model in MODELS


def test_differences_are_named() -> None:
    new = config(lr=1.0, augment={**to_plain(config().augment), "flip": False})
    expected = ["augment.flip True -> False", f"lr {config().lr} -> 1.0"]
    assert differences(config(), new) == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"crop": [24, 96]}, "crop must be 3 positive sizes for a cube"),
        ({"lr": 0.0}, "lr must be positive"),
        ({"lr": float("inf")}, "lr is inf, expected a finite number"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\)"),
        ({"colour": 1}, "unknown key colour"),
    ],
)
def test_bad_configs_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(**changes)


# Test-time augmentation


@pytest.mark.parametrize(
    ("view", "in_plane", "shape"),
    [
        ("patch", False, (2, 1, 7, 7)),
        ("cube", False, (2, 1, 3, 6, 6)),
        ("cube", True, (2, 1, 3, 6, 6)),
    ],
)
def test_symmetries_are_eight_different_ones(
    view: str, in_plane: bool, shape: tuple[int, ...]
) -> None:
    x = images(shape)
    transforms = symmetries(view, in_plane=in_plane)
    assert torch.equal(transforms[0](x), x)
    assert len({t(x).numpy().tobytes() for t in transforms}) == 8
    assert all(t(x).shape == x.shape for t in transforms)


def test_symmetries_in_the_plane_are_each_section_s_own() -> None:
    x = images((2, 1, 3, 6, 6))
    for cube, section in zip(symmetries("cube", in_plane=True), symmetries("patch"), strict=True):
        for z in range(3):
            assert torch.equal(cube(x)[:, :, z], section(x[:, :, z]))


def test_tta_crops_before_it_mirrors() -> None:
    x, crop = images((2, 1, 7, 7)).float(), (4, 4)

    def first(x: torch.Tensor) -> torch.Tensor:
        return x[:, 0, 0]

    mean = averaged(first, symmetries("patch"), crop)(x)
    inside = center_crop(x, crop)
    expected = torch.stack([t(inside)[:, 0, 0] for t in symmetries("patch")]).mean(dim=0)
    torch.testing.assert_close(mean, expected)


def test_voxels_of_unknown_size_are_not_those_that_a_model_was_trained_on() -> None:
    known = ImageSpec(shape=(1, 8, 8), dtype="uint8", channels=("em",), voxel_size_nm=(40, 8, 8))
    unknown = replace(known, voxel_size_nm=None)

    def check(own: ImageSpec, image: ImageSpec) -> None:
        inputs = SimpleNamespace(image=own, class_names=("a", "b"))
        trained: Any = SimpleNamespace(
            inputs=inputs, folder="run", config=SimpleNamespace(crop=None)
        )
        check_fit(trained, image, ("a", "b"), where="set")

    check(known, known)
    check(unknown, known)
    check(unknown, unknown)
    with pytest.raises(ValueError, match=r"set are of unknown size; say it: .*--voxel-size-nm"):
        check(known, unknown)
