"""Which tasks share a route in a run: what `routing.routes` says, made from the labels of the training split."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from matl_scale.automatic import AUTO, chosen
from matl_scale.data.shards.label_association import cramers_v
from matl_scale.data.shards.labels import Labels
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
    labels: Labels  # of the training split
    seed: int  # the run's seed
    balanced: bool = False  # whether `data.balance` is above 0
    filled: Collection[int] = ()  # the tasks whose missing labels are filled (`data.missing`)

    @property
    def names(self) -> list[str]:
        return [task.name for task in self.tasks]

    def affinity(self) -> np.ndarray:
        """Returns how strongly the labels of two tasks go together, shape `(num_tasks, num_tasks)`; NaN where it is unknown."""
        return cramers_v(self.labels, self.tasks)

    def select(self, task_ids: Sequence[int]) -> "TrainLabels":
        """Returns the same for some of the tasks."""
        return TrainLabels(
            tasks=[self.tasks[task_id] for task_id in task_ids],
            labels=self.labels.of_tasks(task_ids),
            seed=self.seed,
            balanced=self.balanced,
            filled=[i for i, task_id in enumerate(task_ids) if task_id in self.filled],
        )

    def labels_per_image(self) -> float:
        """Returns the mean number of labels that an image trains, filled ones too, over the images that have one."""
        if not self.filled:
            return self.labels.mean_per_sample()
        others = [task_id for task_id in range(len(self.tasks)) if task_id not in self.filled]
        found = int(self.labels.count()[others].sum())
        return len(self.filled) + found / max(self.labels.num_samples, 1)


@dataclass(frozen=True, kw_only=True)
class ChosenRoutes:
    """The routes of a run."""

    routes: Routes
    setting: Setting  # `routing.routes` with automatic choices made, as the run's config keeps it
    reason: str = ""  # what `auto` chose and why, in a line; empty if nothing was left to it
    # how close routes are, see `routing.affinity_masks.Closeness`, if masks are laid by it
    closeness: np.ndarray | None = field(default=None, compare=False)
    mask_note: str = ""  # how masks are laid, in a line; empty if the strategy alone says it


def choose_routes(config: RoutingConfig, labels: TrainLabels, cost: float | None = None) -> ChosenRoutes:
    """Chooses the routes of a new run. A pure function of its arguments, the same on every rank.

    `cost` is the share of the trunk that a pass of a route costs, for `auto`; by default σ², which it is where all layers are
    routed with the same σ.

    Raises:
        InputError: `routing.routes` does not fit the tasks.
    """
    setting, reason = config.routes, ""
    if setting == "auto":
        setting, reason = choose_number(config, labels, cost)
    if setting == "task":
        return ChosenRoutes(routes=Routes.one_per_task(labels.names), setting=setting, reason=reason)
    if setting == "one":
        return ChosenRoutes(routes=Routes.build(["all"], [0] * len(labels.tasks)), setting=setting, reason=reason)
    if isinstance(setting, int):
        check_number(setting, len(labels.tasks))
        groups = form_groups(config.grouping, setting, labels)
        return ChosenRoutes(routes=Routes.build(number_names(setting), groups), setting=setting, reason=reason)
    mapping = read_mapping(setting, labels.names)
    return ChosenRoutes(routes=follow_mapping(mapping, labels.names), setting=mapping)


def choose_number(config: RoutingConfig, labels: TrainLabels, cost: float | None) -> tuple[Setting, str]:
    """Chooses what `auto` leaves open. Where σ is open, too, it is the plain network. Where σ is given, the cost per label
    decides: a pass costs `cost` of the trunk, about σ², whatever it serves.

    With L labels per image, a pass per task costs `cost` per label. K routes cost K · `cost` for all labels of an image, which
    is the cost of the plain network at K = 1 / `cost`. So passes are shared as soon as L > 1 / `cost`.

    Returns:
        The setting, and the choice with its reason in a line.
    """
    choice: Setting
    if labels.balanced:
        choice, why = "task", "`data.balance` needs a route for every task"
    elif config.sigma == AUTO:
        choice, why = "one", "the plain network; whether routes are better on your data is what `matl-sweep` measures"
    elif all(sigma == 1 for sigma in config.given_sigmas()):
        choice, why = "one", "with `routing.sigma` = 1 all tasks use the same units"
    else:
        choice, why = share_passes(labels, chosen(config.sigma) ** 2 if cost is None else cost)
    return choice, f"routing.routes auto → {choice}: {why}"


def share_passes(labels: TrainLabels, cost: float) -> tuple[Setting, str]:
    """Returns a route per task or a number of routes, by the cost per label, and the reason."""
    per_image, num_tasks = labels.labels_per_image(), len(labels.tasks)
    limit = 1 / max(cost, 1e-9)
    number = max(round(limit), 2)  # a single route would leave units idle
    filled = ", filled ones too," if labels.filled else ""
    seen, bound = f"an image has {per_image:.3g} labels{filled} on average", f"1 / cost of a pass = {limit:.3g}"
    if per_image <= limit:
        return "task", f"{seen}, not more than {bound}, so that sharing a pass would save nothing"
    if number >= num_tasks:
        return "task", f"there are only {num_tasks} tasks, not more than {bound}"
    return number, f"{seen}, more than {bound}; all {number} routes cost {number * cost:.2g} × the plain network"


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


def read_mapping(setting: Setting, names: Sequence[str]) -> dict[str, list[str] | str]:
    """Returns names of routes with task patterns, from a mapping, or from a run's routes.parquet without the tasks that are not
    among `names`."""
    if isinstance(setting, dict):
        return {name: [patterns] if isinstance(patterns, str) else list(patterns) for name, patterns in setting.items()}
    if not isinstance(setting, str) or not Path(setting).is_file():
        raise InputError(
            "`routing.routes` should be auto, task, one, a number, names with task patterns, or a run's routes.parquet. Got "
            f"{setting!r}."
        )
    known = set(names)
    mapping = {route: [task for task in tasks if task in known] for route, tasks in read_routes(Path(setting)).items()}
    return {route: tasks for route, tasks in mapping.items() if tasks}


def follow_mapping(mapping: Mapping[str, list[str] | str], names: Sequence[str]) -> Routes:
    """Returns the routes that a mapping of route names to task patterns describes.

    Raises:
        InputError: A pattern matches nothing, a task is in two routes, or in none.
    """
    route_of: dict[int, int] = {}
    for number, (route, patterns) in enumerate(mapping.items()):
        if not patterns:
            raise InputError(f"`routing.routes.{route}` should name at least one task pattern. Got none.")
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
        asked = asked or follow_mapping(read_mapping(setting, names), names)
        same = task_sets(asked) == task_sets(routes)
        wanted = setting if isinstance(setting, str) else f"{asked.num_routes} by name"
    if not same:
        raise InputError(
            f"{where} has {routes.num_routes} routes for {routes.num_tasks} tasks, and `routing.routes` asks for other ones "
            f"({wanted}). Leave `routing.routes` as it was (or auto), or choose another `run.name`."
        )


def task_sets(routes: Routes) -> set[frozenset[int]]:
    """Returns the sets of tasks that share a route."""
    return {frozenset(tasks) for tasks in routes.tasks_of}
