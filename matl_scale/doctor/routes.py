"""Which tasks share a route, and what that costs."""

from collections.abc import Iterator

import numpy as np

from matl_scale.data.shards.layout import MISSING
from matl_scale.doctor.finding import Finding
from matl_scale.errors import shortened
from matl_scale.train.choose_routes import ChosenRoutes
from matl_scale.train.config import Config
from matl_scale.train.run_data import TRAIN_SPLIT, RunData


def check_routes(config: Config, data: RunData, chosen: ChosenRoutes) -> Iterator[Finding]:
    """Says which routes a run will have, and what a pass of all of them costs beside the plain network."""
    routes, labels = chosen.routes, data.labels_of(TRAIN_SPLIT) != MISSING
    sizes = np.array([len(tasks) for tasks in routes.tasks_of])
    per_pass = [labels[:, tasks].sum() / max(labels[:, tasks].any(axis=1).sum(), 1) for tasks in routes.tasks_of]
    if chosen.reason:
        yield Finding("note", "routes", f"{chosen.reason}.")
    yield Finding(
        "ok",
        "routes",
        f"{routes.num_routes} routes for {routes.num_tasks} tasks, {sizes.min()} to {sizes.max()} each; a forward pass trains "
        f"{np.mean(per_pass):.3g} labels per image on average, at about {config.routing.sigma**2:.3g} of the "
        "trunk's cost (σ²).",
    )
    measured = (data.labels_of(config.eval.split) != MISSING).any(axis=0)
    if idle := [routes.names[i] for i, tasks in enumerate(routes.tasks_of) if not measured[tasks].any()]:
        text = f"no task of {len(idle)} routes has a label in `{config.eval.split}`: {shortened(idle)}."
        yield Finding("warning", "routes", text, "Their results stay empty.")
