"""Weights from elsewhere: torchvision's pretrained ones, files and URLs, fitted to our models."""

from hashlib import sha256
from http.client import HTTPException
from pathlib import Path
from pickle import UnpicklingError
from urllib.parse import urlsplit

import torch
import torchvision
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from shards.files import atomic_write
from shards.storage import open_storage

CONVOLUTIONS = (nn.Conv2d, nn.Conv3d)
PREFIXES = ("module.", "net.", "model.", "backbone.")


def load_pretrained(model: nn.Module, name: str) -> None:
    """Load torchvision's best published weights of its model `name` into `model`.

    They are downloaded once into torch's hub folder; where there is no network, the error says
    which file to put where.
    """
    weights = torchvision.models.get_model_weights(name).DEFAULT
    place = Path(torch.hub.get_dir()) / "checkpoints" / weights.url.rpartition("/")[2]
    fetch_to(place, weights.url, cure="train without them: --weights none")
    model.load_state_dict(read_tensors(place))


def load_weights(model: nn.Module, source: str) -> list[str]:
    """Load what fits of a file or URL (safetensors, or .pth of tensors alone) into `model`.

    Returns lines that say what was loaded, skipped and left new. Nothing that fits is an error.
    A first convolution of another number of channels is summed over them.
    """
    path = Path(source)
    if "://" in source:
        place = cache_folder(source) / Path(urlsplit(source).path).name
        path = fetch_to(place, source, cure="give another --weights")
    found = {_plain(name): value for name, value in read_tensors(path).items()}
    own = model.state_dict()
    first = next(n for n, m in model.named_modules() if isinstance(m, CONVOLUTIONS)) + ".weight"
    if first in found and found[first].ndim == own[first].ndim:
        found[first] = with_channels(found[first], own[first].shape[1])
    fitting = {n: v for n, v in found.items() if n in own and v.shape == own[n].shape}
    if not fitting:
        raise ValueError(
            f"{source}: none of its {len(found)} tensors fits the model (for instance "
            f"{next(iter(found), 'nothing')}); give the weights of the same model"
        )
    model.load_state_dict(fitting, strict=False)
    return [
        f"weights from {source}: {len(fitting)} tensors loaded",
        f"skipped {listed(sorted(found.keys() - fitting.keys()))}",
        f"left new {listed(sorted(own.keys() - fitting.keys()))}",
    ]


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors or .pth file; nothing else is ever unpickled."""
    if not path.is_file():
        raise ValueError(f"{path}: no such weights file; check --weights")
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, RuntimeError, OSError, EOFError, UnpicklingError) as error:
        raise ValueError(
            f"{path}: not a whole file of tensors alone ({str(error)[:80]}); fetch it again, or "
            "save the model's state_dict"
        ) from None
    inner = [loaded.get(key) for key in ("state_dict", "model_state_dict", "model")]
    loaded = next((value for value in inner if isinstance(value, dict)), loaded)
    return {name: value for name, value in loaded.items() if isinstance(value, Tensor)}


def cache_folder(url: str) -> Path:
    """Return the folder, below torch's hub folder, for what is fetched from `url`."""
    return Path(torch.hub.get_dir()) / "synshards" / sha256(url.encode()).hexdigest()[:16]


def fetch_to(path: Path, url: str, *, cure: str) -> Path:
    """Download a URL to `path` unless the file is there; return the path."""
    if path.is_file():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        if urlsplit(url).scheme in ("s3", "gs"):
            folder, _, name = url.rpartition("/")
            with atomic_write(path) as file:
                file.write(open_storage(folder).read(name))
        else:
            torch.hub.download_url_to_file(url, str(path), progress=False)
    except (OSError, ValueError, HTTPException) as error:
        raise ValueError(
            f"cannot download {url} ({error}); fetch it elsewhere and put it at {path}, or {cure}"
        ) from None
    return path


def adapt_input(model: nn.Module, channels: int, *, pretrained: bool) -> None:
    """Make the first convolution of `model` take `channels` channels instead of its own.

    Pretrained filters are summed over colours and shared out evenly, so that an image repeated in
    every channel gives what the same image in gray gave before.
    """
    name, conv = next((n, m) for n, m in model.named_modules() if isinstance(m, CONVOLUTIONS))
    if conv.in_channels == channels:
        return
    new = type(conv)(
        channels,
        conv.out_channels,
        conv.kernel_size,  # type: ignore[arg-type]
        conv.stride,  # type: ignore[arg-type]
        conv.padding,  # type: ignore[arg-type]
        bias=conv.bias is not None,
    )
    if pretrained:
        with torch.no_grad():
            new.weight.copy_(with_channels(conv.weight, channels))
            if conv.bias is not None and new.bias is not None:
                new.bias.copy_(conv.bias)
    parent, _, leaf = name.rpartition(".")
    model.get_submodule(parent).register_module(leaf, new)


def with_channels(weight: Tensor, channels: int) -> Tensor:
    """Return filters (o, c, …) as (o, channels, …): their sum over c, shared out evenly."""
    if weight.shape[1] == channels:
        return weight
    gray = weight.sum(dim=1, keepdim=True) / channels
    return gray.expand(-1, channels, *(-1,) * (weight.ndim - 2))


def _plain(name: str) -> str:
    while prefix := next((p for p in PREFIXES if name.startswith(p)), ""):
        name = name.removeprefix(prefix)
    return name


def listed(names: list[str]) -> str:
    """Return how many names there are, and the first of them."""
    shown = ", ".join(names[:6]) + (", …" if len(names) > 6 else "")
    return f"{len(names)}: {shown}" if names else "nothing"
