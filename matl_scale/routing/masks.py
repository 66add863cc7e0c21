"""Routing masks: strategies that draw the units of a layer that each task keeps active. All tasks keep the same number.

Sources: Strezoski, van Noord, Worring, Many Task Learning With Task Routing, ICCV 2019, arXiv 1903.12117. Here σ is the
fraction of units that stay active; the authors' code counts the fraction that is switched off.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch

from matl_scale.errors import InputError
from matl_scale.seeds import derive_seed

Strategy = Literal["random", "partition"]


@dataclass(frozen=True, kw_only=True)
class MaskSpec:
    """How the masks of a network are drawn. With a layer's name and its number of units it decides that layer's mask.

    Attributes:
        num_tasks: The number of tasks, T.
        sigma: Sharing ratio: the fraction of units that a task keeps (`random`), or that all tasks have in common
            (`partition`).
        strategy: `random` or `partition`.
        align: The number of units that a task keeps is a multiple of this, unless σ = 1, which keeps all units.
        seed: The run's seed.

    Raises:
        InputError: The strategy is unknown, or `sigma` or `num_tasks` is out of range.
    """

    num_tasks: int
    sigma: float
    strategy: Strategy = "random"
    align: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.strategy not in get_args(Strategy):
            raise InputError(
                f"`routing.strategy` should be one of {', '.join(get_args(Strategy))}. Got {self.strategy!r}."
            )
        if not (0 < self.sigma <= 1 or (self.sigma == 0 and self.strategy == "partition")):
            valid = (
                "from 0 to 1"
                if self.strategy == "partition"
                else "above 0 and at most 1: a task needs units of its own or shared ones"
            )
            raise InputError(f"`routing.sigma` should be {valid}. Got {self.sigma}.")
        if self.num_tasks < 1:
            raise InputError(f"`num_tasks` should be at least 1. Got {self.num_tasks}.")

    def count_active(self, num_units: int) -> int:
        """Returns how many of a layer's units a task keeps under `random`: σ·C, rounded to a multiple of `align`, at least
        one multiple."""
        if self.sigma == 1:
            return num_units
        return min(max(1, round(self.sigma * num_units / self.align)), num_units // self.align) * self.align


@dataclass(frozen=True, kw_only=True)
class EarlierMasks:
    """Masks that tasks keep from an earlier network.

    Attributes:
        masks: By the name of the router, bool, shape `(num_earlier_tasks, num_units)`.
        task_ids: For each task of the new network its index in the earlier one, or None for a new task.
        task_names: The tasks of the new network. A new task's masks are drawn from its name, so that they do not depend
            on the other tasks.
    """

    masks: Mapping[str, torch.Tensor]
    task_ids: Sequence[int | None]
    task_names: Sequence[str]


def draw_masks(spec: MaskSpec, num_units: int, layer: str) -> torch.Tensor:
    """Draws the routing mask of one layer. A pure function of its arguments: the same on every rank and device.

    Args:
        spec: How masks are drawn.
        num_units: The number of units, C.
        layer: The layer's name; each name gives a draw of its own.

    Returns:
        Bool mask on the CPU, shape `(num_tasks, num_units)`, with the same number of active units for every task.

    Raises:
        InputError: σ leaves a task without a unit, or the layer is narrower than `align`.
    """
    if not 1 <= spec.align <= num_units:
        raise InputError(
            f"`routing.align` should be from 1 to the number of units of every layer; layer `{layer}` has {num_units}. "
            f"Got {spec.align}."
        )
    generator = torch.Generator().manual_seed(derive_seed(spec.seed, "masks", layer))
    if spec.strategy == "random":
        return draw_random(spec.num_tasks, num_units, spec.count_active(num_units), generator)
    num_shared, num_private = split_units(spec, num_units, layer)
    return draw_partition(spec.num_tasks, num_units, num_shared, num_private, generator)


def extend_masks(spec: MaskSpec, earlier: EarlierMasks, masks: torch.Tensor, layer: str) -> torch.Tensor:
    """Keeps one layer's masks of earlier tasks, shape `(num_earlier_tasks, num_units)`, and draws those of new tasks beside
    them: shape `(num_tasks, num_units)`.

    Raises:
        InputError: The earlier tasks keep another number of units, or all units belong to them (`partition`).
    """
    num_units, num_active = masks.shape[1], int(masks[0].sum())
    if None in earlier.task_ids:
        if spec.strategy != "random":
            raise InputError(
                "`routing.strategy` = partition splits all units between the tasks, so there are none left for new ones. Add "
                "tasks to a network with the strategy random, or train anew."
            )
        if num_active != spec.count_active(num_units):
            raise InputError(
                "`routing.sigma` and `routing.align` should be those of the network to start from: its tasks keep "
                f"{num_active} of the {num_units} units of layer `{layer}`, not {spec.count_active(num_units)}."
            )
    one_task = replace(spec, num_tasks=1)
    return torch.cat(
        [
            draw_masks(one_task, num_units, f"{layer}\0{name}") if task_id is None else masks[task_id : task_id + 1]
            for task_id, name in zip(earlier.task_ids, earlier.task_names, strict=True)
        ]
    )


def draw_random(num_tasks: int, num_units: int, num_active: int, generator: torch.Generator) -> torch.Tensor:
    """Draws a uniformly random subset of units per task, as the authors do, then puts idle units to use.

    Independent draws leave a fraction (1 − σ)^T of the units to no task. Each idle unit replaces, in one task, a unit that
    at least two tasks keep. So every unit serves a task wherever T·k ≥ C.
    """
    order = torch.rand(num_tasks, num_units, generator=generator).argsort(dim=1)
    masks = torch.zeros(num_tasks, num_units, dtype=torch.bool)
    masks.scatter_(1, order[:, :num_active], True)
    uses = masks.sum(dim=0)
    for unit in torch.nonzero(uses == 0).flatten().tolist():
        spare = torch.nonzero(masks & (uses >= 2))
        if not len(spare):
            break  # T·k < C: some units have to stay idle
        task, given_up = spare[torch.randint(len(spare), (1,), generator=generator)].flatten().tolist()
        masks[task, given_up], masks[task, unit] = False, True
        uses[given_up] -= 1
        uses[unit] += 1
    return masks


def split_units(spec: MaskSpec, num_units: int, layer: str) -> tuple[int, int]:
    """Returns how many units all tasks share, and how many each task has to itself.

    Units that cannot be split evenly become shared, so that every task keeps the same number and no unit is idle. At
    σ = 0, where nothing may be shared, they stay idle.

    Raises:
        InputError: There are too few units.
    """
    wanted = round(spec.sigma * num_units)
    if wanted == num_units:
        return num_units, 0
    for num_private in range((num_units - wanted) // spec.num_tasks, 0, -1):
        num_shared = num_units - spec.num_tasks * num_private if spec.sigma > 0 else 0
        if (num_shared + num_private) % spec.align == 0:
            return num_shared, num_private
    multiple = f" so that each keeps a multiple of `routing.align` = {spec.align}" if spec.align > 1 else ""
    raise InputError(
        f"`routing.strategy` = partition: layer `{layer}` has {num_units} units, {wanted} of them shared at "
        f"`routing.sigma` = {spec.sigma}; the other {num_units - wanted} cannot be split between {spec.num_tasks} "
        f"tasks{multiple}. "
        "Take a wider network, fewer tasks, sigma = 1, or the strategy `random`."
    )


def draw_partition(
    num_tasks: int, num_units: int, num_shared: int, num_private: int, generator: torch.Generator
) -> torch.Tensor:
    """Draws the units that all tasks share, and splits the others between the tasks without overlap.

    σ = 0 gives each task a network of its own, σ = 1 is hard sharing.
    """
    order = torch.randperm(num_units, generator=generator)
    masks = torch.zeros(num_tasks, num_units, dtype=torch.bool)
    masks[:, order[:num_shared]] = True
    private = order[num_shared : num_shared + num_tasks * num_private]
    return masks.scatter_(1, private.view(num_tasks, num_private), True)
