"""`accelerate launch`: its options must agree with the run's own, and its end ends the ranks."""

import ctypes
import os
import signal
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from trainer.config import Config, System

PR_SET_PDEATHSIG = 1  # of linux/prctl.h
OTHER_TRAINERS = {
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "a parallelism configuration",
}


def check_launcher(config: Config, system: System, environment: Mapping[str, str]) -> None:
    """Refuse what the launcher asks for where the run's own options say something else.

    The run's options alone decide. The launcher's default, "no", asks for nothing.
    """
    for name, what in OTHER_TRAINERS.items():
        if environment.get(name, "").lower() in ("true", "1"):
            raise ValueError(
                f"accelerate launch asks for {what} ({name}), which is not supported; several GPUs "
                "train together by `accelerate launch --multi_gpu`"
            )
    compiled = "inductor" if system.compile else "no"
    for name, option, own in (
        ("ACCELERATE_MIXED_PRECISION", "--precision", config.precision),
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "--accumulate", str(config.accumulate)),
        ("ACCELERATE_DYNAMO_BACKEND", "--compile", compiled),
    ):
        requested = environment.get(name, "").strip().lower()
        default = "1" if option == "--accumulate" else "no"
        if requested not in ("", default, own):
            cure = option if option == "--compile" else f"{option} {requested}"
            raise ValueError(
                f"accelerate launch asks for {requested} ({name}, from its option or configuration "
                f"file), the run's own options for {own} ({option}); the run's decide: give "
                f"{cure} in training, or take it from the launcher"
            )


def end_with_launcher() -> None:
    """Let this process get SIGTERM when the launcher that started it ends, however it ends.

    A killed launcher would else leave its ranks training on. A process that something else
    started, such as a shell, outlasts it as ever.
    """
    if not _is_launcher(os.getppid()):
        return
    libc = ctypes.CDLL(None, use_errno=True)
    with suppress(AttributeError):  # no prctl: not Linux
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _is_launcher(pid: int) -> bool:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return False
    return any(
        word.rpartition("/")[2] in ("accelerate", "accelerate-launch", "torchrun")
        or word.startswith(("accelerate.commands", "torch.distributed"))
        for word in words[:4]
    ) or any("/accelerate/commands/" in word for word in words[:4])
