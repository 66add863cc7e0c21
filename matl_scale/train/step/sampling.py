"""Which route is active in which slot: a pure function of the seed, the step and the number of slots.

A *slot* is one micro-step of one rank; a step has S = W × accumulate slots. `own_slots` in `data/loading/plan.py` says which of
them belong to which rank: slot s to rank s mod W, unless slots share images. Every rank knows every rank's route without
communication.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from matl_scale.errors import InputError
from matl_scale.seeds import derive_seed
from matl_scale.tasks import match_names

Policy = Literal["rounds", "uniform", "size", "weights"]


@dataclass(frozen=True, kw_only=True)
class TasksConfig:
    """How active routes are sampled."""

    policy: Policy = "rounds"
    """`rounds`: every route once per shuffled round, distinct over the ranks; `uniform`: independent draws (the paper's);
    `size`: in proportion to samples with a label of the route ^ alpha; `weights`: in proportion to tasks.weights."""
    alpha: float = 0.5
    """Exponent of the policy `size`: 0 is uniform, 1 proportional to the samples."""
    weights: dict[str, float] = field(default_factory=dict)
    """Name pattern of routes → weight, for the policy `weights`; the last pattern that matches counts, others weigh 1."""

    def __post_init__(self) -> None:
        if self.weights and self.policy != "weights":
            raise InputError(f"`tasks.weights` should be empty unless `tasks.policy` is weights. Got {self.policy}.")
        if any(not weight >= 0 for weight in self.weights.values()):
            raise InputError("`tasks.weights` should hold no negative weight.")


class RouteSampler:
    """Draws the active routes of a step.

    Args:
        seed: The run's seed.
        num_routes: R.
        num_slots: S, slots per step.
        probabilities: Probability of each route, shape `(num_routes,)`, for independent draws; None for shuffled rounds.
        route_ids: The routes, shape `(num_routes,)`; None if these are 0 to R − 1.
    """

    def __init__(
        self,
        seed: int,
        num_routes: int,
        num_slots: int,
        probabilities: np.ndarray | None = None,
        route_ids: np.ndarray | None = None,
    ) -> None:
        self.seed, self.num_routes, self.num_slots = seed, num_routes, num_slots
        self.probabilities = probabilities
        self.route_ids = np.arange(num_routes) if route_ids is None else route_ids
        self._last_round: tuple[int, np.ndarray] | None = None

    def routes(self, step: int) -> np.ndarray:
        """Returns the route of every slot of a step, shape `(num_slots,)`."""
        if self.probabilities is not None:
            generator = np.random.default_rng(derive_seed(self.seed, "tasks", step))
            return np.asarray(self.route_ids[generator.choice(self.num_routes, self.num_slots, p=self.probabilities)])
        positions = np.arange(step * self.num_slots, (step + 1) * self.num_slots)  # in the endless sequence of rounds
        rounds = positions // self.num_routes
        orders = {number: self._round(number) for number in np.unique(rounds).tolist()}
        drawn = [orders[number][pos % self.num_routes] for number, pos in zip(rounds, positions, strict=True)]
        return np.asarray(self.route_ids[drawn])

    def _round(self, number: int) -> np.ndarray:
        """Returns the order of routes in a round: shuffled, then adjusted so that no step has a route twice.

        A step that lies in two rounds could repeat a route, so the later round begins with routes that the earlier round did
        not end with. It therefore depends on the earlier rounds, back to the last round that began together with a step: at
        most S rounds.
        """
        if self._last_round and self._last_round[0] == number:
            return self._last_round[1]
        first = number
        while self._overlap(first) and first > 0 and not (self._last_round and self._last_round[0] == first - 1):
            first -= 1
        order = self._last_round[1] if self._last_round and self._last_round[0] == first - 1 else None
        for current in range(first, number + 1):
            drawn = np.random.default_rng(derive_seed(self.seed, "round", current)).permutation(self.num_routes)
            overlap = self._overlap(current)
            if overlap and order is not None:
                drawn = avoid_repeats(drawn, order[-overlap:], self.num_slots - overlap)
            order = drawn
        assert order is not None
        self._last_round = (number, order)
        return order

    def _overlap(self, number: int) -> int:
        """Returns how many slots of a step that this round shares belong to the round before."""
        return 0 if self.num_routes < self.num_slots else number * self.num_routes % self.num_slots


def avoid_repeats(order: np.ndarray, tail: np.ndarray, head_size: int) -> np.ndarray:
    """Moves the first `head_size` routes that are not in `tail` to the front; the others keep their order."""
    fresh = np.flatnonzero(~np.isin(order, tail))[:head_size]
    return np.concatenate([order[fresh], np.delete(order, fresh)])


def build_sampler(
    config: TasksConfig, names: Sequence[str], sizes: np.ndarray, seed: int, num_slots: int
) -> RouteSampler:
    """Builds the sampler for routes of these names, with so many training samples each, shape `(num_routes,)`. A route without
    samples is never drawn.

    Raises:
        InputError: All weights are zero, or a pattern matches no route.
    """
    weights = np.ones(len(names))
    if config.policy == "size":
        weights = sizes.astype(float) ** config.alpha
    for pattern, weight in config.weights.items():
        weights[match_names(names, [pattern], "tasks.weights", "routes")] = weight
    route_ids = np.flatnonzero(sizes)
    weights = weights[route_ids]
    if weights.sum() <= 0:
        raise InputError("`tasks.weights` should leave at least one route a weight above zero.")
    probabilities = None if config.policy == "rounds" else weights / weights.sum()
    return RouteSampler(seed, len(route_ids), num_slots, probabilities, route_ids)
