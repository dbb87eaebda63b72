"""Every model by name, and the classifier that a run trains: preprocessing and model in one.

The classifier takes the shards' own uint8 images, so that training, prediction and an exported
model cannot differ in how they normalize or crop.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from shards.contract.documents import document
from shards.contract.schema import ImageSpec, Manifest
from shards.stream.section_view import Sections
from trainer.config import Config
from trainer.models.cnn2d import cnn_2d
from trainer.models.nets3d import resnet18_3d, unet3d, unet3d_small, vgg3d
from trainer.models.norms import set_norm
from trainer.models.torchvision_nets import add_stochastic_depth, backbone
from trainer.weights.pretrained import listed, load_weights

Build = Callable[[Config, int, int], nn.Module]  # config, channels, classes
PRETRAINED = ("resnet18", "resnet50", "r3d_18", "mc3_18", "r2plus1d_18")  # by torchvision
MODELS: dict[str, Build] = {
    "cnn_2d": cnn_2d,
    "unet3d": unet3d,
    "unet3d_small": unet3d_small,
    "vgg3d": vgg3d,
    "resnet18_3d": resnet18_3d,
    **{name: partial(backbone, name) for name in PRETRAINED},
}
OF_PLANES = ("resnet18", "resnet50", "cnn_2d")
COLORS = 3


@document
@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """The images and classes that a model is for; saved with its weights."""

    image: ImageSpec
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        channels = self.image.shape[0]
        if len(self.mean) != channels or len(self.std) != channels or min(self.std) <= 0:
            raise ValueError(
                f"mean and std must be {channels} numbers each, one per channel, and std positive, "
                f"got {self.mean} and {self.std}"
            )


def inputs_of(manifest: Manifest) -> Inputs:
    """Return what a shard set's manifest says about a model's inputs."""
    return Inputs(
        image=manifest.image,
        class_names=manifest.class_names,
        mean=manifest.mean,
        std=manifest.std,
    )


class Classifier(nn.Module):
    """Images (b, c, [z], y, x), gray 0 to 255 in any dtype, to logits (b, classes).

    A 2D net takes the sections of a cube as channels; `repeat` shows the net that many copies of
    its one channel.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        net: nn.Module,
        *,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        crop: tuple[int, ...],
        repeat: int = 1,
    ) -> None:
        super().__init__()
        self.net = net
        self.crop, self.repeat = crop, repeat
        self.is_planar = any(isinstance(module, nn.Conv2d) for module in net.modules())
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits; images larger than the crop lose their border."""
        x = center_crop(x, self.crop)
        shape = (1, -1) + (1,) * (x.ndim - 2)
        x = (x.float() - self.mean.view(shape)) / self.std.view(shape)
        if self.is_planar:
            x = x.flatten(1, -3)
        if self.repeat > 1:
            x = x.expand(-1, self.repeat, *(-1,) * (x.ndim - 2))
        logits: Tensor = self.net(x)
        return logits


def center_crop(x: Tensor, crop: tuple[int, ...]) -> Tensor:
    """Return the middle of the last axes of `x`, of sizes `crop`; all of it when that is empty."""
    for axis, size in enumerate(crop, start=x.ndim - len(crop)):
        x = x.narrow(axis, crop_start(x.shape[axis], size), size)
    return x


def crop_start(size: int, crop: int) -> int:
    """Return where a crop starts whose middle is the image's: its voxel number `size // 2`."""
    return size // 2 - crop // 2


def sections_to_read(config: Config, image: ImageSpec) -> Sections | None:
    """Return the sections that a 2D model needs of cubes; None where whole images are read."""
    if config.model not in OF_PLANES or image.view == "patch" or not config.crop:
        return None
    return Sections(around=config.crop[0] // 2) if config.crop[0] % 2 else None


def as_stored(x: Tensor, image: ImageSpec) -> Tensor:
    """Return images as (b, c, [z], y, x), also where sections were read as (b, c * z, y, x)."""
    if x.ndim > len(image.shape):
        return x
    return x.view(len(x), image.shape[0], -1, *x.shape[2:])


def build_classifier(config: Config, inputs: Inputs) -> tuple[Classifier, list[str]]:
    """Return a new classifier for these inputs, and notes on how it was made.

    A model that is not known, images of another view, and images smaller than the crop are errors.
    """
    image = inputs.image
    if config.model not in MODELS:
        raise ValueError(f"unknown model {config.model!r}; known models: {', '.join(MODELS)}")
    if image.view != config.view:
        raise ValueError(
            f"model {config.model} is for {config.view} images but the shards hold {image.view} "
            f"images of shape {image.shape}; pack with --view {config.view} or choose a recipe "
            f"for {image.view} images"
        )
    crop = config.crop or image.shape[1:]
    if any(size < part for size, part in zip(image.shape[1:], crop, strict=True)):
        raise ValueError(
            f"crop {config.crop} is larger than the images {image.shape}; choose --crop within it"
        )
    if config.view == "patch" and config.model not in OF_PLANES:
        raise ValueError(f"model {config.model} needs cubes; use --view cube")
    takes_sections = config.view == "cube" and config.model in OF_PLANES
    channels = image.shape[0] * (crop[0] if takes_sections else 1)
    repeat = COLORS if config.stem == "repeat" else 1
    if repeat > 1 and channels != 1:
        raise ValueError(f"--stem repeat needs images of one channel, these have {channels}")
    if config.weights == "default" and config.model not in PRETRAINED:
        raise ValueError(
            f"torchvision has no weights for {config.model}, only for {', '.join(PRETRAINED)}; "
            "use --weights none, or give a file or URL"
        )
    net = MODELS[config.model](config, channels * repeat, len(inputs.class_names))
    notes = []
    if config.weights not in ("none", "default"):
        notes += load_weights(
            net,
            config.weights,
            partial=config.weights_partial,
            class_names=inputs.class_names,
        )
    net, replaced = set_norm(net, config.norm)
    if replaced:
        notes.append(f"batch norms that are now {config.norm} norms: {listed(replaced)}")
    if config.stochastic_depth:
        add_stochastic_depth(net, config.stochastic_depth)
    classifier = Classifier(net, mean=inputs.mean, std=inputs.std, crop=config.crop, repeat=repeat)
    return classifier, notes


def without_weights(config: Config) -> Config:
    """Return the config of the same model when its weights come from a checkpoint."""
    return replace(config, weights="none")
