"""Maximum Roaming: every interval each route gives up one unit of each layer and takes one that it has not tried, until it has
tried them all (`routing.strategy` = roaming). Which ones is a pure function of the seed and of the moves so far, so ranks agree
without a word.

What a new unit brings: its running statistics start from the mean over the routes that have it. Where it is a channel of the
features, the route's heads start from zero for it, in weights and moments, so that a move adds no noise to logits. Weights of the
trunk, and their moments, belong to no route and stay.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import fx

from matl_scale.errors import InputError
from matl_scale.models.network import RoutedModel
from matl_scale.routing.move import check_movable, feature_units, set_masks, stream_masks, stream_units
from matl_scale.routing.subnetwork import SlicedNetwork
from matl_scale.train.masks.move_times import MoveTimes
from matl_scale.train.masks.moves import Masks, draw_move
from matl_scale.train.state import TrainState


@dataclass(frozen=True, kw_only=True)
class Roaming:
    """Moves the masks of a run."""

    seed: int  # the run's
    times: MoveTimes  # when they move
    networks: Sequence[SlicedNetwork]  # derived from the trunks of the state

    def before_step(self, state: TrainState) -> None:
        """Moves the masks of a state between two steps, if that is due."""
        if self.times.is_due(state.step, state.length) and len(state.moves.steps) < self.times.num_moves:
            self.move(state)

    def move(self, state: TrainState) -> None:
        """Makes the next move."""
        masks = stream_masks(state.model.trunk)
        moved, exchanged = draw_move(masks, state.moves.tried(masks), self.seed, len(state.moves.steps))
        for model in models_of(state):
            set_masks(model.trunk, moved)
        for network in self.networks:
            network.follow_masks()
        clear_new_columns(state, masks, moved)
        state.moves.add(state.step, exchanged)


def models_of(state: TrainState) -> list[RoutedModel]:
    """Returns the network, and its moving average if there is one."""
    return [state.model] if state.ema is None else [state.model, cast(RoutedModel, state.ema.module)]


@torch.no_grad()
def clear_new_columns(state: TrainState, before: Masks, after: Masks) -> None:
    """Sets to zero what heads and their moments have for channels of the features that a route did not have before."""
    units, streams = feature_units(state.model.trunk), stream_units(state.model.trunk)
    for name, mask in before.items():
        gained = after[name] & ~mask
        for route_id, unit_index in gained.nonzero().tolist():
            channels = np.flatnonzero(units == streams[name][unit_index])
            if len(channels):
                for tensor in head_tensors(state, route_id):
                    # a flatten makes several features of a channel
                    by_channel = tensor.view(len(tensor), len(units), -1)
                    by_channel[:, torch.from_numpy(channels).to(tensor.device)] = 0


def head_tensors(state: TrainState, route_id: int) -> Iterator[torch.Tensor]:
    """Yields the weights of a route's heads, `(num_classes, num_features)`, and what optimizer and average keep of them."""
    for model in models_of(state):
        for head in model.heads_of(route_id):
            yield head.weight
            for value in state.optimizer.state.get(head.weight, {}).values():
                if isinstance(value, torch.Tensor) and value.shape == head.weight.shape:
                    yield value


def count_moves(trunk: fx.GraphModule) -> int:
    """Returns after how many moves each route of a trunk has tried all units of every layer.

    Raises:
        InputError: There is none to try, or masks cannot move in this backbone.
    """
    untried = max(int((~mask[0]).sum()) for mask in stream_masks(trunk).values())
    if not untried:
        raise InputError(
            "`routing.strategy` = roaming needs units that a route does not have: here every route keeps all units of every "
            "layer. Take a smaller `routing.sigma`, or the strategy random."
        )
    check_movable(trunk)
    return untried
