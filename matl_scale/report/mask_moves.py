"""How the masks of a run have moved: what share of its units each route has tried, and how much routes shared on the way."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from matl_scale.report.mask_overlap import MOVE_PREFIX, mask_overlap, measure_usage, read_archive

NUM_STAGES = 5  # lines of the summary


@dataclass(frozen=True, kw_only=True)
class MaskMoves:
    """All moves of a run. Layers that share a mask are one, called as the first of them."""

    steps: np.ndarray  # the number of steps done before each move, shape `(num_moves,)`
    first: Mapping[str, np.ndarray]  # the masks before the first move, bool, shape `(num_routes, num_units)`
    given_up: Mapping[str, np.ndarray]  # the unit that each route gave up, shape `(num_moves of the layer, num_routes)`
    taken: Mapping[str, np.ndarray]  # the unit that it took instead

    def masks_after(self, num_moves: int) -> dict[str, np.ndarray]:
        """Returns the masks after the first moves."""
        masks = {name: mask.copy() for name, mask in self.first.items()}
        for name in self.given_up:
            routes = np.arange(len(masks[name]))
            for given_up, taken in zip(self.given_up[name][:num_moves], self.taken[name][:num_moves], strict=True):
                masks[name][routes, given_up], masks[name][routes, taken] = False, True
        return masks

    def tried_after(self, num_moves: int) -> float:
        """Returns the share of all units that a route had or has after the first moves; it is the same for all routes."""
        tried = sum(int(mask[0].sum()) for mask in self.first.values())
        tried += sum(min(num_moves, len(taken)) for taken in self.taken.values())
        return float(tried / sum(mask.shape[1] for mask in self.first.values()))


@dataclass(frozen=True, kw_only=True)
class Stage:
    """The masks of a run after some of its moves."""

    moves: int
    step: int  # steps done before the last of them; 0 before the first
    tried: float  # share of the units that a route had or has
    overlap: float  # share of a route's units that another one has too, mean over pairs; NaN for a single route
    unused: int  # units that serve no route


def read_moves(folder: Path) -> MaskMoves | None:
    """Returns how a run's masks have moved; None if they have not.

    Raises:
        InputError: The masks cannot be read.
    """
    arrays = read_archive(folder, lambda name: name.startswith(MOVE_PREFIX)) or {}
    if not arrays:
        return None
    tables: dict[str, dict[str, np.ndarray]] = {"first": {}, "given_up": {}, "taken": {}}
    for name, values in arrays.items():
        kind, _, layer = name.removeprefix(MOVE_PREFIX).partition(".")
        if layer:
            tables[kind][layer] = values
    return MaskMoves(steps=arrays[f"{MOVE_PREFIX}steps"], **tables)


def summarise_moves(moves: MaskMoves) -> list[Stage]:
    """Returns the masks before the first move, after the last, and at a few moves between."""
    return [
        find_stage(moves, number)
        for number in np.unique(np.linspace(0, len(moves.steps), NUM_STAGES).astype(int)).tolist()
    ]


def find_stage(moves: MaskMoves, number: int) -> Stage:
    masks = moves.masks_after(number)
    overlap = mask_overlap(masks)
    between = overlap[np.tril_indices(len(overlap), -1)]
    return Stage(
        moves=number,
        step=int(moves.steps[number - 1]) if number else 0,
        tried=moves.tried_after(number),
        overlap=float(between.mean()) if len(between) else np.nan,
        unused=sum(layer.unused for layer in measure_usage(masks)),
    )
