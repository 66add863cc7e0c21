"""What a sweep changes in a config: keys with their values, and the keys that are its own to set."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import yaml

from matl_scale.errors import InputError
from matl_scale.train.config import Config, RunConfig, with_absolute_paths
from matl_scale.train.parse_config import parse_config

# keys that arms and `--vary` may not set, and why
SET_BY_SWEEP = {
    "run.name": "the sweep names its runs",
    "run.dir": "the runs are in the folder of the sweep (--out)",
    "run.seed": "use --seeds",
    "run.resume": "the sweep resumes its runs by itself",
    "run.start_from": "arms choose their routes, and such a run has those of the earlier network",
    "data.path": "all runs of a sweep train on one shard set",
    "data.version": "all runs of a sweep train on one version of the labels",
    "train.steps": "the budget says how long runs are (--budget)",
    "train.epochs": "the budget says how long runs are (--budget)",
    "train.minutes": "the budget says how long runs are (--budget)",
    "train.patience": "all runs have the same budget, and one that ends early has less",
    "track.experiment": "a sweep is one experiment",
    "track.tags": "the sweep tags its runs",
}


def check_free(key: str, context: str) -> None:
    """Raises `InputError` for a key that the sweep sets itself."""
    if key in SET_BY_SWEEP:
        raise InputError(f"{context} should leave `{key}` alone: {SET_BY_SWEEP[key]}.")


def read_texts(text: str) -> Any:
    """Reads YAML with every scalar as the text that was written. Its key's type says later what that is: `on` and `no` are words,
    where YAML 1.1 would have made them booleans, and `1e-3` is a number.

    Raises:
        yaml.YAMLError: It is no YAML.
    """
    return yaml.load(text, Loader=yaml.BaseLoader)


def as_text(value: Any) -> str:
    """Returns what `read_texts` has read as the command line would have it: lists and mappings in one line, words that YAML 1.1
    would change in quotes."""
    if isinstance(value, str):
        return value
    dumped: str = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=math.inf)
    return dumped.strip()


def read_value(arguments: Sequence[str], key: str, text: str, program: str) -> Any:
    """Returns the value of a config key as its type reads it, on top of a sweep's own arguments. Ends the program if it is
    none."""
    config = parse_config([*arguments, f"--{key}", text], program, "")
    return value_of(config, key)


def value_of(config: Config, key: str) -> Any:
    section, _, name = key.partition(".")
    return getattr(getattr(config, section), name)


def build_base(config: Config) -> Config:
    """Returns the config that all runs of a sweep begin with: without what the sweep sets for each of them.

    Raises:
        InputError: It starts from an earlier network, or may end early.
    """
    if config.run.start_from:
        raise InputError("`run.start_from` should be empty in a sweep: " + SET_BY_SWEEP["run.start_from"] + ".")
    if config.train.patience:
        raise InputError("`train.patience` should be 0 in a sweep: " + SET_BY_SWEEP["train.patience"] + ".")
    config = with_absolute_paths(config)
    return replace(config, run=RunConfig())
