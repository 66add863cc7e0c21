"""`auto`: a value of the config that a run chooses itself, from its data and its machine."""

from typing import Literal, TypeVar

AUTO: Literal["auto"] = "auto"
Auto = Literal["auto"]

Value = TypeVar("Value")


def chosen(value: Value | Auto) -> Value:
    """Returns a value of a config whose automatic choices have been made (see `train.resolve`)."""
    assert value != AUTO, "this value has not been chosen yet"
    return value
