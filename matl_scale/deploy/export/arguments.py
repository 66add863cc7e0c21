"""The arguments with which a layer can be built again."""

import ast
import inspect
from dataclasses import dataclass
from typing import Any

from torch import nn

from matl_scale.deploy.export.layers import OWN_LAYERS


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What to give to a layer's class: literals."""

    positional: list[Any]
    named: dict[str, Any]  # those that differ from their defaults


def read_arguments(layer: nn.Module) -> Arguments | None:
    """Returns the arguments of a layer of torch's, or of `OWN_LAYERS`, from its attributes that are named like them; None if it
    is of another kind, or an argument is no literal.

    `repr` does not do: several of torch's layers leave arguments out of it.
    """
    kind = type(layer)
    is_known = kind in OWN_LAYERS or getattr(nn, kind.__name__, None) is kind
    found = Arguments(positional=[], named={})
    for key, parameter in inspect.signature(kind).parameters.items():
        if key in ("device", "dtype") or parameter.kind is not inspect.Parameter.POSITIONAL_OR_KEYWORD:
            continue
        value: Any = getattr(layer, key, inspect)  # a module is no literal
        if key == "bias":
            value = value is not None
        elif kind not in OWN_LAYERS and isinstance(value, tuple) and len(set(value)) == 1:
            value = value[0]  # as people write it
        if parameter.default is inspect.Parameter.empty:
            found.positional.append(value)
        elif value != parameter.default:
            found.named[key] = value
        is_known = is_known and is_literal(value)
    return found if is_known else None


def is_literal(value: object) -> bool:
    try:
        return bool(ast.literal_eval(repr(value)) == value)
    except (ValueError, SyntaxError):
        return False
