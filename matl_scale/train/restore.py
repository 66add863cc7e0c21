"""The network of a run, from one of its checkpoints."""

from dataclasses import replace
from typing import cast

import torch

from matl_scale.config import Config
from matl_scale.models import RoutedModel
from matl_scale.train.checkpoint import CheckpointInfo, check_network, hash_masks, load_state
from matl_scale.train.inherit import load_masks
from matl_scale.train.setup import RunData, build_network
from matl_scale.train.state import build_ema


def restore_network(config: Config, data: RunData, checkpoint: CheckpointInfo, device: torch.device) -> RoutedModel:
    """Builds a run's network with a checkpoint's weights; the moving average if the run keeps one.

    Raises:
        InputError: The checkpoint has other tasks or masks than the config.
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
