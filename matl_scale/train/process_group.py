"""Joining the process group, and running a function on the first rank for all."""

import os
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar, cast

import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs, broadcast_object_list

from matl_scale.device import Precision, choose_cpu, resolve_precision
from matl_scale.errors import InputError, RunError, explain_os_error
from matl_scale.launcher import LaunchedRank, read_launch

WATCHDOG_FIRST_S = 30.0  # a collective that gives up knows neither the step nor who is missing; the watchdog does
MIXED_PRECISION = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}

Result = TypeVar("Result")


def on_main(accelerator: Accelerator, function: Callable[[], Result]) -> Result:
    """Runs `function` on the first rank only; every rank gets its result, or its error.

    Raises:
        InputError: `function` raised it.
        RunError: `function` raised it, or met a full disk or missing permissions.
    """
    outcome: list[object] = [None, None]
    if accelerator.is_main_process:
        try:
            outcome[0] = function()
        except (InputError, RunError) as error:
            outcome[1] = error
        except OSError as error:
            reason = explain_os_error(error)
            if reason is None:
                raise
            outcome[1] = RunError(reason)
    broadcast_object_list(outcome)
    if isinstance(outcome[1], Exception):
        raise outcome[1]
    return cast(Result, outcome[0])


def build_accelerator(precision: Precision, timeout_s: float = 1800) -> Accelerator:
    """Joins the process group that the launcher describes (gloo without a GPU) and sets the precision.

    Raises:
        InputError: The launcher's variables are incomplete, it started fewer processes than it was asked for, or the device
            lacks the precision.
    """
    launched = read_launch()
    use_cpu = choose_cpu()
    by_simple_launcher = "RANK" not in os.environ and os.environ.get("ACCELERATE_USE_CPU") == "True"
    if by_simple_launcher and "MASTER_ADDR" in os.environ:
        raise InputError(
            "`accelerate launch --cpu --num_processes N` starts one process, not N. "
            "Use `--config_file launch/accelerate/cpu.yaml --num_processes N`."
        )
    if precision == "fp16" and use_cpu:
        raise InputError("`train.precision` should be fp32 or bf16 on a machine without a GPU. Got fp16.")
    timeout = timedelta(seconds=timeout_s + WATCHDOG_FIRST_S)
    if os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0":
        join_after_restart("gloo" if use_cpu else "nccl", launched, timeout)
    return Accelerator(
        cpu=use_cpu,
        mixed_precision=MIXED_PRECISION[resolve_precision(precision)],
        kwargs_handlers=[
            # statistics belong to tasks: rank 0's must not overwrite the others'
            DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True),
            InitProcessGroupKwargs(timeout=timeout),
        ],
    )


def join_after_restart(backend: str, launched: LaunchedRank, timeout: timedelta) -> None:
    """Joins the process group of a launcher that has started its ranks again.

    The launcher's store outlives the ranks, and with a static rendezvous torch reads in it the addresses of those that are gone
    (torch 2.13 expects a new store for every attempt); so each attempt gets names of its own.
    """
    world_size, rank = launched.world_size, launched.rank
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = dist.TCPStore(address, port, world_size, is_master=False, timeout=timeout)  # type: ignore[attr-defined]
    attempt = dist.PrefixStore(f"attempt-{os.environ['TORCHELASTIC_RESTART_COUNT']}", store)  # type: ignore[attr-defined]
    dist.init_process_group(backend, store=attempt, world_size=world_size, rank=rank, timeout=timeout)
