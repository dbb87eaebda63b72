"""Recipes: each is a function that returns a complete config; its docstring says what it is."""

from collections.abc import Callable
from dataclasses import replace

from trainer.config import Augment, Config

# Flips, small rotations, blur, brightness and contrast, as is usual for 2D images.
PLAIN_2D = Augment(turn=False, rotate=10.0, blur_p=1.0, brightness=0.2, contrast=0.1)
STRONG_2D = Augment(
    shift_vx=8,
    rotate=10.0,
    scale=0.05,
    brightness=0.05,
    contrast=0.15,
    gamma=0.1,
    noise=0.02,
    blur_p=0.1,
)
STRONG_3D = Augment(
    shift_vx=4,
    brightness=0.03,
    contrast=0.15,
    section_brightness=0.02,
    section_contrast=0.03,
    missing_p=0.03,
    blurred_p=0.03,
    slip_p=0.03,
    step_p=0.03,
)


def resnet50_2d() -> Config:
    """ResNet-50 (He et al. 2016) on 2D patches from ImageNet weights."""
    return replace(resnet18_2d(), model="resnet50")


def resnet18_2d() -> Config:
    """ResNet-18 (He et al. 2016) on 2D patches from ImageNet weights."""
    return Config(
        model="resnet18",
        view="patch",
        weights="default",
        augment=PLAIN_2D,
        epochs=30,
        batch_size=32,
        optimizer="adam",
        lr=5e-4,
        schedule="cosine",
    )


def resnet18_2d_small() -> Config:
    """ResNet-18 from scratch on the middle of 2D patches, sized for two CPU cores."""
    return Config(
        model="resnet18",
        view="patch",
        crop=(96, 96),
        augment=Augment(shift_vx=6, brightness=0.02, contrast=0.1),
        epochs=6,
        batch_size=16,
        optimizer="adamw",
        lr=1e-3,
        weight_decay=1e-2,
        schedule="one_cycle",
        warmup=0.25,
        clip_norm=1.0,
    )


def resnet18_25d() -> Config:
    """ResNet-18 on the middle five sections of cubes, read as channels, from ImageNet weights."""
    return replace(
        resnet18_2d(), view="cube", crop=(5, 128, 128), augment=replace(PLAIN_2D, turn=True)
    )


def resnet18_2d_strong() -> Config:
    """ResNet-18 on 2D patches: mild augmentation for EM, decay, averaged weights."""
    return replace(
        resnet18_2d(),
        crop=(192, 192),
        augment=STRONG_2D,
        optimizer="adamw",
        weight_decay=1e-2,
        warmup=0.1,
        clip_norm=1.0,
        ema=0.99,
        balance="class",
    )


def cnn_2d() -> Config:
    """CNN of four convolutions on the middle 256 px of 2D patches, from scratch."""
    return Config(
        model="cnn_2d",
        view="patch",
        crop=(256, 256),
        dropout=0.5,
        augment=PLAIN_2D,
        epochs=30,
        batch_size=32,
        optimizer="adam",
        lr=2.5e-4,
        schedule="constant",
    )


def cnn_2d_128() -> Config:
    """The same CNN of four convolutions on the middle 128 px."""
    return replace(cnn_2d(), crop=(128, 128))


def unet3d_small() -> Config:
    """U-Net encoder (Çiçek et al. 2016) on the middle of 3D cubes, sized for two CPU cores."""
    return Config(
        model="unet3d_small",
        view="cube",
        crop=(12, 64, 64),
        width=12,
        dropout=0.1,
        augment=Augment(shift_vx=4, brightness=0.02, contrast=0.1),
        epochs=12,
        batch_size=8,
        optimizer="adamw",
        lr=3e-3,
        weight_decay=1e-2,
        schedule="one_cycle",
        warmup=0.25,
        clip_norm=1.0,
    )


def unet3d() -> Config:
    """U-Net encoder (Çiçek et al. 2016) on whole 3D cubes, with GroupNorm (Wu and He 2018)."""
    return Config(
        model="unet3d",
        view="cube",
        width=24,
        norm="group",
        dropout=0.2,
        class_weights="effective",
        augment=Augment(shift_vx=0, brightness=0.1, contrast=0.1, noise=0.03),
        epochs=30,
        batch_size=16,
        optimizer="adamw",
        lr=1e-3,
        weight_decay=1e-2,
        warmup=0.05,
        clip_norm=1.0,
    )


def unet3d_strong() -> Config:
    """U-Net encoder on 3D cubes: EM's defects, focal loss (Lin et al. 2017), averaged weights."""
    return replace(
        unet3d_small(),
        crop=(24, 112, 112),
        width=32,
        augment=STRONG_3D,
        epochs=30,
        loss="focal",
        ema=0.99,
        balance="class",
    )


def r3d_18() -> Config:
    """Torchvision's 3D ResNet-18 (Tran et al. 2018) on whole cubes."""
    return replace(unet3d(), model="r3d_18", norm="batch", lr=5e-4)


def mc3_18() -> Config:
    """Torchvision's ResNet-18 of 3D, then 2D convolutions (Tran et al. 2018) on whole cubes."""
    return replace(r3d_18(), model="mc3_18")


def r2plus1d_18() -> Config:
    """Torchvision's ResNet-18 of (2+1)D convolutions (Tran et al. 2018) on whole cubes."""
    return replace(r3d_18(), model="r2plus1d_18")


def resnet18_3d() -> Config:
    """3D ResNet-18 with a 7×7×7 stem (Hara et al. 2018) on whole cubes."""
    return replace(r3d_18(), model="resnet18_3d")


def vgg3d() -> Config:
    """VGG3D (Eckstein et al. 2024) on whole cubes."""
    return replace(r3d_18(), model="vgg3d", width=12, dropout=0.5, lr=1e-4)


RECIPES: dict[str, Callable[[], Config]] = {
    recipe.__name__: recipe
    for recipe in (
        resnet50_2d,
        resnet18_2d,
        resnet18_2d_small,
        resnet18_2d_strong,
        resnet18_25d,
        cnn_2d,
        cnn_2d_128,
        unet3d_small,
        unet3d,
        unet3d_strong,
        r3d_18,
        mc3_18,
        r2plus1d_18,
        resnet18_3d,
        vgg3d,
    )
}
