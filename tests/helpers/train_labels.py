"""Labels for the choice of routes: six tasks, of which neighbours go together."""

from typing import Any

import numpy as np

from matl_scale.data.shards.labels import Labels
from matl_scale.models.routing_config import RoutingConfig
from matl_scale.routes import Routes
from matl_scale.tasks import Task
from matl_scale.train.choose_routes import TrainLabels

NAMES = ["hat", "hair_red", "hair_grey", "smile", "teeth", "age"]


def labels_of(names: list[str] = NAMES, num_samples: int = 400, present: float = 1.0, **options: Any) -> TrainLabels:
    """Tasks with neighbouring numbers (0 and 1, 2 and 3, …) nearly always have the same label."""
    generator = np.random.default_rng(0)
    base = generator.integers(0, 2, (num_samples, (len(names) + 1) // 2)).repeat(2, axis=1)[:, : len(names)]
    labels = np.where(generator.random(base.shape) < 0.05, 1 - base, base).astype(np.int8)
    labels[generator.random(base.shape) >= present] = -1
    tasks = [Task(name=name, classes=("no", "yes")) for name in names]
    return TrainLabels(tasks=tasks, labels=Labels.of_matrix(np.asfortranarray(labels)), seed=3, **options)


def config_of(routes: Any = "auto", **options: Any) -> RoutingConfig:
    return RoutingConfig(**{"routes": routes, "sigma": 0.5} | options)


def groups_of(routes: Routes) -> list[list[int]]:
    return sorted(sorted(tasks) for tasks in routes.tasks_of)
