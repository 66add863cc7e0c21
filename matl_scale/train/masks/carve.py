"""From the dense part of a run to its sub-networks (`magnitude`): the same run goes on with a network whose routes keep the units
that matter most to their tasks.

Weights, moments of the optimizer and the moving average stay; norm statistics stay those of the units that a route keeps.
"""

from dataclasses import replace
from typing import cast

import torch
from accelerate import Accelerator

from matl_scale.models.network import RoutedModel, build_ema
from matl_scale.routing.batch_norm import RouteBatchNorm2d
from matl_scale.runs.checkpoints.masks import MASK_SUFFIX
from matl_scale.train.build import Components, build_evaluator
from matl_scale.train.build_state import build_network
from matl_scale.train.config import Config
from matl_scale.train.run_data import RunData
from matl_scale.train.state import TrainState
from matl_scale.train.step.execution import TrunkExecution
from matl_scale.train.step.optim import build_optimizer, match_formats


def build_carved(config: Config, data: RunData, accelerator: Accelerator, dense: Components) -> Components:
    """Builds what a run goes on with after its dense part; what does not depend on the network is the same.

    Raises:
        RunError: It is not known of some route which units matter to it.
    """
    accelerator.free_memory()  # it would unscale the gradients of the dense network too
    state, trunk = build_carved_state(config, data, accelerator, dense.state)
    return replace(
        dense,
        state=state,
        train_step=dense.train_step.of_network(state.model, trunk, state.optimizer),
        evaluator=build_evaluator(config, accelerator, state.evaluated, dense.evaluator.data),
    )


def build_carved_state(
    config: Config, data: RunData, accelerator: Accelerator, dense: TrainState
) -> tuple[TrainState, TrunkExecution]:
    """Builds the state in which a run goes on after its dense part, and the execution of its trunk."""
    assert dense.importance is not None
    scores = dense.importance.scores()
    model = build_network(config.without_weights(), data, dense.model.routes, accelerator.device, scores)
    copy_values(dense.model, model)
    ema = build_ema(model, config.train.ema_decay)
    if ema is not None:
        assert dense.ema is not None
        copy_values(cast(RoutedModel, dense.ema.module), cast(RoutedModel, ema.module))
        ema.n_averaged.copy_(dense.ema.n_averaged)
    execution, compiled = config.routing.execution, config.train.compile
    checkpointing = config.train.checkpointing
    trunk = TrunkExecution(
        accelerator, model.trunk, execution, compiled, affine=model.affine, checkpointing=checkpointing
    )
    optimizer = build_optimizer(config.optim, model, fused=config.train.precision != "fp16")
    optimizer.load_state_dict(dense.optimizer.state_dict())
    match_formats(optimizer)
    dense.clock.restart()  # steps are faster now
    return replace(
        dense,
        model=model,
        optimizer=accelerator.prepare_optimizer(optimizer),
        ema=ema,
        importance=None,
        dense_draws=dense.draws.copy(),
    ), trunk


@torch.no_grad()
def copy_values(dense: RoutedModel, carved: RoutedModel) -> None:
    """Copies weights and norm statistics of a network whose routes have all units into one whose routes keep some of them."""
    before = dense.state_dict()
    active = {
        f"{name}.running": norm.active
        for name, norm in carved.named_modules()
        if isinstance(norm, RouteBatchNorm2d) and norm.statistics == "route"
    }
    for name, value in carved.state_dict(keep_vars=True).items():
        if name in active:
            indices = active[name].long()[:, None].expand(-1, 2, -1)
            value.copy_(before[name].gather(2, indices))
        elif not name.endswith(MASK_SUFFIX):
            value.copy_(before[name])
