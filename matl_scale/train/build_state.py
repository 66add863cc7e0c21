"""Builds the network of a run, and the state in which the run starts or resumes."""

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from matl_scale.errors import InputError
from matl_scale.models.config import ModelConfig
from matl_scale.models.network import RoutedModel, build_ema, build_model, move_model
from matl_scale.models.pretrained import fetch_weights
from matl_scale.models.weights.file import check_sha256
from matl_scale.routes import Routes
from matl_scale.routing.masks import EarlierMasks, UnitScores
from matl_scale.runs.checkpoints.checkpoint import CheckpointInfo, load_state
from matl_scale.runs.checkpoints.compatibility import check_network
from matl_scale.runs.checkpoints.masks import hash_masks, masks_of_checkpoint
from matl_scale.train.config import Config
from matl_scale.train.initial_heads import InitialHeads
from matl_scale.train.length import Length
from matl_scale.train.masks.importance import UnitImportance
from matl_scale.train.patience import Patience
from matl_scale.train.resume.check_config import check_resumable, check_start
from matl_scale.train.resume.open_run import OpenedRun
from matl_scale.train.resume.start_from import copy_weights
from matl_scale.train.run_data import TRAIN_SPLIT, RunData
from matl_scale.train.state import TrainState
from matl_scale.train.step.execution import SlotExecution, TrunkExecution
from matl_scale.train.step.frozen_modules import keep_statistics
from matl_scale.train.step.optim import build_optimizer


def build_network(
    config: Config,
    data: RunData,
    routes: Routes,
    device: torch.device,
    earlier: EarlierMasks | UnitScores | None = None,
    closeness: np.ndarray | None = None,
) -> RoutedModel:
    """Builds the network of a run on a device; its routes keep the masks that they had in an earlier network, if any. By
    `closeness` the strategy `affinity` lays masks; without it they are there to be counted."""
    model = build_model(
        config.model,
        config.routing,
        list(data.num_classes.values()),
        config.run.seed,
        data.image_size,
        routes,
        earlier,
        closeness,
    )
    return move_model(model, device, config.train.channels_last)


def build_state(
    config: Config,
    data: RunData,
    routes: Routes,
    accelerator: Accelerator,
    opened: OpenedRun,
    length: Length,
    slots: SlotExecution,
    closeness: np.ndarray | None = None,
    heads: InitialHeads | None = None,
) -> tuple[TrainState, TrunkExecution]:
    """Builds the state in which a run starts or resumes, and the execution of its trunk.

    There are three cases:
    1. a checkpoint of this run: everything comes from it;
    2. a checkpoint of another run (`run.start_from`): the network comes from it, as far as it goes; the rest is new;
    3. neither: everything is new, or a backbone that somebody has trained (`model.pretrained`, `model.weights`), which the other
       cases do not ask for.
    Heads that are new in the second and third start as `heads` says; without it, with zeros.

    Raises:
        InputError: The checkpoint does not fit.
    """
    source = opened.checkpoint or opened.start
    saved = load_state(source) if source else {}
    if opened.start:
        check_start(opened.start, config, data.tasks)
    given = config
    if source:
        config = config.without_weights()
    elif config.model.is_trained:
        ready_on_every_machine(config.model, accelerator)
    is_magnitude = config.routing.strategy == "magnitude"
    # a network that `magnitude` starts from is dense, and so is what it starts with
    has_masks = opened.has_masks and not (is_magnitude and opened.start)
    earlier = masks_of_checkpoint(source, saved, routes.names) if source and has_masks else None
    model = build_network(config, data, routes, accelerator.device, earlier, closeness)
    if heads is not None:
        heads.write(model)
    if opened.start:
        copy_weights(model, saved, opened.start, data.task_names, by_task=is_magnitude)
    if opened.checkpoint:
        check_checkpoint(opened.checkpoint, given, data, model)
    ema = build_ema(model, config.train.ema_decay)
    if config.model.is_trained:
        keep_statistics(model.trunk)
    execution, compiled = config.routing.execution, config.train.compile
    freeze, checkpointing = config.model.freeze, config.train.checkpointing
    trunk = TrunkExecution(
        accelerator, model.trunk, execution, compiled, freeze, model.affine, slots, checkpointing=checkpointing
    )
    optimizer = build_optimizer(config.optim, model, fused=config.train.precision != "fp16")
    state = TrainState(
        model=model,
        optimizer=accelerator.prepare_optimizer(optimizer),
        scaler=accelerator.scaler,
        ema=ema,
        draws=np.zeros(routes.num_routes, dtype=np.int64),
        labels_seen=np.zeros(routes.num_tasks, dtype=np.int64),
        length=length,
        patience=Patience(
            limit=config.train.patience,
            chosen_by=f"{config.eval.split}/{config.checkpoint.best}",
            yardstick=repr(config.yardstick),
        ),
    )
    if is_magnitude and (opened.checkpoint is None or saved.get("importance") is not None):
        state.importance = UnitImportance(model)
    if opened.checkpoint:
        if "optimizer" not in saved:
            raise InputError(
                f"`run.resume`: {opened.checkpoint.folder} holds only a network. Use a folder of `checkpoints`, or "
                "`run.start_from`."
            )
        state.load_state_dict(saved)
    return state, trunk


def ready_on_every_machine(model: ModelConfig, accelerator: Accelerator) -> None:
    """Makes sure that each machine has the weights that a backbone starts with, by one of its ranks: fetches torchvision's, or
    looks at the file of `model.weights`. All ranks have to call it.

    Raises:
        InputError: One of the machines cannot have them; on all ranks.
    """
    problem = None
    if accelerator.is_local_main_process:
        try:
            if model.pretrained:
                fetch_weights(model.name)
            else:
                check_sha256(model.weights, model.weights_sha256)
        except InputError as error:
            problem = str(error)
    if problems := [found for found in gather_object([problem]) if found]:
        raise InputError(problems[0])


def check_checkpoint(checkpoint: CheckpointInfo, config: Config, data: RunData, model: RoutedModel) -> None:
    """Raises `InputError` if the run cannot resume from a checkpoint of its own."""
    check_network(checkpoint, tasks=data.num_classes, masks=hash_masks(model))
    check_resumable(checkpoint, config, data.manifest.hash_shards(TRAIN_SPLIT))
