"""How the labels of a run counted in training, where that is not the default: in a line."""

from collections.abc import Mapping
from typing import Any

import yaml

from matl_scale.runs.history import RunHistory

# the keys that say it, with the values that need no words; what else the section `loss` has are their parameters
DEFAULTS: dict[str, Any] = {
    "loss.name": "cross_entropy",
    "loss.class_weight": "none",
    "loss.label_smoothing": 0.0,
    "loss.task_weight": {},
    "data.balance": 0.0,
    "data.missing": "ignore",
}


def describe_losses(run: RunHistory) -> str:
    """Returns the keys in which a run's config differs from plain cross-entropy over the labels that there are, with their
    values; empty if in none, or if the config cannot be read: a report does without."""
    try:
        config = run.config
    except (OSError, UnicodeDecodeError, yaml.YAMLError, TypeError, ValueError):
        return ""
    found = []
    for key, default in DEFAULTS.items():
        section, name = key.split(".")
        values = config.get(section)
        value = values.get(name, default) if isinstance(values, Mapping) else default
        if value != default:
            found.append(f"{key} {describe_value(value)}")
    return "; ".join(found)


def describe_value(value: Any) -> str:
    """Returns a value, or a mapping from patterns or classes to values, as text."""
    if isinstance(value, Mapping):
        parts = [
            f"{name}: ({describe_value(each)})" if isinstance(each, Mapping) else f"{name}: {each}"
            for name, each in value.items()
        ]
        return ", ".join(parts)
    return str(value)
