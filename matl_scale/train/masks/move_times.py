"""When masks move, and how far they come: a function of the step and the length of the run, whatever the number of ranks."""

import math
from dataclasses import dataclass

from matl_scale.automatic import AUTO, Auto
from matl_scale.text import count_of
from matl_scale.train.length import Length
from matl_scale.train.schedule import is_due

DONE_BY = 0.8  # the share of a run after which masks stay, with `auto`


@dataclass(frozen=True, kw_only=True)
class MoveTimes:
    """The steps after which masks move. They move before the next step, so never after the last one."""

    interval: int | Auto  # `routing.interval`
    steps_per_draw: int  # in so many steps each route is drawn once, on average
    num_moves: int  # after so many, each route has tried all units of every layer

    def is_due(self, step: int, length: Length) -> bool:
        """Returns whether masks move after `step` steps of a run of this length, if there are units left to try."""
        if step == 0:
            return False
        if self.interval != AUTO:
            return is_due(step, self.interval)
        return length.completes_part(step, self._parts(length))

    def interval_in(self, length: Length) -> float:
        """Returns the steps between two moves."""
        return length.num_steps / self._parts(length) if self.interval == AUTO else self.interval

    def moves_in(self, length: Length) -> int:
        """Returns how many moves a run of this length makes."""
        if self.interval == AUTO:
            return min(self.num_moves, self._parts(length) - 1)
        return min(self.num_moves, (length.num_steps - 1) // self.interval)

    def describe(self, length: Length) -> str:
        """Says in a sentence when masks move, and what share of the units routes try."""
        moves = self.moves_in(length)
        text = f"masks move {count_of(moves, 'time')}, about every {self.interval_in(length):.3g} steps"
        if moves == self.num_moves:
            return f"{text}; after that each route has tried all units"
        return f"{text}: too seldom for a route to try all units of every layer, which takes {self.num_moves:,} moves"

    def _parts(self, length: Length) -> int:
        """Returns the number of equal parts of the run after which masks move: so many that `num_moves` of them end by `DONE_BY`,
        unless routes would not be drawn once in each."""
        return max(1, min(math.ceil(self.num_moves / DONE_BY), length.num_steps // self.steps_per_draw))
