"""Checkpoints: complete or absent. Written aside, synced, renamed; older ones are pruned after the new one is safe.

A checkpoint holds what a step depends on: weights, masks, statistics, optimizer, scaler, EMA, step and draws. Task
sampling, batches, augmentation, dropout and the learning rate are pure functions of the seed and the step, so there is
no generator or schedule whose state could be lost.
"""

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from matl_scale.errors import InputError, shortened
from matl_scale.files import file_sha256, sync_file, sync_folder, write_json
from matl_scale.routing.router import TaskRouter

CHECKPOINTS = "checkpoints"  # in the run's folder
STATE_FILE = "state.pt"
INFO_FILE = "checkpoint.json"
FORMAT_VERSION = 2  # 2: norm statistics over the units that a task keeps


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """When checkpoints are written."""

    every: int = 500
    """Steps between checkpoints; there is always one at the end."""
    keep: int = 2
    """How many to keep; the oldest go first."""

    def __post_init__(self) -> None:
        for key, value in (("every", self.every), ("keep", self.keep)):
            if value < 1:
                raise InputError(f"`checkpoint.{key}` should be at least 1. Got {value}.")


@dataclass(frozen=True, kw_only=True)
class CheckpointInfo:
    """What can be known of a checkpoint without loading it.

    Attributes:
        folder: Where it is.
        step: Steps done.
        masks: Hash of all routing masks.
        tasks: Number of classes by task name, in order.
        shards: Hash of the training split's tars.
        manifest_id: Of the shard set: it changes with labels and with other splits too.
        world_size: W when it was written.
        config: The run's config, in sections.
    """

    folder: Path
    step: int
    masks: str
    tasks: dict[str, int]
    shards: str
    manifest_id: str
    world_size: int
    config: dict[str, dict[str, Any]]


def hash_masks(model: nn.Module) -> str:
    """Returns the SHA-256 over the names, shapes and bits of all routing masks."""
    digest = hashlib.sha256()
    for name, module in model.named_modules():
        if isinstance(module, TaskRouter):
            digest.update(f"{name} {tuple(module.mask.shape)} ".encode())
            digest.update(module.mask.cpu().numpy().tobytes())
    return digest.hexdigest()


def save_checkpoint(root: Path, step: int, state: dict[str, Any], info: dict[str, Any], keep: int) -> Path:
    """Writes `root/step-NNNNNNNNN`, then removes all but the newest `keep`.

    Args:
        root: The run's folder of checkpoints.
        step: Steps done.
        state: Tensors, numbers and strings in dicts and lists: loadable with `weights_only`.
        info: The other fields of `CheckpointInfo`.
        keep: At least 1.
    """
    final = root / f"step-{step:09d}"
    partial = root / f".partial-{final.name}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    torch.save(state, partial / STATE_FILE)
    sync_file(partial / STATE_FILE)
    sha256 = file_sha256(partial / STATE_FILE)
    write_json(partial / INFO_FILE, {**info, "format_version": FORMAT_VERSION, "step": step, "sha256": sha256})
    if final.exists():  # incomplete, or `list_checkpoints` would have known it
        shutil.rmtree(final)
    os.replace(partial, final)
    sync_folder(root)
    for old in list_checkpoints(root)[:-keep]:
        shutil.rmtree(old.folder)
    return final


def set_aside_after(root: Path, step: int) -> list[Path]:
    """Renames checkpoints of later steps, which a run that goes on from `step` will not reach again as they are.

    Returns:
        Their new names.
    """
    renamed = []
    for info in list_checkpoints(root):
        if info.step > step:
            target = root / f"abandoned-{info.folder.name}"
            shutil.rmtree(target, ignore_errors=True)
            renamed.append(info.folder.rename(target))
    return renamed


def list_checkpoints(root: Path) -> list[CheckpointInfo]:
    """Returns the complete checkpoints of a run, oldest first."""
    return [read_info(folder) for folder in sorted(root.glob("step-*")) if (folder / INFO_FILE).is_file()]


def read_info(folder: Path) -> CheckpointInfo:
    """Reads a checkpoint's description.

    Raises:
        InputError: It is none, or not complete.
    """
    path = folder / INFO_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        version = content["format_version"]
        if version != FORMAT_VERSION:
            raise InputError(
                f"{folder} has checkpoint format {version}; this version of matl_scale reads {FORMAT_VERSION}. Go on with the "
                "version that wrote it, or start anew under another `run.name`."
            )
        return CheckpointInfo(
            folder=folder,
            step=content["step"],
            masks=content["masks"],
            tasks=dict(content["tasks"]),
            shards=content["shards"],
            manifest_id=content["manifest_id"],
            world_size=content["world_size"],
            config=content["config"],
        )
    except InputError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder} is not a complete checkpoint: {INFO_FILE} cannot be read ({error!r}).") from error


def load_state(info: CheckpointInfo) -> dict[str, Any]:
    """Loads a checkpoint's tensors on the CPU, after comparing the file with its checksum.

    Raises:
        InputError: The file is damaged.
    """
    path = info.folder / STATE_FILE
    expected = json.loads((info.folder / INFO_FILE).read_text(encoding="utf-8"))["sha256"]
    if not path.is_file() or file_sha256(path) != expected:
        raise InputError(f"{path} is damaged: its SHA-256 is not the one in {INFO_FILE}. Use an earlier checkpoint.")
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def check_network(info: CheckpointInfo, *, tasks: dict[str, int], masks: str) -> None:
    """Raises `InputError` if the checkpoint's network has other tasks or masks than the one at hand.

    Args:
        info: The checkpoint.
        tasks: Number of classes by task name, in order.
        masks: From `hash_masks`.
    """
    if list(info.tasks.items()) != list(tasks.items()):
        different = [name for name in {**info.tasks, **tasks} if info.tasks.get(name) != tasks.get(name)]
        raise InputError(
            f"{info.folder} was trained on other tasks ({len(info.tasks)}, here {len(tasks)}; they differ in "
            f"{shortened(different or tasks)}). Use its `data.tasks`, or another `run.name`."
        )
    if info.masks != masks:
        raise InputError(
            f"{info.folder} has other routing masks than this config draws. Use its `routing`, `model` and `run.seed` "
            "settings, or another `run.name`."
        )


FIXED_KEYS = ("model.name", "model.width", "model.stem", "routing.statistics", "optim.name", "run.seed")


def check_resumable(info: CheckpointInfo, *, config: dict[str, dict[str, Any]], shards: str) -> None:
    """Raises `InputError` if a run with this config and these training tars cannot go on from the checkpoint."""
    if info.shards != shards:
        raise InputError(f"{info.folder} was trained on another shard set. Use its `data.path`, or another `run.name`.")
    for key in FIXED_KEYS:
        section, _, name = key.partition(".")
        before, now = info.config[section][name], config[section][name]
        if before != now:
            raise InputError(
                f"{info.folder} was trained with `{key}` = {before!r}, not {now!r}. Choose another `run.name`."
            )
    if config["train"]["ema_decay"] and not info.config["train"]["ema_decay"]:
        raise InputError(f"{info.folder} keeps no moving average: `train.ema_decay` should be 0 to go on from it.")
