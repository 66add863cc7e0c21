"""What a step of a run costs: labels and multiply-adds, before it is run and after."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from matl_scale.models.cost import count_training
from matl_scale.models.network import RoutedModel, build_model
from matl_scale.models.routing_config import RoutingConfig
from matl_scale.runs.sweep_folder import BudgetKind
from matl_scale.train.resolve import ResolvedRun
from matl_scale.train.run_data import RunData


@dataclass(frozen=True, kw_only=True)
class RunCosts:
    """What the steps of a run on one rank cost. Routes are in the order of the network's; they have a share of the steps each."""

    slots_per_step: int
    shares: np.ndarray  # the share of the slots that each route gets, shape `(num_routes,)`
    images: np.ndarray  # images of a slot of each route, shape `(num_routes,)`
    labels: np.ndarray  # labels of a slot of each route on average, filled ones too, shape `(num_routes,)`
    multiply_adds: np.ndarray  # of training an image on each route, shape `(num_routes,)`
    # the same in the dense part of a run, where it has one (`routing.dense_share`), and the share of the steps in it
    dense_multiply_adds: np.ndarray
    dense_share: float
    num_labels: int  # labels of the training split, filled ones too
    parameters: int  # of trunk and heads

    @property
    def labels_per_step(self) -> float:
        """The labels of a step, on average over a round of routes."""
        return self.slots_per_step * float((self.shares * self.labels).sum())

    def of_a_step(self, kind: BudgetKind) -> float:
        """Returns what a step has of a budget, on average over a round of routes, and over the parts of a run."""
        per_image = self.dense_share * self.dense_multiply_adds + (1 - self.dense_share) * self.multiply_adds
        per_slot = self.images * per_image
        amounts = {
            "steps": 1.0,
            "labels": self.labels_per_step,
            "compute": float(self.slots_per_step * (self.shares * per_slot).sum()),
        }
        return amounts[kind]

    def passes(self, num_steps: int) -> float:
        """Returns how many passes over the labels so many steps are."""
        return num_steps * self.labels_per_step / max(self.num_labels, 1)

    @property
    def least_steps(self) -> int:
        """The whole steps of one pass over the labels; the rest of a step is not counted against a run."""
        return max(1, int(self.num_labels / self.labels_per_step))

    @property
    def full_steps(self) -> int:
        """The steps of one pass over the labels or a little more."""
        return max(1, math.ceil(self.num_labels / self.labels_per_step))


def measure_costs(resolved: ResolvedRun, data: RunData) -> RunCosts:
    """Measures what the steps of a run on one rank cost, without running one.

    Raises:
        InputError: The network cannot be built.
    """
    config, routes, step = resolved.config, resolved.routes.routes, resolved.step_labels
    classes = list(data.num_classes.values())

    def build_outline(routing: RoutingConfig) -> RoutedModel:
        return build_model(config.model, routing, classes, config.run.seed, data.image_size, routes, outline=True)

    def count(model: RoutedModel, share: float) -> np.ndarray:
        """Counts the first `share` of a run, in the beginning of which heads may be trained alone."""
        everything, heads_only = (
            np.array([count_training(model, route, frozen) for route in range(routes.num_routes)], float)
            for frozen in (config.model.freeze, ["*"])
        )
        alone = config.optim.head_warmup / share if share else 0.0
        return alone * heads_only + (1 - alone) * everything

    model, dense_share = build_outline(config.routing.of_training()), config.routing.dense_part
    return RunCosts(
        slots_per_step=step.slots_per_step,
        shares=step.shares,
        images=step.images,
        labels=step.labels,
        multiply_adds=count(model, 0.0 if dense_share else 1.0),
        dense_multiply_adds=count(build_outline(config.routing) if dense_share else model, dense_share),
        dense_share=dense_share,
        num_labels=step.num_labels,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
    )


def measure_trained(
    costs: RunCosts, draws: Mapping[int, int], dense_draws: Sequence[int] | None = None
) -> tuple[int, int, float]:
    """Returns the images and labels that a run has trained and the multiply-adds of that, by how many slots each route has had;
    of them `dense_draws` in the dense part of the run, by route, where it has one."""
    images = {route: round(number * float(costs.images[route])) for route, number in draws.items()}
    dense = {route: round(dense_draws[route] * float(costs.images[route])) if dense_draws else 0 for route in draws}
    multiply_adds = sum(
        dense[route] * float(costs.dense_multiply_adds[route])
        + (images[route] - dense[route]) * float(costs.multiply_adds[route])
        for route in draws
    )
    labels = sum(number * float(costs.labels[route]) for route, number in draws.items())
    return sum(images.values()), round(labels), multiply_adds
