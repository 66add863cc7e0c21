"""Builds how the labels of a run count: the loss of each task, the prior correction that follows from it, and a table of both."""

from collections.abc import Collection, Sequence

import numpy as np
import pyarrow as pa

from matl_scale.data.loading.missing import SOFT
from matl_scale.data.loading.plan import RouteOrder
from matl_scale.tasks import Task
from matl_scale.train.config import Config
from matl_scale.train.losses.class_weights import ClassShares
from matl_scale.train.losses.task_loss import TaskLoss, build_task_losses
from matl_scale.train.resume.open_run import OpenedRun
from matl_scale.train.run_data import RunData


def build_losses(config: Config, data: RunData, order: RouteOrder, fills: np.ndarray) -> list[TaskLoss]:
    """Builds the loss of each task; `fills` says what missing labels count as."""

    def shares_of(task_id: int) -> ClassShares:
        return class_shares_of(order, task_id, data.tasks[task_id])

    soft = set(np.flatnonzero(fills == SOFT).tolist())
    return build_task_losses(config.loss, data.tasks, shares_of, soft, balanced=config.data.balance > 0)


def class_shares_of(order: RouteOrder, task_id: int, task: Task) -> ClassShares:
    """Returns how often the classes of a task occur in training."""
    return ClassShares(*(padded(array, task.num_classes) for array in order.class_shares(task_id)))


def padded(array: np.ndarray, length: int) -> np.ndarray:
    """Returns an array of one dimension, with zeros behind up to a length."""
    return np.pad(array, (0, length - len(array)))


def collect_offsets(
    data: RunData, losses: Sequence[TaskLoss], frozen: Collection[str], opened: OpenedRun
) -> dict[str, list[float]]:
    """Returns the `prior_offsets` of a run's checkpoints; those of a frozen task come with its logits from where these come."""
    source = opened.checkpoint or opened.start
    earlier = source.prior_offsets if source else {}
    own = {
        name: loss.prior_offsets.tolist()
        for name, loss in zip(data.task_names, losses, strict=True)
        if loss.prior_offsets is not None
    }
    return own | {name: offsets for name, offsets in earlier.items() if name in frozen}


def build_balance_table(config: Config, data: RunData, order: RouteOrder, losses: Sequence[TaskLoss]) -> pa.Table:
    """Returns a table of the classes of each task that does not train on its samples as they are: how many samples a class has,
    the share of the draws that it gets, and how much each of its samples counts."""
    rows = []
    for task_id, (task, loss) in enumerate(zip(data.tasks, losses, strict=True)):
        if not (config.data.balance or loss.class_weights is not None or loss.prior_offsets is not None):
            continue
        shares = class_shares_of(order, task_id, task)
        weights = np.ones(task.num_classes) if loss.class_weights is None else loss.class_weights
        for name, count, share, weight in zip(task.classes, shares.counts, shares.drawn, weights, strict=True):
            row = {"samples": int(count), "share": float(share), "weight": float(weight)}
            rows.append({"task": task.name, "class": name} | row)
    return pa.Table.from_pylist(rows)
