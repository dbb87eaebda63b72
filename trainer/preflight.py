"""Pairs of versions that are known to train wrongly or very slowly."""

import torch

from trainer.config import Config


def warnings_for(config: Config, torch_version: str, cudnn: int | None) -> list[str]:
    """Return what is known to be bad about these versions for this config.

    `cudnn` is torch's number for it (9.8.0 is 90800), None without CUDA.
    """
    found: list[str] = []
    three_d = config.view == "cube"
    if cudnn is None or not three_d or config.precision == "no":
        return found
    if torch_version.startswith("2.9."):
        found.append(
            f"torch {torch_version} runs 3D convolutions in mixed precision four times slower and "
            "in more memory; use torch 2.10 or newer, or --precision no"
        )
    if config.precision == "bf16" and 90800 <= cudnn < 91100:
        found.append(
            f"cuDNN {cudnn} gives wrong 3D convolutions in bf16; use cuDNN 9.11 or newer, or "
            "--precision no"
        )
    return found


def cudnn_version() -> int | None:
    """Return torch's number for its cuDNN, None where there is no CUDA device."""
    if not torch.cuda.is_available():
        return None
    number: int | None = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
    return number
