"""Checkpoints: complete or absent. Written aside, synced, renamed; older ones are pruned after the new one is safe.

A checkpoint holds what a step depends on: weights, masks, statistics, optimizer, scaler, EMA, step and draws. Task
sampling, batches, augmentation, dropout and the learning rate are pure functions of the seed and the step, so there is
no generator or schedule whose state could be lost.
"""

import hashlib
import json
import os
import pickle
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import nn

from matl_scale.errors import InputError, RunError, shortened
from matl_scale.files import explain_os_error, file_sha256, sync_folder, write_json
from matl_scale.routing.router import TaskRouter

CHECKPOINTS = "checkpoints"  # in the run's folder
STATE_FILE = "state.pt"
INFO_FILE = "checkpoint.json"
FORMAT_VERSION = 3  # 2: norm statistics over the units that a task keeps; 3: the records under way


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
        sha256: Of the file with the tensors.
    """

    folder: Path
    step: int
    masks: str
    tasks: dict[str, int]
    shards: str
    manifest_id: str
    world_size: int
    config: dict[str, dict[str, Any]]
    sha256: str


class DamagedCheckpoint(InputError):
    """A checkpoint that is not complete, or whose bytes are not those that were written."""


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

    Raises:
        RunError: The disk is full or cannot be written; what was there before is untouched.
    """
    final = root / f"step-{step:09d}"
    partial = root / f".partial-{final.name}"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        sha256 = write_state(partial / STATE_FILE, state)
        write_json(partial / INFO_FILE, {**info, "format_version": FORMAT_VERSION, "step": step, "sha256": sha256})
        if final.exists():  # not complete, or this run would have gone on from it
            shutil.rmtree(final)
        os.replace(partial, final)
        sync_folder(root)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        reason = explain_os_error(error)
        if reason is None:
            raise
        raise RunError(
            f"The checkpoint of step {step} cannot be written: {reason} Earlier checkpoints are untouched."
        ) from error
    for old in checkpoint_folders(root)[:-keep]:
        shutil.rmtree(old)
    return final


def write_state(path: Path, state: dict[str, Any]) -> str:
    """Writes a state to disk and returns its SHA-256, which is computed on the way: reading it back would take as long."""
    with path.open("wb") as file:
        writer = HashingWriter(file)
        try:
            torch.save(state, writer)  # type: ignore[arg-type]
        except RuntimeError as error:  # torch hides the reason for which a write failed
            raise writer.error or error from error
        file.flush()
        os.fsync(file.fileno())
    return writer.digest.hexdigest()


class HashingWriter:
    """A file to write from front to back that knows the SHA-256 of what was written."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.digest = file, hashlib.sha256()
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        try:
            return self.file.write(data)
        except OSError as error:
            error.filename = error.filename or self.file.name
            self.error = error
            raise

    def flush(self) -> None:
        self.file.flush()


def set_aside_after(root: Path, step: int) -> list[Path]:
    """Renames checkpoints of later steps, which a run that goes on from `step` will not reach again as they are.

    Returns:
        Their new names.
    """
    renamed = []
    for folder in checkpoint_folders(root):
        if int(folder.name.removeprefix("step-")) > step:
            target = root / f"abandoned-{folder.name}"
            shutil.rmtree(target, ignore_errors=True)
            renamed.append(folder.rename(target))
    return renamed


def checkpoint_folders(root: Path) -> list[Path]:
    """Returns the folders of a run's checkpoints, oldest first."""
    return sorted(folder for folder in root.glob("step-*") if folder.name.removeprefix("step-").isdecimal())


def find_intact(root: Path) -> tuple[CheckpointInfo | None, list[str]]:
    """Returns the newest checkpoint whose bytes are those that were written, and what is wrong with newer ones.

    Raises:
        InputError: There are checkpoints, but all are damaged; or the newest has a format of another version.
    """
    complaints = []
    for folder in reversed(checkpoint_folders(root)):
        try:
            info = read_info(folder)
            verify_state(info)
        except DamagedCheckpoint as error:
            complaints.append(str(error))
        else:
            return info, complaints
    if complaints:
        raise InputError(
            f"{root} has no intact checkpoint: {' '.join(complaints)} Choose another `run.name` to start anew."
        )
    return None, []


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
            sha256=content["sha256"],
        )
    except InputError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedCheckpoint(
            f"{folder} is not a complete checkpoint: {INFO_FILE} cannot be read ({error!r})."
        ) from error


def open_checkpoint(place: Path) -> CheckpointInfo:
    """Returns a checkpoint, or the newest one of a run's folder, after comparing its file with its checksum.

    Raises:
        InputError: There is none, or it is damaged.
    """
    if not (place / CHECKPOINTS).is_dir():
        info = read_info(place)
        verify_state(info)
        return info
    found, complaints = find_intact(place / CHECKPOINTS)
    if complaints:
        raise InputError(complaints[0])
    if found is None:
        raise InputError(f"{place} has no complete checkpoint yet.")
    return found


def verify_state(info: CheckpointInfo) -> None:
    """Compares a checkpoint's file with its checksum.

    Raises:
        DamagedCheckpoint: They differ.
    """
    path = info.folder / STATE_FILE
    if not path.is_file() or file_sha256(path) != info.sha256:
        raise DamagedCheckpoint(
            f"{path} is damaged: its SHA-256 is not the one in {INFO_FILE}. Use an earlier checkpoint."
        )


def load_state(info: CheckpointInfo) -> dict[str, Any]:
    """Loads the tensors of a checkpoint that has been verified, on the CPU.

    Raises:
        InputError: The file holds something else than tensors, numbers and strings; nothing of it is executed.
    """
    path = info.folder / STATE_FILE
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path} holds objects that would run code when they are loaded. It is not one of ours."
        ) from error
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
