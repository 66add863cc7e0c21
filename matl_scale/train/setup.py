"""What training and evaluation both need before their first batch: processes, precision, data, tasks, network."""

import os
import platform
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs

from matl_scale.config import Config
from matl_scale.data.damage import DamageLog
from matl_scale.data.loader import DataConfig, choose_image_size
from matl_scale.data.manifest import Manifest, read_manifest
from matl_scale.data.reader import SampleReader
from matl_scale.data.shards import MISSING
from matl_scale.errors import InputError
from matl_scale.models import RoutedModel, build_model
from matl_scale.routing.masks import EarlierMasks
from matl_scale.tasks import Task, match_names
from matl_scale.train.evaluate import EvalData
from matl_scale.train.step import Precision

TRAIN_SPLIT = "train"
WATCHDOG_FIRST_S = 30.0  # a collective that gives up knows neither the step nor who is missing; the watchdog does
MIXED_PRECISION = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}


@dataclass(frozen=True, kw_only=True)
class RunData:
    """The shard set as a run sees it.

    Attributes:
        manifest: The shard set.
        tasks: The run's tasks.
        labels: Label matrix, shape `(num_samples, num_tasks)`.
        reader: Of the images.
        image_size: Side length in pixels.
        config: The section `data`.
    """

    manifest: Manifest
    tasks: list[Task]
    labels: np.ndarray
    reader: SampleReader
    image_size: int
    config: DataConfig

    @property
    def task_names(self) -> list[str]:
        return [task.name for task in self.tasks]

    @property
    def num_classes(self) -> dict[str, int]:
        """Number of classes by task name, in order."""
        return {task.name: task.num_classes for task in self.tasks}

    def count_labelled(self, split: str) -> np.ndarray:
        """Returns the number of labelled samples of each task in a split, shape `(num_tasks,)`."""
        return (self.labels[self.manifest.rows(split)] != MISSING).sum(axis=0)

    def describe(self) -> dict[str, Any]:
        """Returns what identifies the data, for the run's records."""
        return {
            "path": str(self.manifest.root),
            "manifest_id": self.manifest.id,
            "version": self.manifest.version,
            "splits": self.manifest.splits,
            "tasks": len(self.tasks),
            "image_size": self.image_size,
        }

    def damage_log(self, split: str) -> DamageLog:
        """Returns an empty log of a split's damaged samples."""
        num_samples = self.manifest.splits[split]
        return DamageLog(split, num_samples, self.config.max_damaged, str(self.manifest.root))

    def evaluation(self, split: str) -> EvalData:
        """Returns a split to evaluate."""
        rows = self.manifest.rows(split)
        self.manifest.check_shards(split)
        return EvalData(
            rows=rows,
            labels=self.labels,
            reader=self.reader,
            image_size=self.image_size,
            workers=self.config.workers,
            damage=self.damage_log(split),
        )


def build_accelerator(precision: Precision, timeout_s: float = 1800) -> Accelerator:
    """Joins the process group that the launcher describes (gloo without a GPU) and sets the precision.

    Raises:
        InputError: The launcher started fewer processes than it was asked for, or the device lacks the precision.
    """
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
        join_after_restart("gloo" if use_cpu else "nccl", timeout)
    return Accelerator(
        cpu=use_cpu,
        mixed_precision=MIXED_PRECISION[resolve_precision(precision)],
        kwargs_handlers=[
            # statistics belong to tasks: rank 0's must not overwrite the others'
            DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True),
            InitProcessGroupKwargs(timeout=timeout),
        ],
    )


def join_after_restart(backend: str, timeout: timedelta) -> None:
    """Joins the process group of a launcher that has started its ranks again.

    The launcher's store outlives the ranks, and with a static rendezvous torch reads in it the addresses of those that are gone
    (torch 2.13 expects a new store for every attempt); so each attempt gets names of its own.
    """
    world_size, rank = int(os.environ["WORLD_SIZE"]), int(os.environ["RANK"])
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = dist.TCPStore(address, port, world_size, is_master=False, timeout=timeout)
    attempt = dist.PrefixStore(f"attempt-{os.environ['TORCHELASTIC_RESTART_COUNT']}", store)
    dist.init_process_group(backend, store=attempt, world_size=world_size, rank=rank, timeout=timeout)


def device_name(device: torch.device) -> str:
    """Returns what a person calls a device."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} CPU"


def choose_cpu() -> bool:
    """Returns whether to train on the CPU: asked for, no GPU, or more processes on this machine than it has GPUs."""
    # accelerate's launcher for several processes drops `use_cpu` from its config file, but passes the environment on
    asked = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("true", "1")
    return asked or int(os.environ.get("LOCAL_WORLD_SIZE", "1")) > torch.cuda.device_count()


def resolve_precision(precision: Precision) -> Precision:
    """Replaces `auto` by what the device has."""
    if precision != "auto":
        return precision
    has_bf16 = not choose_cpu() and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16" if has_bf16 else "fp32"


def resolve_config(config: Config) -> Config:
    """Returns the config with every automatic choice made, as the run's folder keeps it."""
    return replace(config, train=replace(config.train, precision=resolve_precision(config.train.precision)))


def open_data(config: Config) -> RunData:
    """Opens the shard set and chooses the run's tasks.

    Raises:
        InputError: The shard set is missing or damaged, or a pattern of `data.tasks` matches nothing.
    """
    manifest = read_manifest(config.data.path, config.data.version)
    task_ids = match_names(manifest.task_names, config.data.patterns, "data.tasks")
    return RunData(
        manifest=manifest,
        tasks=[manifest.tasks[task_id] for task_id in task_ids],
        labels=manifest.labels(task_ids),
        reader=SampleReader(manifest),
        image_size=choose_image_size(manifest, config.data),
        config=config.data,
    )


def build_network(
    config: Config, data: RunData, device: torch.device, earlier: EarlierMasks | None = None
) -> RoutedModel:
    """Builds the network of a run on a device, with the masks that its tasks bring along, if they do."""
    model = build_model(config.model, config.routing, data.tasks, config.run.seed, data.image_size, earlier)
    model.to(device=device, dtype=torch.get_default_dtype())
    if config.train.channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model
