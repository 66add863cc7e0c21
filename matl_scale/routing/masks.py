"""Routing masks: strategies that draw which units of a layer each task keeps. Every task keeps the same number.

Sources: Strezoski, van Noord, Worring, Many Task Learning With Task Routing, ICCV 2019, arXiv 1903.12117. σ is the
fraction that is kept; the authors' code counts the fraction that is switched off.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from matl_scale.errors import InputError
from matl_scale.seeds import derive_seed

Strategy = Literal["random", "partition"]


@dataclass(frozen=True, kw_only=True)
class EarlierMasks:
    """Masks that tasks bring along from an earlier network.

    Attributes:
        masks: By the name of the router, bool, shape `(num_earlier_tasks, num_units)`.
        rows: For each task its row there, or None for one that is new.
        names: Of the tasks: a new one draws its masks by its own name, so they do not depend on the others.
    """

    masks: Mapping[str, torch.Tensor]
    rows: Sequence[int | None]
    names: Sequence[str]


def draw_masks(
    num_tasks: int,
    num_units: int,
    sigma: float,
    *,
    seed: int,
    layer: str,
    strategy: Strategy = "random",
    align: int = 1,
) -> torch.Tensor:
    """Draws the routing mask of one layer, a pure function of its arguments: equal on every rank and device.

    Args:
        num_tasks: T.
        num_units: C.
        sigma: Sharing ratio: the fraction of units that a task keeps (`random`), or that all tasks have in common
            (`partition`).
        seed: The run's seed.
        layer: The layer's name; another name gives another draw.
        strategy: `random` or `partition`.
        align: Every task keeps a multiple of so many units; at σ = 1 all of them all the same.

    Returns:
        Bool mask on the CPU, shape `(num_tasks, num_units)`, with the same number of units in every row.

    Raises:
        InputError: `sigma` is out of range, or leaves a task without a unit; the layer is narrower than `align`.
    """
    check_sigma(sigma, strategy)
    if not 1 <= align <= num_units:
        raise InputError(
            f"`routing.align` should be from 1 to the number of units of every layer; layer `{layer}` has {num_units}. "
            f"Got {align}."
        )
    generator = torch.Generator().manual_seed(derive_seed(seed, "masks", layer))
    if strategy == "random":
        return draw_random(num_tasks, num_units, count_kept(num_units, sigma, align), generator)
    num_shared, num_private = split_units(num_tasks, num_units, sigma, align, layer)
    return draw_partition(num_tasks, num_units, num_shared, num_private, generator)


def extend_masks(
    earlier: EarlierMasks, masks: torch.Tensor, sigma: float, *, seed: int, layer: str, strategy: Strategy, align: int
) -> torch.Tensor:
    """Draws the masks of new tasks beside those of an earlier network.

    Args:
        earlier: Which tasks are new.
        masks: Of the earlier network, shape `(num_earlier_tasks, num_units)`.
        sigma: As in `draw_masks`, like all that follow.
        seed: The run's seed.
        layer: The layer's name.
        strategy: Has to be `random` if a task is new.
        align: Every task keeps a multiple of so many units.

    Returns:
        Shape `(num_tasks, num_units)`.

    Raises:
        InputError: The earlier tasks keep another number of units, or all units belong to them.
    """
    num_units = masks.shape[1]
    if None in earlier.rows:
        if strategy != "random":
            raise InputError(
                "`routing.strategy` = partition splits all units between the tasks, so there are none left for new ones. Add "
                "tasks to a network with the strategy random, or train anew."
            )
        if int(masks[0].sum()) != count_kept(num_units, sigma, align):
            raise InputError(
                f"`routing.sigma` and `routing.align` should be those of the network to start from: its tasks keep "
                f"{int(masks[0].sum())} of the {num_units} units of layer `{layer}`, not {count_kept(num_units, sigma, align)}."
            )
    return torch.cat(
        [
            draw_masks(1, num_units, sigma, seed=seed, layer=f"{layer}\0{name}", strategy=strategy, align=align)
            if row is None
            else masks[row : row + 1]
            for row, name in zip(earlier.rows, earlier.names, strict=True)
        ]
    )


def check_sigma(sigma: float, strategy: str) -> None:
    """Raises `InputError` for an unknown strategy or a σ that it cannot use."""
    if strategy not in get_args(Strategy):
        raise InputError(f"`routing.strategy` should be one of {', '.join(get_args(Strategy))}. Got {strategy!r}.")
    lowest = 0.0 if strategy == "partition" else None
    if not (0 < sigma <= 1 or sigma == lowest):
        valid = (
            "from 0 to 1"
            if strategy == "partition"
            else "above 0 and at most 1: a task needs units of its own or shared ones"
        )
        raise InputError(f"`routing.sigma` should be {valid}. Got {sigma}.")


def count_kept(num_units: int, sigma: float, align: int = 1) -> int:
    """Returns how many of `num_units` units a task keeps: σ·C, rounded to a multiple of `align`, at least one multiple."""
    if sigma == 1:
        return num_units
    return min(max(1, round(sigma * num_units / align)), num_units // align) * align


def draw_random(num_tasks: int, num_units: int, num_kept: int, generator: torch.Generator) -> torch.Tensor:
    """Draws a uniformly random subset per task, as the authors do, then lets no unit idle where the tasks suffice.

    Independent draws leave (1 − σ)^T of the units to no task. Each such unit takes the place of one that at least two
    tasks keep, in one of these tasks; so every unit serves a task wherever T·k ≥ C.
    """
    order = torch.rand(num_tasks, num_units, generator=generator).argsort(dim=1)
    masks = torch.zeros(num_tasks, num_units, dtype=torch.bool)
    masks.scatter_(1, order[:, :num_kept], torch.ones_like(order[:, :num_kept], dtype=torch.bool))
    uses = masks.sum(dim=0)
    for unit in torch.nonzero(uses == 0).flatten().tolist():
        spare = torch.nonzero(masks & (uses >= 2))
        if not len(spare):
            break  # fewer than C places in all
        task, given_up = spare[torch.randint(len(spare), (1,), generator=generator)].flatten().tolist()
        masks[task, given_up], masks[task, unit] = False, True
        uses[given_up] -= 1
        uses[unit] += 1
    return masks


def split_units(num_tasks: int, num_units: int, sigma: float, align: int, layer: str) -> tuple[int, int]:
    """Returns how many units all tasks share and how many each has for itself.

    Units that cannot be split evenly join the shared ones, so that every task keeps as many and no unit idles; at σ = 0,
    where nothing may be shared, they idle.

    Raises:
        InputError: The units do not suffice.
    """
    wanted = round(sigma * num_units)
    num_private = (num_units - wanted) // num_tasks
    if wanted == num_units:
        return num_units, 0
    for private in range(num_private, 0, -1):
        num_shared = num_units - num_tasks * private if sigma > 0 else 0
        if (num_shared + private) % align == 0:
            return num_shared, private
    multiple = f" so that each keeps a multiple of `routing.align` = {align}" if align > 1 else ""
    raise InputError(
        f"`routing.strategy` = partition: layer `{layer}` has {num_units} units, {wanted} of them shared at "
        f"`routing.sigma` = {sigma}; the other {num_units - wanted} cannot be split between {num_tasks} tasks{multiple}. "
        "Take a wider network, fewer tasks, sigma = 1, or the strategy `random`."
    )


def draw_partition(
    num_tasks: int, num_units: int, num_shared: int, num_private: int, generator: torch.Generator
) -> torch.Tensor:
    """Draws the units that all tasks share, and splits the rest between the tasks without overlap.

    σ = 0 gives each task a network of its own, σ = 1 is hard sharing.
    """
    order = torch.randperm(num_units, generator=generator)
    masks = torch.zeros(num_tasks, num_units, dtype=torch.bool)
    masks[:, order[:num_shared]] = True
    for task in range(num_tasks):
        start = num_shared + task * num_private
        masks[task, order[start : start + num_private]] = True
    return masks
