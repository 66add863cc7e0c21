"""Routing masks in checkpoints and run folders."""

import hashlib
from collections.abc import Mapping, Sequence
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

MASK_PREFIX, MASK_SUFFIX = "trunk.routers.", ".mask"  # of a mask's key in a checkpoint


def hash_masks(model: nn.Module) -> str:
    """Returns the SHA-256 over the names, shapes and bits of all routing masks."""
    digest = hashlib.sha256()
    for name, module in model.named_modules():
        if isinstance(module, TaskRouter):
            digest.update(f"{name} {tuple(module.mask.shape)} ".encode())
            digest.update(module.mask.cpu().numpy().tobytes())
    return digest.hexdigest()


def find_old_tasks(checkpoint: CheckpointInfo, names: Sequence[str]) -> list[int | None]:
    """Returns for each task its number in the checkpoint, None for a new one."""
    numbers = {name: number for number, name in enumerate(checkpoint.classes)}
    return [numbers.get(name) for name in names]


def masks_of_checkpoint(checkpoint: CheckpointInfo, state: dict[str, Any], names: Sequence[str]) -> EarlierMasks:
    """Returns the masks that routes of these names have in a checkpoint whose loaded state is `state`."""
    masks = {
        key.removeprefix(MASK_PREFIX).removesuffix(MASK_SUFFIX): value
        for key, value in state["model"].items()
        if key.startswith(MASK_PREFIX) and key.endswith(MASK_SUFFIX)
    }
    numbers = {name: number for number, name in enumerate(checkpoint.routes.names)}
    return EarlierMasks(masks=masks, route_ids=[numbers.get(name) for name in names], route_names=names)


def save_masks(folder: Path, model: RoutedModel, moves: Mapping[str, np.ndarray]) -> None:
    """Writes the routing masks by layer into a run's folder, for reports, which load no network; and how they have moved, as
    arrays by name (`TrainState.move_arrays`)."""
    masks = {
        name: module.mask.cpu().numpy()
        for name, module in model.trunk.named_modules()
        if isinstance(module, TaskRouter)
    }
    path = RunFolder(folder).masks_file
    write_atomic(path, lambda partial: np.savez_compressed(partial, **masks, **moves))  # type: ignore[arg-type]
