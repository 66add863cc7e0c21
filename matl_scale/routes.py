"""Which tasks share a route, and which share a head matrix. No torch: records and reports use this module too."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Routes:
    """The assignment of tasks to routes.

    The heads of a route's tasks are computed as one matrix. Tasks that join a trained route later get a matrix of their own
    beside it, because a product of another shape may round differently, and older tasks would no longer give the same
    logits to the last bit.

    Attributes:
        names: The routes' names.
        route_of: For each task the index of its route.
        head_of: For each task the index of its head matrix. The tasks of a matrix are on one route.
    """

    names: tuple[str, ...]
    route_of: tuple[int, ...]
    head_of: tuple[int, ...]

    @classmethod
    def build(cls, names: Sequence[str], route_of: Sequence[int]) -> "Routes":
        """Returns an assignment with one head matrix per route."""
        return cls(names=tuple(names), route_of=tuple(route_of), head_of=tuple(route_of))

    @classmethod
    def one_per_task(cls, tasks: Sequence[str]) -> "Routes":
        """Returns the assignment in which every task has a route of its own, with the task's name."""
        return cls.build(tasks, range(len(tasks)))

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Routes":
        return cls(**{key: tuple(content[key]) for key in ("names", "route_of", "head_of")})

    def to_json(self) -> dict[str, list[Any]]:
        return {"names": list(self.names), "route_of": list(self.route_of), "head_of": list(self.head_of)}

    @property
    def num_routes(self) -> int:
        return len(self.names)

    @property
    def num_tasks(self) -> int:
        return len(self.route_of)

    @cached_property
    def tasks_of_head(self) -> list[list[int]]:
        """The tasks of each head matrix, ascending: the order of its rows."""
        return collect(self.head_of, max(self.head_of) + 1)

    @cached_property
    def heads_of(self) -> list[list[int]]:
        """The head matrices of each route, ascending."""
        routes = [self.route_of[tasks[0]] for tasks in self.tasks_of_head]
        return collect(routes, self.num_routes)

    @cached_property
    def tasks_of(self) -> list[list[int]]:
        """The tasks of each route, in the order of its logits: head matrix by head matrix."""
        return [[task for head in heads for task in self.tasks_of_head[head]] for heads in self.heads_of]

    @property
    def shared_by_tasks(self) -> bool:
        """Whether some route serves several tasks."""
        return self.num_routes < self.num_tasks


def collect(groups: Sequence[int], num_groups: int) -> list[list[int]]:
    """Returns the members of each group, ascending, from each member's group."""
    members: list[list[int]] = [[] for _ in range(num_groups)]
    for member, group in enumerate(groups):
        members[group].append(member)
    return members
