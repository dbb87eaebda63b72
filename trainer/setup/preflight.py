"""Devices and pairs of versions that are known to train wrongly or very slowly."""

import torch

from trainer.config import Config, Precision


def warnings_for(
    config: Config, torch_version: str, cudnn: int | None, *, native: bool = True
) -> list[str]:
    """Return a warning for each known fault of these versions with this config.

    `cudnn` is torch's number for it (9.8.0 is 90800), None without CUDA; `native` is what
    `is_native` says of the config's precision.
    """
    warnings: list[str] = []
    three_d = config.view == "cube"
    if not native:
        warnings.append(
            f"this device emulates {config.precision}, which can take 3D steps many times as long; "
            "use --precision no, or fp16 on a GPU"
        )
    if cudnn is None or not three_d or config.precision == "no":
        return warnings
    if torch_version.startswith("2.9."):
        warnings.append(
            f"torch {torch_version} runs 3D convolutions in mixed precision four times slower and "
            "in more memory; use torch 2.10 or newer, or --precision no"
        )
    if config.precision == "bf16" and 90800 <= cudnn < 91100:
        warnings.append(
            f"cuDNN {cudnn} gives wrong 3D convolutions in bf16; use cuDNN 9.11 or newer, or "
            "--precision no"
        )
    return warnings


def is_native(precision: Precision) -> bool:
    """Return True where the device computes in this precision itself, without emulating it.

    GPUs before Ampere lack bf16, as do x86 processors without AVX-512.
    """
    if precision == "no":
        return True
    if torch.cuda.is_available():
        return precision == "fp16" or torch.cuda.is_bf16_supported(including_emulation=False)
    mkldnn: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if precision == "fp16" or not mkldnn:
        return False
    native: bool = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return native


def cudnn_version() -> int | None:
    """Return torch's number for its cuDNN, None where there is no CUDA device."""
    if not torch.cuda.is_available():
        return None
    number: int | None = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
    return number
