"""The network of a run, from one of its checkpoints."""

from dataclasses import replace
from pathlib import Path
from typing import cast

import torch

from matl_scale.config import Config
from matl_scale.errors import InputError
from matl_scale.models import RoutedModel
from matl_scale.train.checkpoint import (
    CHECKPOINTS,
    CheckpointInfo,
    check_network,
    hash_masks,
    list_checkpoints,
    load_state,
    read_info,
)
from matl_scale.train.inherit import load_masks
from matl_scale.train.setup import RunData, build_network
from matl_scale.train.state import build_ema


def choose_checkpoint(config: Config, folder: Path | None = None) -> CheckpointInfo:
    """Returns a run's newest checkpoint, or the given one.

    Raises:
        InputError: There is none.
    """
    if folder is not None:
        return read_info(folder)
    found = list_checkpoints(config.run.folder / CHECKPOINTS)
    if not found:
        raise InputError(f"{config.run.folder} has no complete checkpoint yet.")
    return found[-1]


def restore_network(config: Config, data: RunData, checkpoint: CheckpointInfo, device: torch.device) -> RoutedModel:
    """Builds a run's network with a checkpoint's weights; the moving average if the run keeps one.

    Raises:
        InputError: The checkpoint is damaged or has other tasks or masks than the config.
    """
    config = replace(config, model=replace(config.model, pretrained=False))
    model = build_network(config, data, device, load_masks(checkpoint, data))
    check_network(checkpoint, tasks=data.num_classes, masks=hash_masks(model))
    state = load_state(checkpoint)
    model.load_state_dict(state["model"])
    if state["ema"] is None:
        return model
    ema = build_ema(model, config.train.ema_decay)
    assert ema is not None
    ema.load_state_dict(state["ema"])
    return cast(RoutedModel, ema.module)
