"""How masks have moved: which unit each route gave up and which it took, move by move; and the draw of the next move.

Source: Pascal, Michiardi, Bost, Huet, Zuluaga, Maximum Roaming Multi-Task Learning, AAAI 2021, arXiv 2006.09762.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from matl_scale.seeds import derive_seed

Masks = Mapping[str, torch.Tensor]  # by stream, bool, shape `(num_routes, num_units)`


@dataclass
class Moves:
    """All moves of a run. A stream takes part in the first ones, until its routes have tried all units.

    Attributes:
        steps: The number of steps done before each move.
        given_up: By stream, the unit that each route gave up, int32, shape `(num_moves of the stream, num_routes)`.
        taken: By stream, the unit that it took instead.
    """

    steps: list[int] = field(default_factory=list)
    given_up: dict[str, torch.Tensor] = field(default_factory=dict)
    taken: dict[str, torch.Tensor] = field(default_factory=dict)

    def tried(self, masks: Masks) -> dict[str, torch.Tensor]:
        """Returns the units that each route has or had, shaped as the masks after the last move, `masks`."""
        found = {name: mask.clone() for name, mask in masks.items()}
        for name, units in self.given_up.items():
            found[name].scatter_(1, units.T.long(), True)
        return found

    def first(self, masks: Masks) -> dict[str, torch.Tensor]:
        """Returns the masks before the first move from those after the last one, `masks`. A route takes no unit twice."""
        found = self.tried(masks)
        for name, units in self.taken.items():
            found[name].scatter_(1, units.T.long(), False)
        return found

    def add(self, step: int, exchanged: Mapping[str, tuple[torch.Tensor, torch.Tensor]]) -> None:
        """Adds a move after `step` steps: by stream the units that were given up and taken, each of shape `(num_routes,)`."""
        self.steps.append(step)
        for name, pair in exchanged.items():
            for moves, units in zip((self.given_up, self.taken), pair, strict=True):
                row = units[None].to(torch.int32)
                moves[name] = torch.cat([moves[name], row]) if name in moves else row

    def state_dict(self) -> dict[str, Any]:
        return {"steps": torch.tensor(self.steps), "given_up": dict(self.given_up), "taken": dict(self.taken)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.steps = state["steps"].tolist()
        self.given_up, self.taken = dict(state["given_up"]), dict(state["taken"])


def draw_move(
    masks: Masks, tried: Masks, seed: int, number: int
) -> tuple[dict[str, torch.Tensor], dict[str, tuple[torch.Tensor, torch.Tensor]]]:
    """Draws the next move: in every stream where there are untried units, each route gives up one of its units and takes one
    that it has not tried, each with equal chances. A pure function of its arguments.

    Args:
        masks: The masks now.
        tried: The units that each route has or had.
        seed: The run's seed.
        number: How many moves were made before.

    Returns:
        The new masks, and by stream the units that were given up and taken, each of shape `(num_routes,)`.
    """
    moved, exchanged = dict(masks), {}
    for name, mask in masks.items():
        if tried[name].all():
            continue
        generator = torch.Generator().manual_seed(derive_seed(seed, "roaming", name, number))
        chances = torch.rand(2, *mask.shape, generator=generator, dtype=torch.float64)
        given_up = chances[0].masked_fill(~mask, -1).argmax(dim=1)
        taken = chances[1].masked_fill(tried[name], -1).argmax(dim=1)
        moved[name] = mask.scatter(1, given_up[:, None], False).scatter(1, taken[:, None], True)
        exchanged[name] = given_up, taken
    return moved, exchanged
