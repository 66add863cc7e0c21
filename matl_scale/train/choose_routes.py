"""Which tasks share a route in a run: what `routing.routes` says, made from the labels of the training split."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from matl_scale.data.shards.label_association import cramers_v
from matl_scale.data.shards.layout import MISSING
from matl_scale.errors import InputError, shortened
from matl_scale.models.routing_config import Grouping, RoutingConfig, Setting
from matl_scale.routes import Routes
from matl_scale.routing.grouping import group_at_random, group_by_affinity, group_in_order
from matl_scale.runs.routes import read_routes
from matl_scale.tasks import Task, match_names


@dataclass(frozen=True, kw_only=True)
class TrainLabels:
    """What the choice of routes depends on."""

    tasks: Sequence[Task]  # the run's tasks
    labels: np.ndarray  # labels of the training split, −1 = none, shape `(num_samples, num_tasks)`
    seed: int  # the run's seed
    balanced: bool = False  # whether `data.balance` is above 0

    @property
    def names(self) -> list[str]:
        return [task.name for task in self.tasks]

    def affinity(self) -> np.ndarray:
        """Returns how strongly the labels of two tasks go together, shape `(num_tasks, num_tasks)`; NaN where it is unknown."""
        return cramers_v(self.labels, self.tasks)

    def select(self, task_ids: Sequence[int]) -> "TrainLabels":
        """Returns the same for some of the tasks."""
        tasks = [self.tasks[task_id] for task_id in task_ids]
        return TrainLabels(tasks=tasks, labels=self.labels[:, task_ids], seed=self.seed, balanced=self.balanced)


@dataclass(frozen=True, kw_only=True)
class ChosenRoutes:
    """The routes of a run."""

    routes: Routes
    setting: Setting  # `routing.routes` with automatic choices made, as the run's config keeps it
    reason: str = ""  # what `auto` chose and why, in a line; empty if nothing was left to it


def choose_routes(config: RoutingConfig, labels: TrainLabels) -> ChosenRoutes:
    """Chooses the routes of a new run. A pure function of its arguments, the same on every rank.

    Raises:
        InputError: `routing.routes` does not fit the tasks.
    """
    setting, reason = config.routes, ""
    if setting == "auto":
        setting, reason = choose_number(config.sigma, labels)
    if setting == "task":
        return ChosenRoutes(routes=Routes.one_per_task(labels.names), setting=setting, reason=reason)
    if setting == "one":
        return ChosenRoutes(routes=Routes.build(["all"], [0] * len(labels.tasks)), setting=setting, reason=reason)
    if isinstance(setting, int):
        check_number(setting, len(labels.tasks))
        groups = form_groups(config.grouping, setting, labels)
        return ChosenRoutes(routes=Routes.build(number_names(setting), groups), setting=setting, reason=reason)
    mapping = read_mapping(setting)
    return ChosenRoutes(routes=follow_mapping(mapping, labels.names), setting=mapping)


def choose_number(sigma: float, labels: TrainLabels) -> tuple[Setting, str]:
    """Chooses what `auto` leaves open, by the cost per label: a route costs about σ² of the trunk, whatever it serves.

    With L labels per image, a pass per task costs σ² per label. K routes cost K σ² for all labels of an image, which is the
    cost of the plain network at K = 1/σ². So passes are shared as soon as L > 1/σ².

    Returns:
        The setting, and the choice with its reason in a line.
    """
    labelled = np.zeros(len(labels.labels), dtype=np.int32)
    for column in labels.labels.T:  # one by one: a bool per sample and task may be gigabytes
        labelled += column != MISSING
    per_image = float(labelled.sum()) / max(int((labelled > 0).sum()), 1)
    limit, num_tasks = 1 / max(sigma, 1e-9) ** 2, len(labels.tasks)
    number = min(max(round(limit), 1), num_tasks)
    seen = f"an image has {per_image:.3g} labels on average"
    choice: Setting
    if labels.balanced:
        choice, why = "task", "`data.balance` needs a route for every task"
    elif sigma == 1:
        choice, why = "one", "with `routing.sigma` = 1 all tasks use the same units"
    elif per_image <= limit or number == num_tasks:
        choice, why = (
            "task",
            f"{seen}, not more than 1/σ² = {limit:.3g}, so that sharing a forward pass would save nothing",
        )
    else:
        choice, why = number, f"{seen}, more than 1/σ² = {limit:.3g}: {number} routes cost what one plain network costs"
    return choice, f"routing.routes auto → {choice}: {why}"


def check_number(number: int, num_tasks: int) -> None:
    if number > num_tasks:
        raise InputError(f"`routing.routes` should be at most the number of tasks, {num_tasks}. Got {number}.")


def number_names(number: int) -> list[str]:
    """Returns the names of routes that were formed by number."""
    return [f"route_{i:0{len(str(number))}d}" for i in range(1, number + 1)]


def form_groups(grouping: Grouping, number: int, labels: TrainLabels) -> list[int]:
    """Returns the group of each task, of as many as `number` says."""
    num_tasks = len(labels.tasks)
    forms: dict[Grouping, Callable[[], np.ndarray]] = {
        "affinity": lambda: group_by_affinity(labels.affinity(), number),
        "random": lambda: group_at_random(num_tasks, number, labels.seed),
        "order": lambda: group_in_order(num_tasks, number),
    }
    groups: list[int] = forms[grouping]().tolist()
    return groups


def read_mapping(setting: Setting) -> dict[str, list[str] | str]:
    """Returns names of routes with task patterns, from a mapping or from a run's routes.parquet."""
    if isinstance(setting, dict):
        return {name: [patterns] if isinstance(patterns, str) else list(patterns) for name, patterns in setting.items()}
    if not isinstance(setting, str) or not Path(setting).is_file():
        raise InputError(
            "`routing.routes` should be auto, task, one, a number, names with task patterns, or a run's routes.parquet. Got "
            f"{setting!r}."
        )
    return {**read_routes(Path(setting))}


def follow_mapping(mapping: Mapping[str, list[str] | str], names: Sequence[str]) -> Routes:
    """Returns the routes that a mapping of route names to task patterns describes.

    Raises:
        InputError: A pattern matches nothing, a task is in two routes, or in none.
    """
    route_of: dict[int, int] = {}
    for number, (route, patterns) in enumerate(mapping.items()):
        for task_id in match_names(names, patterns, f"routing.routes.{route}"):
            if task_id in route_of:
                other = list(mapping)[route_of[task_id]]
                raise InputError(
                    f"`routing.routes` should put every task into one route. `{names[task_id]}` is in `{other}` and in `{route}`."
                )
            route_of[task_id] = number
    if left_out := [name for task_id, name in enumerate(names) if task_id not in route_of]:
        raise InputError(
            f"`routing.routes` should put every task into a route. {len(left_out)} are in none: {shortened(left_out)}. Name "
            "them, or leave them out with `data.tasks`."
        )
    return Routes.build(list(mapping), [route_of[task_id] for task_id in range(len(names))])


def check_resumed_routes(
    config: RoutingConfig, earlier: RoutingConfig, routes: Routes, names: Sequence[str], where: Path
) -> None:
    """Raises `InputError` if the routes of a checkpoint in `where` are not those that a run's config asks for.

    `earlier` is the config that formed them. A number of routes is not formed anew: the assignment is the checkpoint's.
    """
    setting = config.routes
    formed_alike = config.grouping == earlier.grouping or not isinstance(setting, int)
    if setting == "auto" or (setting == earlier.routes and formed_alike):
        return
    if isinstance(setting, int):
        same = routes.num_routes == setting != earlier.routes
        wanted = f"{setting} by {config.grouping}"
    else:
        one = Routes.build(["all"], [0] * len(names))
        asked = {"task": Routes.one_per_task(names), "one": one}.get(str(setting)) if isinstance(setting, str) else None
        asked = asked or follow_mapping(read_mapping(setting), names)
        same = partition(asked) == partition(routes)
        wanted = setting if isinstance(setting, str) else f"{asked.num_routes} by name"
    if not same:
        raise InputError(
            f"{where} has {routes.num_routes} routes for {routes.num_tasks} tasks, and `routing.routes` asks for other ones "
            f"({wanted}). Leave `routing.routes` as it was (or auto), or choose another `run.name`."
        )


def partition(routes: Routes) -> set[frozenset[int]]:
    """Returns the sets of tasks that share a route."""
    return {frozenset(tasks) for tasks in routes.tasks_of}


def extend_routes(config: RoutingConfig, labels: TrainLabels, old: Routes, old_names: Sequence[str]) -> ChosenRoutes:
    """Chooses the routes of a run that starts with the network of another one: tasks that it had stay on their routes, new ones
    join a route or get new ones, as `routing.routes` says. Old routes without a task of this run are left out.

    Args:
        config: The section `routing` of the new run.
        labels: The training labels of the new run.
        old: The routes of the network to start from.
        old_names: The tasks that it has.

    Raises:
        InputError: `routing.routes` would move an old task, or does not fit.
    """
    names = labels.names
    numbers = {name: number for number, name in enumerate(old_names)}
    route_names = {name: old.names[old.route_of[numbers[name]]] for name in names if name in numbers}
    new = [task_id for task_id, name in enumerate(names) if name not in numbers]
    added, setting, reason = place_new_tasks(config, labels, new, route_names, old)
    route_names |= {names[task_id]: route for task_id, route in added.items()}
    used = [name for name in old.names if name in route_names.values()]
    used += [name for name in dict.fromkeys(added.values()) if name not in used]
    route_of = [used.index(route_names[name]) for name in names]
    # a head matrix for the tasks that were trained together, another one for those that join now
    heads: dict[tuple[int, int], int] = {}
    keys = [
        (route, old.head_of[numbers[name]] if name in numbers else -1)
        for route, name in zip(route_of, names, strict=True)
    ]
    for key in sorted(set(keys), key=lambda key: (key[1] < 0, key[1], key[0])):
        heads[key] = len(heads)
    routes = Routes(names=tuple(used), route_of=tuple(route_of), head_of=tuple(heads[key] for key in keys))
    return ChosenRoutes(routes=routes, setting=setting, reason=reason)


def place_new_tasks(
    config: RoutingConfig, labels: TrainLabels, new: Sequence[int], route_names: Mapping[str, str], old: Routes
) -> tuple[dict[int, str], Setting, str]:
    """Returns the route, by name, of each task in `new`, the setting that says so, and why. `route_names` has the old tasks."""
    setting, names, known = config.routes, labels.names, set(route_names.values())
    if isinstance(setting, dict) or (isinstance(setting, str) and setting not in ("auto", "task", "one")):
        mapping = read_mapping(setting)
        asked = follow_mapping(mapping, names)
        wanted = {name: asked.names[asked.route_of[task_id]] for task_id, name in enumerate(names)}
        if moved := [name for name, route in route_names.items() if wanted[name] != route]:
            raise InputError(
                f"`routing.routes` should leave tasks on the routes that they have in the network to start from. `{moved[0]}` is "
                f"on `{route_names[moved[0]]}` there, not on `{wanted[moved[0]]}`."
            )
        return {task_id: wanted[names[task_id]] for task_id in new}, mapping, ""
    if setting == "one":
        if len(known) > 1:
            raise InputError(f"`routing.routes` = one: the network to start from has {len(known)} routes. Use auto.")
        return dict.fromkeys(new, next(iter(known), "all")), setting, ""
    if setting == "task" or (setting == "auto" and not old.shared_by_tasks):
        own = {task_id: names[task_id] for task_id in new}
        return {task_id: f"{name} alone" if name in known else name for task_id, name in own.items()}, "task", ""
    if isinstance(setting, int) and not len(known) <= setting <= len(known) + len(new):
        raise InputError(
            f"`routing.routes` should be from {len(known)}, the routes of the network to start from, to {len(known) + len(new)}: "
            f"one more for each new task at most. Got {setting}."
        )
    if isinstance(setting, int) and setting > len(known):
        groups = form_groups(config.grouping, setting - len(known), labels.select(new))
        fresh = fresh_names(setting - len(known), known)
        return {task_id: fresh[group] for task_id, group in zip(new, groups, strict=True)}, setting, ""
    placed = join_by_affinity(labels, new, route_names)
    alone = [task_id for task_id in new if task_id not in placed]
    total = len(known)
    if alone and isinstance(setting, int):  # as many routes as there are: the smallest ones take them
        sizes = Counter([*route_names.values(), *placed.values()])
        for task_id in alone:
            placed[task_id] = min(sizes, key=lambda name: sizes[name])
            sizes[placed[task_id]] += 1
        return placed, setting, ""
    if alone:
        chosen = choose_routes(RoutingConfig(sigma=config.sigma, grouping=config.grouping), labels.select(alone))
        fresh = fresh_names(chosen.routes.num_routes, known)
        placed |= {task_id: fresh[route] for task_id, route in zip(alone, chosen.routes.route_of, strict=True)}
        total += len(fresh)
    text = f"routing.routes {setting} → {total}: {len(new) - len(alone)} new tasks join the route that their labels go with"
    return (
        placed,
        total,
        f"{text}; {len(alone)} share no labelled image with any, and get {total - len(known)} new routes",
    )


def join_by_affinity(labels: TrainLabels, new: Sequence[int], route_names: Mapping[str, str]) -> dict[int, str]:
    """Returns for new tasks the route with whose tasks their labels go together most, on average; tasks for which that is not
    known for any route are left out."""
    affinity, names = labels.affinity(), labels.names
    routes = list(dict.fromkeys(route_names.values()))
    members = [[i for i, name in enumerate(names) if route_names.get(name) == route] for route in routes]
    placed = {}
    for task_id in new:
        known = [values[~np.isnan(values)] for values in (affinity[task_id, tasks] for tasks in members)]
        means = np.array([values.mean() if len(values) else -1.0 for values in known])
        if means.max() >= 0:
            placed[task_id] = routes[int(means.argmax())]
    return placed


def fresh_names(count: int, taken: set[str]) -> list[str]:
    """Returns names for new routes that no old one has."""
    names, number = list[str](), len(taken)
    while len(names) < count:
        number += 1
        if (name := f"route_{number}") not in taken:
            names.append(name)
    return names
