"""Weights from elsewhere: torchvision's pretrained ones, files and URLs, fitted to our models."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial as bound
from pathlib import Path
from urllib.parse import urlsplit

import torch
import torchvision
from torch import Tensor, nn

from trainer.weights.downloads import cache_folder, fetch_to
from trainer.weights.tensor_files import Tensors, beside, parse_tensors, read_tensors, unchecked

CONVOLUTIONS = (nn.Conv2d, nn.Conv3d)
WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")  # anywhere in a name
LEAST_PART = 0.5  # of the model's parameters
CACHED = "delete it, and it is downloaded again"


def load_pretrained(model: nn.Module, name: str) -> None:
    """Load torchvision's best published weights of its model `name` into `model`.

    They are downloaded once into torch's hub folder; where there is no network, the error says
    which file to put where.
    """
    url = torchvision.models.get_model_weights(name).DEFAULT.url
    place = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    _fetched(place, url, cure="train without them: --weights none")
    try:
        model.load_state_dict(read_tensors(place, cure=CACHED).get("", {}))
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:120]
        raise ValueError(f"{place}: not the weights of {name} ({reason} …); {CACHED}") from None


def load_weights(
    model: nn.Module, source: str, *, partial: bool, class_names: tuple[str, ...]
) -> list[str]:
    """Load what fits of a file or URL (safetensors, or .pth of tensors alone) into `model`.

    The tensors may lie in a dict within the file, and their names may share a prefix. Returns
    lines that say what was loaded, skipped and left new. Less than half of the model's
    parameters is an error unless `partial`; so are values that are not numbers. A first
    convolution of another number of channels is summed over them.
    """
    path, cure = Path(source), "fetch it again"
    if "://" in source:
        place = cache_folder(source) / (Path(urlsplit(source).path).name or "weights")
        path, cure = _fetched(place, source, cure="give another --weights"), CACHED
    places = read_tensors(path, cure=cure)
    fits = [fit for place, tensors in places.items() for fit in _fits_of(model, place, tensors)]
    best = max(fits, key=lambda fit: fit.parameters)
    _check(model, best, source=source, partial=partial)
    notes = _head_notes(model, best, class_names, beside(path).inputs.class_names)
    model.load_state_dict(best.fitting, strict=False)
    others = sorted({fit.place for fit in fits} - {best.place})
    return [
        f"weights from {source}{best.where}: {len(best.fitting)} tensors loaded"
        + (f"; not from {', '.join(map(repr, others))}" if others else ""),
        f"skipped {listed(sorted(best.skipped))}",
        f"left new {listed(sorted(model.state_dict().keys() - best.fitting.keys()))}",
        *notes,
        *filter(None, [unchecked(path)]),
    ]


@dataclass(frozen=True, kw_only=True, slots=True)
class Fit:
    """The tensors of one dict of a file that fit a model when `prefix` is taken off their names."""

    place: str
    prefix: str
    fitting: Tensors
    skipped: tuple[str, ...]
    parameters: int  # of the model, that are among the fitting

    @property
    def where(self) -> str:
        """Their place in the file, for messages."""
        place = f", its {self.place!r}" if self.place else ""
        return place + (f", names below {self.prefix!r}" if self.prefix else "")


def _fits_of(model: nn.Module, place: str, tensors: Tensors) -> Iterator[Fit]:
    """Yield what fits for each prefix that the tensors' names may share."""
    own = model.state_dict()
    tensors = {_unwrapped(name): value for name, value in tensors.items()}
    sizes = {name: value.numel() for name, value in model.named_parameters()}
    first = next(n for n, m in model.named_modules() if isinstance(m, CONVOLUTIONS)) + ".weight"
    for prefix in _prefixes(tensors):
        renamed = _without_prefix(tensors, prefix, own)
        if first in renamed and _are_filters_like(renamed[first], own[first]):
            renamed[first] = with_channels(renamed[first], own[first].shape[1])
        fitting = {n: v for n, v in renamed.items() if n in own and _is_like(v, own[n])}
        yield Fit(
            place=place,
            prefix=prefix,
            fitting=fitting,
            skipped=tuple(renamed.keys() - fitting.keys()),
            parameters=sum(sizes.get(name, 0) for name in fitting),
        )


def _prefixes(tensors: Tensors) -> list[str]:
    """Return '' and every beginning of a name that ends with a dot, shortest first."""
    prefixes = {name[: dot.end()] for name in tensors for dot in re.finditer(r"\.", name)}
    return sorted({"", *prefixes}, key=lambda prefix: (prefix.count("."), prefix))


def _without_prefix(tensors: Tensors, prefix: str, own: Tensors) -> Tensors:
    """Return tensors by names without a prefix; the head `fc` is called as `with_head` does."""
    renamed = {
        name.removeprefix(prefix): value
        for name, value in sorted(tensors.items(), key=lambda item: item[0].startswith(prefix))
    }
    for leaf in ("weight", "bias"):
        if f"fc.{leaf}" in renamed and f"fc.1.{leaf}" in own.keys() - renamed.keys():
            renamed[f"fc.1.{leaf}"] = renamed.pop(f"fc.{leaf}")
    return renamed


def _is_like(value: Tensor, own: Tensor) -> bool:
    """True where a tensor can stand for the model's own: shape, layout, and float for float."""
    return (
        value.shape == own.shape
        and value.layout == torch.strided
        and not value.is_quantized
        and value.is_floating_point() == own.is_floating_point()
    )


def _are_filters_like(value: Tensor, own: Tensor) -> bool:
    """True where filters are like the model's own but for the number of channels."""
    same_axes = value.ndim == own.ndim and value.shape[1] > 0
    return same_axes and _is_like(value[:, :1], own[:, :1])


def _check(model: nn.Module, best: Fit, *, source: str, partial: bool) -> None:
    count = len(best.fitting) + len(best.skipped)
    if not best.fitting:
        raise ValueError(
            f"{source}{best.where}: none of its {count} tensors fits the model (for instance "
            f"{next(iter(best.skipped), 'nothing')}); give the weights of the same model"
        )
    whole = sum(value.numel() for value in model.parameters())
    if best.parameters < LEAST_PART * whole and not partial:
        raise ValueError(
            f"{source}{best.where}: {len(best.fitting)} of its {count} tensors fit, which are "
            f"{best.parameters / whole:.0%} of the model's {whole:,} parameters; give the weights "
            "of the same model, or go on with these by --weights-partial"
        )
    own = model.state_dict()
    bad = [n for n, v in best.fitting.items() if not bool(v.to(own[n].dtype).isfinite().all())]
    if bad:
        raise ValueError(
            f"{source}{best.where}: {listed(sorted(bad))} with values that are not finite; give "
            "weights of a training that did not diverge"
        )


def _head_notes(
    model: nn.Module, best: Fit, class_names: tuple[str, ...], of_file: tuple[str, ...]
) -> list[str]:
    """Say which classes a head that fits is taken to be of; one of other classes stays new."""
    head = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)][-1]
    if f"{head}.weight" not in best.fitting:
        return []
    if of_file and of_file != class_names:
        for leaf in ("weight", "bias"):
            best.fitting.pop(f"{head}.{leaf}", None)
        return [f"the head is left new: the file's is of {', '.join(of_file)}, in this order"]
    source = "as its state.json says" if of_file else "which the file does not say"
    return [f"the head's outputs are taken as {', '.join(class_names)}, in this order, {source}"]


def _fetched(place: Path, url: str, *, cure: str) -> Path:
    check = bound(parse_tensors, where="the download", name=place.name, cure="check the URL")
    return fetch_to(place, url, cure=cure, check=check)


def adapt_input(model: nn.Module, channels: int, *, pretrained: bool) -> None:
    """Make the first convolution of `model` take `channels` channels instead of its own.

    Pretrained filters are summed over colours and shared out evenly, so that an image repeated in
    every channel gives what the same image in gray gave before.
    """
    conv = next(module for module in model.modules() if isinstance(module, CONVOLUTIONS))
    if conv.in_channels == channels:
        return
    weight, bias = conv.weight.detach(), conv.bias
    conv.in_channels = channels
    conv.weight = nn.Parameter(weight.new_empty((len(weight), channels, *weight.shape[2:])))
    conv.bias = None if bias is None else nn.Parameter(bias.detach().clone())
    conv.reset_parameters()
    if pretrained:
        with torch.no_grad():
            conv.weight.copy_(with_channels(weight, channels))
        conv.bias = bias


def with_channels(weight: Tensor, channels: int) -> Tensor:
    """Return filters (o, c, …) as (o, channels, …): their sum over c, shared out evenly."""
    if weight.shape[1] == channels:
        return weight
    gray = weight.sum(dim=1, keepdim=True) / channels
    return gray.expand(-1, channels, *(-1,) * (weight.ndim - 2))


def _unwrapped(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def listed(names: list[str]) -> str:
    """Return how many names there are, and the first of them."""
    shown = ", ".join(names[:6]) + (", …" if len(names) > 6 else "")
    return f"{len(names)}: {shown}" if names else "nothing"
