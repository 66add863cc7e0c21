"""When a run ends early because its evaluations no longer improve (`train.patience`)."""

import math
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(kw_only=True)
class Patience:
    """Counts the evaluations since the best one, by one summary over the tasks; an undefined value is no improvement."""

    limit: int = 0  # evaluations in a row without improvement with which a run ends; 0 has no such end
    chosen_by: str = ""  # split and summary
    yardstick: str = ""  # all that the summary depends on, `Config.yardstick` as text
    best: float = -math.inf
    best_step: int = 0  # the step of the best evaluation; 0 if there was none
    last_step: int = 0  # the step of the last evaluation
    waited: int = 0  # evaluations since the best one

    def note(self, step: int, value: float) -> None:
        """Notes what an evaluation after `step` steps found."""
        self.waited, self.last_step = self.waited_with(value), step
        if not self.waited:
            self.best, self.best_step = value, step

    def waited_with(self, value: float) -> int:
        """Returns the number of evaluations without improvement if the next one finds `value`."""
        return 0 if value > self.best else self.waited + 1

    def is_over(self, waited: int | None = None) -> bool:
        """Returns whether a run ends: now, or after so many evaluations without improvement."""
        return 0 < self.limit <= (self.waited if waited is None else waited)

    def describe(self) -> str:
        """Says why a run ends."""
        best = f"it was best after step {self.best_step}, {self.best:.4f}" if self.best_step else "it was never defined"
        return f"{self.chosen_by} has not improved in {self.waited} evaluations (`train.patience`); {best}"

    def state_dict(self) -> dict[str, Any]:
        return asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues what was counted by the same yardstick; by another one, everything is counted anew. The limit stays."""
        saved = Patience(**state)
        is_older = not saved.yardstick and saved.chosen_by == self.chosen_by  # that version had no yardstick
        if is_older or saved.yardstick == self.yardstick:
            self.best, self.best_step, self.last_step = saved.best, saved.best_step, saved.last_step
            self.waited = saved.waited
