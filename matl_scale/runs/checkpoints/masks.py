"""Routing masks as checkpoints and run folders keep them."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from matl_scale.models.network import RoutedModel
from matl_scale.routing.masks import EarlierMasks
from matl_scale.routing.router import TaskRouter
from matl_scale.runs.checkpoints.checkpoint import CheckpointInfo
from matl_scale.runs.layout import RunFolder
from matl_scale.storage.files import write_atomic

MASK_PREFIX, MASK_SUFFIX = "trunk.routers.", ".mask"


def hash_masks(model: nn.Module) -> str:
    """Returns the SHA-256 over the names, shapes and bits of all routing masks."""
    digest = hashlib.sha256()
    for name, module in model.named_modules():
        if isinstance(module, TaskRouter):
            digest.update(f"{name} {tuple(module.mask.shape)} ".encode())
            digest.update(module.mask.cpu().numpy().tobytes())
    return digest.hexdigest()


def rows_of(start: CheckpointInfo, names: Sequence[str]) -> list[int | None]:
    """Returns for each task its number in the checkpoint, None for a new one."""
    number_of = {name: number for number, name in enumerate(start.classes)}
    return [number_of.get(name) for name in names]


def earlier_masks(start: CheckpointInfo, state: dict[str, Any], names: Sequence[str]) -> EarlierMasks:
    """Returns the masks of a checkpoint, for the tasks at hand.

    Args:
        start: The checkpoint.
        state: Loaded from it.
        names: Of the tasks.
    """
    masks = {
        name.removeprefix(MASK_PREFIX).removesuffix(MASK_SUFFIX): value
        for name, value in state["model"].items()
        if name.startswith(MASK_PREFIX) and name.endswith(MASK_SUFFIX)
    }
    return EarlierMasks(masks=masks, task_ids=rows_of(start, names), task_names=names)


def own_masks(checkpoint: CheckpointInfo, state: dict[str, Any], names: Sequence[str]) -> EarlierMasks | None:
    """Returns the masks of a run's own checkpoint if some came from another run, else None: the config draws them."""
    return earlier_masks(checkpoint, state, names) if checkpoint.config["run"].get("start_from") else None


def save_masks(folder: Path, model: RoutedModel) -> None:
    """Writes the routing masks by layer into a run's folder, for reports, which load no network."""
    masks = {
        name: module.mask.cpu().numpy()
        for name, module in model.trunk.named_modules()
        if isinstance(module, TaskRouter)
    }
    write_atomic(RunFolder(folder).masks_file, lambda partial: np.savez_compressed(partial, **masks))  # type: ignore[arg-type]
