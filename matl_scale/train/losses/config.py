"""The section `loss` of a config: what a label costs."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from matl_scale.errors import InputError, check_at_least, check_choice

NAMES = ("cross_entropy", "focal", "asymmetric", "logit_adjusted")
SCHEMES = ("none", "inverse", "sqrt", "effective")


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """What a label costs, for all tasks or by task pattern; in mappings the last pattern that matches counts."""

    name: dict[str, str] | str = "cross_entropy"
    """`cross_entropy`; `focal` (easy samples count less); `asymmetric` (for binary tasks: easy negatives count less, and very
    easy ones not at all); `logit_adjusted` (class frequencies are added while training, so that rare classes are answered as
    often as balanced accuracy wants it). Or task pattern → one of these; other tasks have cross_entropy."""
    gamma: float = 2.0
    """Exponent of `focal`; 0 is cross_entropy."""
    gamma_positive: float = 1.0
    """Exponent of `asymmetric` for class 1."""
    gamma_negative: float = 4.0
    """Exponent of `asymmetric` for class 0."""
    margin: float = 0.05
    """Probability of class 1 up to which a negative costs nothing with `asymmetric`."""
    tau: float = 1.0
    """How much of log class frequencies `logit_adjusted` adds to the logits; 0 is cross_entropy."""
    class_weight: dict[str, dict[str, float] | str] | str = "none"
    """How much the samples of a class count, by its number n in the training split: `none`, `inverse` (1/n), `sqrt` (1/√n),
    `effective` ((1 - beta)/(1 - beta^n)). Or task pattern → one of these or class name → weight; classes without one weigh 1.
    The mean weight of a task's samples is made 1."""
    beta: float = 0.999
    """β of `effective`: samples beyond about 1/(1 - beta) of a class add little."""
    label_smoothing: float = 0.0
    """Share of every label that is spread over all classes of its task."""
    task_weight: dict[str, float] = field(default_factory=dict)
    """Task pattern → factor on the task's loss; others have 1."""

    def __post_init__(self) -> None:
        for key, name in each_value("loss.name", self.name):
            check_choice(key, name, NAMES)
        for key in ("gamma", "gamma_positive", "gamma_negative", "tau"):
            check_at_least(0, {f"loss.{key}": getattr(self, key)})
        for key in ("margin", "beta", "label_smoothing"):
            if not 0 <= getattr(self, key) < 1:
                raise InputError(f"`loss.{key}` should be at least 0 and below 1. Got {getattr(self, key)}.")
        check_weights("loss.task_weight", self.task_weight, "Leave a task out with `data.tasks`.")
        if isinstance(self.class_weight, dict):
            weights = {pattern: with_text_keys(value) for pattern, value in self.class_weight.items()}
            object.__setattr__(self, "class_weight", weights)
        for key, given in each_value("loss.class_weight", self.class_weight):
            if isinstance(given, dict):
                check_weights(key, given, "To train without a class, remove its labels.")
            else:
                check_choice(key, given, SCHEMES)


def each_value(key: str, setting: Any) -> Iterator[tuple[str, Any]]:
    """Yields the values of a setting that is one value, or a mapping from patterns to values, each with its key."""
    if isinstance(setting, dict):
        yield from ((f"{key}.{pattern}", value) for pattern, value in setting.items())
    else:
        yield key, setting


def with_text_keys(value: Any) -> Any:
    """Returns a mapping with its keys as texts: YAML reads the class names 1 and yes as a number and a boolean."""
    return {str(key): entry for key, entry in value.items()} if isinstance(value, dict) else value


def check_weights(key: str, weights: Mapping[str, float], remedy: str) -> None:
    """Raises `InputError` for the first weight that is no positive finite number."""
    for name, weight in weights.items():
        if not 0 < weight < math.inf:
            raise InputError(f"`{key}.{name}` should be a positive finite number. Got {weight}. {remedy}")
