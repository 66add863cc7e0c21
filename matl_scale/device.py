"""The device and the precision that a process computes with."""

import contextlib
import os
import platform
from typing import Literal

import torch

from matl_scale.launcher import read_launch

Precision = Literal["auto", "fp32", "bf16", "fp16"]


def device_name(device: torch.device) -> str:
    """Returns a device's name for people, as `NVIDIA H100` or `x86_64 CPU`."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} CPU"


def choose_cpu() -> bool:
    """Returns whether to use the CPU: on request, without a GPU, or with more processes on this machine than GPUs."""
    # accelerate's launcher for several processes drops `use_cpu` from its config file, but passes the environment on
    requested = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("true", "1")
    return requested or read_launch().local_world_size > torch.cuda.device_count()


def choose_device() -> torch.device:
    """Returns the device of a command that is a single process."""
    return torch.device("cpu" if choose_cpu() else "cuda")


def autocast(device: torch.device, precision: Precision) -> contextlib.AbstractContextManager[None]:
    """Returns the context in which a network computes with a precision; for fp32 it does nothing."""
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(resolve_precision(precision))
    return contextlib.nullcontext() if dtype is None else torch.autocast(device.type, dtype)


def resolve_precision(precision: Precision) -> Precision:
    """Replaces `auto` by bf16 where the device supports it, else by fp32."""
    if precision != "auto":
        return precision
    has_bf16 = not choose_cpu() and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16" if has_bf16 else "fp32"
