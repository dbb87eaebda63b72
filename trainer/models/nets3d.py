"""3D models of our own: (b, c, z, y, x) float images to (b, classes) logits."""

from torch import Tensor, nn
from torchvision.models.video.resnet import BasicBlock, Conv3DSimple, VideoResNet

from trainer.config import Config
from trainer.models.torchvision_nets import with_head

Triple = tuple[int, int, int]
PLANE: Triple = (1, 2, 2)  # halves y and x alone: sections are five times as thick as pixels
ALL: Triple = (2, 2, 2)
FLAT: Triple = (1, 3, 3)


class UNetEncoder3D(nn.Module):
    """The contracting half of a 3D U-Net (Çiçek et al. 2016), pooled to a class.

    Each level is two convolutions, of 3×3 in the plane while voxels are longer along z than in the
    plane and of 3×3×3 after that; `pools` says how each level after the first shrinks.
    `stem_stride` shrinks the image in its first convolution, for small machines, and `strided`
    lets convolutions shrink the later ones as well, where a U-Net pools.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        *,
        width: int,
        pools: tuple[Triple, ...],
        stem_stride: Triple = (1, 1, 1),
        strided: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.stem = _conv(channels, width, (1, 5, 5), stem_stride)
        self.levels = nn.ModuleList([_level(width, width, FLAT)])
        for pool in pools:
            first = () if strided else (nn.MaxPool3d(pool),)
            stride = pool if strided else (1, 1, 1)
            self.levels.append(nn.Sequential(*first, *_level(width, 2 * width, stride=stride)))
            width *= 2
        self.head = nn.Sequential(
            nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Dropout(dropout), nn.Linear(width, classes)
        )

    def forward(self, x_bczyx: Tensor) -> Tensor:
        """Return logits (b, classes)."""
        x_bczyx = self.stem(x_bczyx)
        for level in self.levels:
            x_bczyx = level(x_bczyx)
        logits: Tensor = self.head(x_bczyx)
        return logits


def unet3d(config: Config, channels: int, classes: int) -> nn.Module:
    """Return a U-Net encoder of five levels at full resolution."""
    return UNetEncoder3D(
        channels,
        classes,
        width=config.width,
        pools=(PLANE, PLANE, ALL, ALL),
        dropout=config.dropout,
    )


def unet3d_small(config: Config, channels: int, classes: int) -> nn.Module:
    """Return a U-Net encoder of four levels behind a stem that halves y and x."""
    return UNetEncoder3D(
        channels,
        classes,
        width=config.width,
        pools=(PLANE, ALL, ALL),
        stem_stride=PLANE,
        strided=True,
        dropout=config.dropout,
    )


class VGG3D(nn.Module):
    """The VGG of Eckstein et al. 2024: four levels of two convolutions, three linear.

    Pooled to 4³ before the linear layers, so that any size of cube fits.
    """

    def __init__(self, channels: int, classes: int, *, width: int, dropout: float) -> None:
        super().__init__()
        levels: list[nn.Module] = []
        for pool in (PLANE, PLANE, PLANE, ALL):
            levels += [*_level(channels, width), nn.MaxPool3d(pool)]
            channels, width = width, 2 * width
        self.features = nn.Sequential(*levels, nn.AdaptiveAvgPool3d(4))
        self.head = nn.Sequential(
            nn.Flatten(),
            *_hidden(channels * 4**3, 4096, dropout),
            *_hidden(4096, 4096, dropout),
            nn.Linear(4096, classes),
        )

    def forward(self, x_bczyx: Tensor) -> Tensor:
        """Return logits (b, classes)."""
        logits: Tensor = self.head(self.features(x_bczyx))
        return logits


def vgg3d(config: Config, channels: int, classes: int) -> nn.Module:
    """Return a VGG3D; the published one has width 12."""
    return VGG3D(channels, classes, width=config.width, dropout=config.dropout)


def resnet18_3d(config: Config, channels: int, classes: int) -> nn.Module:
    """Return a 3D ResNet-18 with a 7×7×7 stem and a max pooling (Hara et al. 2018)."""

    class Stem(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(
                nn.Conv3d(channels, 64, 7, stride=PLANE, padding=3, bias=False),
                nn.BatchNorm3d(64),
                nn.ReLU(inplace=True),
                nn.MaxPool3d(3, stride=2, padding=1),
            )

    makers = [Conv3DSimple] * 4
    model: nn.Module = VideoResNet(BasicBlock, makers, [2, 2, 2, 2], Stem, num_classes=classes)
    return with_head(model, config.dropout, classes)


def _conv(channels: int, width: int, kernel: Triple, stride: Triple = (1, 1, 1)) -> nn.Module:
    z, y, x = kernel
    conv = nn.Conv3d(channels, width, kernel, stride, (z // 2, y // 2, x // 2), bias=False)
    return nn.Sequential(conv, nn.BatchNorm3d(width), nn.ReLU(inplace=True))


def _level(
    channels: int, width: int, kernel: Triple = (3, 3, 3), stride: Triple = (1, 1, 1)
) -> nn.Sequential:
    return nn.Sequential(_conv(channels, width, kernel, stride), _conv(width, width, kernel))


def _hidden(inputs: int, outputs: int, dropout: float) -> list[nn.Module]:
    return [nn.Linear(inputs, outputs), nn.ReLU(inplace=True), nn.Dropout(dropout)]
