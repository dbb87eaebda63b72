"""Torchvision's models, 2D and 3D, with any number of channels and classes."""

from functools import partial

import torchvision
from torch import Tensor, nn
from torchvision.models import resnet
from torchvision.models.video import resnet as video
from torchvision.ops import stochastic_depth

from trainer.config import Config
from trainer.weights.pretrained import adapt_input, load_pretrained

# Of each kind of residual block, the last module before the sum.
LAST = {resnet.BasicBlock: "bn2", resnet.Bottleneck: "bn3", video.BasicBlock: "conv2"}


def backbone(name: str, config: Config, channels: int, classes: int) -> nn.Module:
    """Return torchvision's model `name`: a ResNet of 2D images, or of cubes with any z, y, x."""
    model: nn.Module = torchvision.models.get_model(name)
    if config.weights == "default":
        load_pretrained(model, name)
    adapt_input(model, channels, pretrained=config.weights == "default")
    return with_head(model, config.dropout, classes)


def with_head(model: nn.Module, dropout: float, classes: int) -> nn.Module:
    """Replace the `fc` of a ResNet by dropout and a new linear layer; return the model."""
    head = model.get_submodule("fc")
    assert isinstance(head, nn.Linear)
    model.register_module(
        "fc", nn.Sequential(nn.Dropout(dropout), nn.Linear(head.in_features, classes))
    )
    return model


def add_stochastic_depth(model: nn.Module, most: float) -> None:
    """Leave a sample's residual out in training, with a probability that grows to `most`.

    It grows evenly from the first block to the last (Huang et al. 2016), and names of weights
    stay. A model without residual blocks is an error.
    """
    blocks = [module for module in model.modules() if type(module) in LAST]
    if not blocks:
        raise ValueError("--stochastic-depth needs a model of residual blocks; use --dropout")
    for number, block in enumerate(blocks, start=1):
        last = block.get_submodule(LAST[type(block)])
        last.register_forward_hook(partial(_left_out, most * number / len(blocks)))


def _left_out(p: float, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    kept: Tensor = stochastic_depth(output, p, "row", module.training)
    return kept
