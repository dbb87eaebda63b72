"""2D models of our own: (b, c, y, x) float images to (b, classes) logits."""

from itertools import pairwise

from torch import Tensor, nn

from trainer.config import Config


class CNN2D(nn.Module):
    """Four conv-BN-ReLU-maxpool blocks and two linear layers.

    32, 64, 128, 256 channels, then 256 hidden units; `size` is the image's in y and x.
    """

    def __init__(
        self, channels: int, classes: int, *, size: tuple[int, ...], dropout: float
    ) -> None:
        super().__init__()
        widths = (channels, 32, 64, 128, 256)
        self.features = nn.Sequential(*(_cnn_block(a, b) for a, b in pairwise(widths)))
        self.head = nn.Sequential(
            nn.Flatten(),
            nn.Linear(256 * (size[0] // 16) * (size[1] // 16), 256),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(256, classes),
        )

    def forward(self, x_bcyx: Tensor) -> Tensor:
        """Return logits (b, classes)."""
        logits: Tensor = self.head(self.features(x_bcyx))
        return logits


def cnn_2d(config: Config, channels: int, classes: int) -> nn.Module:
    """Return a small network; it needs a crop to know its size."""
    if not config.crop or min(config.crop[-2:]) < 16:
        raise ValueError(f"model cnn_2d needs a crop of 16 px or more, got {config.crop}")
    return CNN2D(channels, classes, size=config.crop[-2:], dropout=config.dropout)


def _cnn_block(channels: int, width: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
    )
