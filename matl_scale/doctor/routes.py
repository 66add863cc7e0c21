"""Which tasks share a route, and what that costs."""

from collections.abc import Iterator

import numpy as np

from matl_scale.automatic import chosen
from matl_scale.data.loading.missing import choose_fills
from matl_scale.data.loading.plan import RouteOrder
from matl_scale.data.loading.route_samples import open_route_samples
from matl_scale.data.shards.label_marks import RouteCache
from matl_scale.doctor.finding import Finding
from matl_scale.errors import shortened
from matl_scale.models.pass_cost import build_routed_outline, measure_pass
from matl_scale.routing.move import stream_masks
from matl_scale.text import count_of
from matl_scale.train.build import build_move_times
from matl_scale.train.choose_routes import ChosenRoutes
from matl_scale.train.config import Config
from matl_scale.train.length import Length
from matl_scale.train.resolve import ResolvedRun
from matl_scale.train.run_data import TRAIN_SPLIT, RunData

MOVE_BYTES = 8  # of a route in a layer: the unit that it gave up, and the one that it took


def describe_roaming(resolved: ResolvedRun) -> Finding:
    """Says how far masks that move will come, and what that costs; raises `InputError` if they cannot move."""
    config, num_routes = resolved.config, resolved.routes.routes.num_routes
    trunk = build_routed_outline(config.model, config.routing, num_routes, config.run.seed)
    times, length = build_move_times(resolved, trunk), Length(num_steps=resolved.num_steps)
    moves = times.moves_in(length)
    kept = sum(min(moves, int((~mask[0]).sum())) * num_routes * MOVE_BYTES for mask in stream_masks(trunk).values())
    return Finding(
        "note",
        "routes",
        f"{times.describe(length)}. Steps cost what they cost with fixed masks. Checkpoints and masks.npz keep all moves: "
        f"{kept / 1e6:.2g} MB in the end.",
    )


def check_routes(config: Config, data: RunData, found: ChosenRoutes) -> Iterator[Finding]:
    """Says which routes a run will have, what a pass costs beside the plain network, and which labels are too rare for it."""
    routes, batch_size = found.routes, chosen(config.data.batch_size)
    fills = choose_fills(config.data.missing, data.tasks, config.data.balance)
    labels = data.labels_of(TRAIN_SPLIT)
    labelled, _ = open_route_samples(RouteCache(data.manifest.root), labels, routes, fills)
    order = RouteOrder(0, batch_size, labels, routes, fills=fills, labelled=labelled)
    shares = order.label_shares()
    sizes = np.array([len(tasks) for tasks in routes.tasks_of])
    per_pass = np.mean([shares[tasks].sum() for tasks in routes.tasks_of])
    cost = measure_pass(config.model, config.routing, routes.num_routes, config.run.seed, data.image_size)
    if found.reason:
        yield Finding("note", "routes", f"{found.reason}.")
    yield Finding(
        "ok",
        "routes",
        f"{count_of(routes.num_routes, 'route')} for {count_of(routes.num_tasks, 'task')}, {sizes.min()} to "
        f"{sizes.max()} each; a forward pass trains {per_pass:.3g} labels per image on average, and costs {cost:.2g} of one "
        "through the plain network.",
    )
    if config.routing.statistics == "step":
        text = "`routing.statistics` step trains the routes of a step as one batch, at the cost of the plain network."
        yield Finding("note", "routes", text)
    if share := config.routing.dense_part:
        whole = share + (1 - share) * cost
        yield Finding(
            "note",
            "routes",
            f"magnitude trains the whole network in the first {share:.3g} of the run: on average a step costs {whole:.2g} of one "
            f"of the plain network, {whole / cost:.2g} times as much as with random masks.",
        )
    is_shared = sizes[list(routes.route_of)] > 1
    if rare := [data.tasks[i].name for i in np.flatnonzero(is_shared & (shares * batch_size < 1))]:
        tasks = count_of(len(rare), "task has", plural="tasks have")
        text = f"{tasks} less than one label in a batch of the route: {shortened(rare)}."
        remedy = "A label that comes seldom weighs much when it comes: give them routes of their own, or set `train.clip_norm`."
        yield Finding("note", "routes", text, remedy)
    measured = data.count_labelled(config.eval.split) > 0
    if idle := [routes.names[i] for i, tasks in enumerate(routes.tasks_of) if not measured[tasks].any()]:
        text = f"no task of {len(idle)} routes has a label in `{config.eval.split}`: {shortened(idle)}."
        yield Finding("warning", "routes", text, "Their results stay empty.")
