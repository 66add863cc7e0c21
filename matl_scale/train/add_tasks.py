"""The routes of a run that starts with another run's network: tasks that it had stay where they are, new ones join a route or
get new ones, as `routing.routes` says."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from matl_scale.errors import InputError, shortened
from matl_scale.models.routing_config import RoutingConfig, Setting
from matl_scale.routes import Routes
from matl_scale.train.choose_routes import (
    ChosenRoutes,
    TrainLabels,
    choose_routes,
    follow_mapping,
    form_groups,
    number_names,
    read_mapping,
)


@dataclass(frozen=True, kw_only=True)
class Start:
    """The tasks of a new run beside those of the network that it starts with."""

    labels: TrainLabels  # of the new run
    routes: Routes  # of the network to start with
    names: Sequence[str]  # its tasks

    @property
    def old(self) -> dict[str, str]:
        """The route, by name, of each task of the new run that the network had."""
        route_of = {
            name: self.routes.names[route] for name, route in zip(self.names, self.routes.route_of, strict=True)
        }
        return {name: route_of[name] for name in self.labels.names if name in route_of}

    @property
    def new(self) -> list[int]:
        """The tasks of the new run that the network did not have."""
        old = set(self.names)
        return [task_id for task_id, name in enumerate(self.labels.names) if name not in old]


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where new tasks go."""

    routes: Mapping[int, str]  # the route of each new task, by name
    setting: Setting  # the `routing.routes` that says so
    reason: str = ""  # what was left open and how it was chosen, in a line


def extend_routes(
    config: RoutingConfig, labels: TrainLabels, old: Routes, old_names: Sequence[str], cost: float | None = None
) -> ChosenRoutes:
    """Chooses the routes of a run that starts with the network of another one. Old routes without a task of this run are left
    out.

    Args:
        config: The section `routing` of the new run.
        labels: The training labels of the new run.
        old: The routes of the network to start from.
        old_names: The tasks that it has.
        cost: As for `choose_routes`.

    Raises:
        InputError: `routing.routes` would move an old task, or does not fit.
    """
    start = Start(labels=labels, routes=old, names=old_names)
    placement = place_new_tasks(config, start, cost)
    names, route_names = labels.names, start.old
    route_names |= {names[task_id]: route for task_id, route in placement.routes.items()}
    in_use = set(route_names.values())
    used = dict.fromkeys([*(name for name in old.names if name in in_use), *placement.routes.values()])
    numbers = {name: number for number, name in enumerate(used)}
    route_of = [numbers[route_names[name]] for name in names]
    # a head matrix for the tasks that were trained together, another one for those that join now
    old_heads = dict(zip(old_names, old.head_of, strict=True))
    keys = [(route, old_heads.get(name, -1)) for route, name in zip(route_of, names, strict=True)]
    order = sorted(set(keys), key=lambda key: (key[1] < 0, key[1], key[0]))
    heads = {key: number for number, key in enumerate(order)}
    routes = Routes(names=tuple(used), route_of=tuple(route_of), head_of=tuple(heads[key] for key in keys))
    return ChosenRoutes(routes=routes, setting=placement.setting, reason=placement.reason)


def place_new_tasks(config: RoutingConfig, start: Start, cost: float | None) -> Placement:
    """Decides where new tasks go."""
    setting, new, names, known = config.routes, start.new, start.labels.names, dict.fromkeys(start.old.values())
    if isinstance(setting, dict) or (isinstance(setting, str) and setting not in ("auto", "task", "one")):
        return place_by_name(setting, start)
    if setting == "one":
        if len(known) > 1:
            raise InputError(f"`routing.routes` = one: the network to start from has {len(known)} routes. Use auto.")
        return Placement(routes=dict.fromkeys(new, next(iter(known), "all")), setting=setting)
    if setting == "task" or (setting == "auto" and not start.routes.shared_by_tasks):
        own = new_names([names[task_id] for task_id in new], start.routes)
        return Placement(routes=dict(zip(new, own, strict=True)), setting="task")
    if isinstance(setting, int):
        return place_in_number(config, setting, start)
    return place_by_affinity(config, start, cost)


def place_by_name(setting: Setting, start: Start) -> Placement:
    """Puts new tasks where a mapping says, which may not move old ones."""
    names = start.labels.names
    mapping = read_mapping(setting, names)
    asked = follow_mapping(mapping, names)
    wanted = {name: asked.names[route] for name, route in zip(names, asked.route_of, strict=True)}
    if moved := [name for name, route in start.old.items() if wanted[name] != route]:
        raise InputError(
            "`routing.routes` should leave tasks on the routes that they have in the network to start from. "
            f"`{moved[0]}` is on `{start.old[moved[0]]}` there, not on `{wanted[moved[0]]}`."
        )
    return Placement(routes={task_id: wanted[names[task_id]] for task_id in start.new}, setting=mapping)


def place_in_number(config: RoutingConfig, number: int, start: Start) -> Placement:
    """Forms as many new routes as a number of routes leaves room for; if it leaves none, new tasks join old routes."""
    new, known = start.new, dict.fromkeys(start.old.values())
    if not len(known) <= number <= len(known) + len(new):
        raise InputError(
            f"`routing.routes` should be from {len(known)}, the routes of the network to start from, to "
            f"{len(known) + len(new)}: one more for each new task at most. Got {number}."
        )
    if number > len(known):
        groups = form_groups(config.grouping, number - len(known), start.labels.select(new))
        fresh = new_names(numbered(number - len(known), start.routes), start.routes)
        return Placement(
            routes={task_id: fresh[group] for task_id, group in zip(new, groups, strict=True)}, setting=number
        )
    placed = join_by_affinity(start)
    sizes = Counter([*start.old.values(), *placed.values()])
    for task_id in new:  # where affinity is unknown, the smallest route takes the task
        if task_id not in placed:
            placed[task_id] = min(sizes, key=lambda name: sizes[name])
            sizes[placed[task_id]] += 1
    return Placement(routes=placed, setting=number)


def place_by_affinity(config: RoutingConfig, start: Start, cost: float | None) -> Placement:
    """Lets new tasks join the route that their labels go with; those of which that is not known get new routes."""
    new, known = start.new, dict.fromkeys(start.old.values())
    if not new:
        return Placement(routes={}, setting=len(known))
    placed = join_by_affinity(start)
    alone = [task_id for task_id in new if task_id not in placed]
    text = f"routing.routes auto: {len(placed)} new tasks join the route that their labels go with"
    if not alone:
        return Placement(routes=placed, setting=len(known), reason=text)
    formed = RoutingConfig(
        sigma=config.sigma, sigma_last=config.sigma_last, sigmas=config.sigmas, grouping=config.grouping
    )
    chosen = choose_routes(formed, start.labels.select(alone), cost)
    own = chosen.routes.names if chosen.setting == "task" else numbered(chosen.routes.num_routes, start.routes)
    fresh = new_names(own, start.routes)
    placed |= {task_id: fresh[route] for task_id, route in zip(alone, chosen.routes.route_of, strict=True)}
    text += f"; {len(alone)} have too few labelled images in common with any, and get {len(fresh)} new routes"
    return Placement(routes=placed, setting=len(known) + len(fresh), reason=text)


def join_by_affinity(start: Start) -> dict[int, str]:
    """Returns for new tasks the route with whose tasks their labels go together most, on average; tasks for which that is not
    known for any route are left out."""
    routes, old, names = list(dict.fromkeys(start.old.values())), start.old, start.labels.names
    if not routes:
        return {}
    affinity = start.labels.affinity()
    members = [[i for i, name in enumerate(names) if old.get(name) == route] for route in routes]
    placed = {}
    for task_id in start.new:
        known = [values[~np.isnan(values)] for values in (affinity[task_id, tasks] for tasks in members)]
        means = np.array([values.mean() if len(values) else -1.0 for values in known])
        if means.max() >= 0:
            placed[task_id] = routes[int(means.argmax())]
    return placed


def numbered(count: int, old: Routes) -> list[str]:
    """Returns names for routes that come after the old ones."""
    return number_names(old.num_routes + count)[old.num_routes :]


def new_names(wanted: Sequence[str], old: Routes) -> list[str]:
    """Returns names for new routes: as wanted, unless an old route has that name, which would hand its masks and statistics on
    even if none of its tasks is left."""
    taken, names = set(old.names), list[str]()
    for name in wanted:
        while name in taken:
            name += "_new"
        taken.add(name)
        names.append(name)
    return names


def check_whole_heads(labels: TrainLabels, old: Routes, old_names: Sequence[str]) -> None:
    """Raises `InputError` if some but not all tasks of an old head matrix are left: a smaller product may round differently, so
    that the logits of the others could not be kept to the last bit."""
    names = set(labels.names)
    for tasks in old.tasks_of_head:
        left_out = [old_names[task_id] for task_id in tasks if old_names[task_id] not in names]
        if 0 < len(left_out) < len(tasks):
            raise InputError(
                f"`run.freeze` = old keeps logits to the last bit only if all tasks of a route stay. {shortened(left_out)} were "
                "trained beside others that this run has: keep them in `data.tasks`, or set `run.freeze` to nothing."
            )
