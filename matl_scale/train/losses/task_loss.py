"""The loss of each task: its function, and the weights of its classes and of the task, as the section `loss` says."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from matl_scale.errors import InputError, nearest, shortened
from matl_scale.tasks import Task, values_by_pattern
from matl_scale.train.losses.class_weights import (
    ClassShares,
    adjustment_of_logits,
    find_prior_offsets,
    normalise_weights,
    weigh_by_count,
)
from matl_scale.train.losses.config import LossConfig
from matl_scale.train.losses.costs import Asymmetric, Cost, CrossEntropy, Focal

CROSS_ENTROPY = CrossEntropy()
Weights = dict[str, float] | str  # how the classes of a task are weighted: by their counts, or by name


@dataclass(frozen=True, kw_only=True)
class TaskLoss:
    """How the labels of one task count. All arrays have the shape `(num_classes,)`."""

    cost: Cost = CROSS_ENTROPY  # what each class would cost as the label
    smoothing: float = 0.0  # share of a label that is spread over all classes
    task_weight: float = 1.0  # factor on the loss
    class_weights: np.ndarray | None = None  # factor on the samples of each class; None is 1
    adjustment: np.ndarray | None = None  # what is added to the logits in training alone; None is nothing
    soft_target: np.ndarray | None = None  # the target where a label is missing; None if such samples do not count
    prior_offsets: np.ndarray | None = None  # see `find_prior_offsets`; None is nothing

    @property
    def is_plain(self) -> bool:
        """Whether a label costs its cross-entropy, whatever its class; `task_weight` apart."""
        arrays = (self.class_weights, self.adjustment, self.soft_target)
        return self.cost == CROSS_ENTROPY and not self.smoothing and all(array is None for array in arrays)


def check_losses(config: LossConfig, tasks: Sequence[Task]) -> None:
    """Raises `InputError` if the section `loss` names unknown tasks or classes, or a loss that does not fit its task."""
    choose_costs(config, tasks)
    choose_weights(config, tasks)
    choose_factors(config, tasks)


def build_task_losses(
    config: LossConfig,
    tasks: Sequence[Task],
    shares_of: Callable[[int], ClassShares],
    soft: Collection[int] = (),
    balanced: bool = False,
) -> list[TaskLoss]:
    """Builds the loss of each task.

    Args:
        config: The section `loss`.
        tasks: The run's tasks.
        shares_of: Returns how often the classes of a task occur in training, by the task's index. It is asked only about tasks
            whose loss depends on that: counting the labels of hundreds of tasks takes a while.
        soft: The tasks whose missing labels are soft (`data.missing`).
        balanced: Whether classes are drawn in other shares than they have (`data.balance`).

    Raises:
        InputError: The section names unknown tasks or classes, or a loss that does not fit its task.
    """
    costs, weights, factors = choose_costs(config, tasks), choose_weights(config, tasks), choose_factors(config, tasks)
    taus = [config.tau if name == "logit_adjusted" else 0.0 for name in choose_names(config, tasks)]
    losses = []
    for task_id, task in enumerate(tasks):
        loss = TaskLoss(cost=costs[task_id], smoothing=config.label_smoothing, task_weight=factors[task_id])
        if balanced or taus[task_id] or weights[task_id] != "none" or task_id in soft:
            shares = shares_of(task_id)
            if shares.counts.any():  # the labels of a task that is not trained are hidden
                raw = raw_weights(weights[task_id], task, shares.counts, config.beta)
                loss = with_shares(loss, shares, raw, taus[task_id], is_soft=task_id in soft)
        losses.append(loss)
    return losses


def with_shares(loss: TaskLoss, shares: ClassShares, raw: np.ndarray, tau: float, is_soft: bool) -> TaskLoss:
    """Returns a loss with all that depends on how often the classes of its task occur, and on their weights, not normalised."""
    weights = normalise_weights(raw, shares.drawn)
    adjustment = adjustment_of_logits(shares, weights, tau)
    offsets = find_prior_offsets(shares, weights, adjustment)
    return replace(
        loss,
        class_weights=None if (raw == raw[0]).all() else weights,
        adjustment=adjustment if tau else None,
        soft_target=shares.frequencies if is_soft else None,
        prior_offsets=None if np.allclose(offsets, offsets[0], rtol=0, atol=1e-9) else offsets,
    )


def choose_names(config: LossConfig, tasks: Sequence[Task]) -> list[str]:
    """Returns the name of each task's loss."""
    return values_by_pattern([task.name for task in tasks], config.name, "loss.name", "cross_entropy")


def choose_costs(config: LossConfig, tasks: Sequence[Task]) -> list[Cost]:
    """Returns the loss function of each task."""
    names = choose_names(config, tasks)
    unfit = [
        task.name for task, name in zip(tasks, names, strict=True) if name == "asymmetric" and task.num_classes > 2
    ]
    if unfit:
        raise InputError(
            f"`loss.name` asymmetric is for tasks with two classes, a positive and a negative. {len(unfit)} tasks have more: "
            f"{shortened(unfit)}. Give them another loss by pattern, as `loss.name: {{'*': asymmetric, {unfit[0]}: focal}}`."
        )
    costs: dict[str, Cost] = {
        "cross_entropy": CROSS_ENTROPY,
        "logit_adjusted": CROSS_ENTROPY,  # of the adjusted logits
        "focal": Focal(config.gamma) if config.gamma else CROSS_ENTROPY,
        "asymmetric": Asymmetric(config.gamma_positive, config.gamma_negative, config.margin),
    }
    return [costs[name] for name in names]


def choose_weights(config: LossConfig, tasks: Sequence[Task]) -> list[Weights]:
    """Returns how the classes of each task are weighted."""
    default: Weights = "none"
    setting: Weights | Mapping[str, Weights] = config.class_weight
    chosen: list[Weights] = values_by_pattern([task.name for task in tasks], setting, "loss.class_weight", default)
    for task, weights in zip(tasks, chosen, strict=True):
        if isinstance(weights, dict) and (unknown := [name for name in weights if name not in task.classes]):
            raise InputError(
                f"`loss.class_weight` should name classes of the task. `{task.name}` has no class `{unknown[0]}`, but "
                f"{shortened(task.classes)}." + explain_class(unknown[0], task.classes)
            )
    return chosen


def explain_class(name: str, classes: Sequence[str]) -> str:
    """Returns what may be wrong with the name of a class."""
    if name in ("True", "False"):
        return " YAML reads yes, no, on and off as True and False: write such a name in quotes."
    return nearest(name, classes)


def choose_factors(config: LossConfig, tasks: Sequence[Task]) -> list[float]:
    """Returns the factor on each task's loss."""
    return values_by_pattern([task.name for task in tasks], config.task_weight, "loss.task_weight", 1.0)


def raw_weights(weights: Weights, task: Task, counts: np.ndarray, beta: float) -> np.ndarray:
    """Returns the weights of a task's classes before they are normalised, shape `(num_classes,)`."""
    if isinstance(weights, dict):
        return np.array([float(weights.get(name, 1.0)) for name in task.classes])
    return weigh_by_count(weights, counts, beta)
