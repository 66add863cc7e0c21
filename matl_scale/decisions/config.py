"""The section `decide` of a config."""

from collections.abc import Sequence
from dataclasses import dataclass

from matl_scale.decisions.aim import DEFAULT, Aim, choose_aims, parse_aim


@dataclass(frozen=True, kw_only=True)
class DecideConfig:
    """How the best network's probabilities become decisions: fitted on `eval.split` after every evaluation, kept beside the best
    network, and fitted again for another aim by `matl-decide`."""

    aim: str | dict[str, str] = DEFAULT
    """What a decision should be best at: `balanced_accuracy`, `f1`, `accuracy`; or `precision=0.9` or `recall=0.9`, which hold
    one of the two at a value where the other is best. Or name pattern → aim; the last pattern that matches a task counts, other
    tasks have `balanced_accuracy`. A task of more than two classes has no threshold: `balanced_accuracy` decides for the class
    whose probability is largest beside its frequency, every other aim for the most probable class."""

    def __post_init__(self) -> None:
        for text in [self.aim] if isinstance(self.aim, str) else self.aim.values():
            parse_aim(text, "decide.aim")

    def aims(self, tasks: Sequence[str]) -> list[Aim]:
        """Returns the aim of each task; raises `InputError` if a pattern matches none."""
        return choose_aims(self.aim, tasks, "decide.aim")
