"""What a decision should be best at (`decide.aim`)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast, get_args

from matl_scale.errors import InputError
from matl_scale.tasks import values_by_pattern

Best = Literal["balanced_accuracy", "f1", "accuracy"]
Held = Literal["precision", "recall"]
DEFAULT = "balanced_accuracy"
KINDS = (*get_args(Best), *(f"{name}=0.9" for name in get_args(Held)))


@dataclass(frozen=True)
class Aim:
    """A metric to maximise; or one to hold at a value, while the other of precision and recall is maximised."""

    metric: Best | Held
    value: float | None = None  # what is held; None where the metric is maximised

    def __str__(self) -> str:
        return self.metric if self.value is None else f"{self.metric}={self.value:g}"


def parse_aim(text: str, key: str) -> Aim:
    """Reads an aim, as `f1` or `precision=0.9`, from the setting `key`."""
    name, equals, number = str(text).partition("=")
    if name in get_args(Best) and not equals:
        return Aim(cast(Best, name))
    if name in get_args(Held) and equals:
        try:
            value = float(number)
        except ValueError:
            value = float("nan")
        if 0 < value < 1:
            return Aim(cast(Held, name), value)
    raise InputError(f"`{key}` should be one of {', '.join(KINDS)} (or another value below 1). Got {text!r}.")


def choose_aims(setting: str | Mapping[str, str], tasks: Sequence[str], key: str) -> list[Aim]:
    """Returns the aim of each task. Of several patterns that match a task the last one counts; without any, the default.

    Raises:
        InputError: There is no such aim, or a pattern matches no task.
    """
    return [parse_aim(text, key) for text in values_by_pattern(tasks, setting, key, DEFAULT)]
