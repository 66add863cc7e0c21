"""The arms of a sweep: ways to share one network, each a few changes of the config.

What an arm does not say stays as the sweep's config has it. So what is `auto` there is chosen for each arm, by the same rules.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from matl_scale.errors import InputError, nearest
from matl_scale.sweep.settings import check_free, value_of
from matl_scale.train.features.keys import HEADS_ALONE
from matl_scale.train.parse_config import check_config_file, parse_config

MAX_PARTITION_ROUTES = 8
NARROW = "narrow"
# whatever the sweep's config says of masks
FIXED_MASKS = {"routing.strategy": "random", "routing.interval": "auto", "routing.dense_share": "auto"}
HARD_SHARING = {
    "routing.routes": "one",
    "routing.sigma": 1.0,
    "routing.sigma_last": "none",
    "routing.sigmas": {},
    "routing.affine": "shared",
    **FIXED_MASKS,
}


@dataclass(frozen=True, kw_only=True)
class Arm:
    """A way to train, as a change of the config."""

    name: str
    help: str
    settings_for: Callable[[int], Mapping[str, Any]]  # from the number of tasks to config key → value
    per_task: bool = False  # whether it trains a network for each task

    def settings(self, num_tasks: int) -> dict[str, Any]:
        return dict(self.settings_for(num_tasks))


BUILT_IN = {
    arm.name: arm
    for arm in (
        Arm(
            name="dense",
            help="one route, σ 1: the plain network with a head per task",
            settings_for=lambda _: HARD_SHARING,
        ),
        Arm(
            name=NARROW,
            help="one route, σ 0.5 (or what splits attention heads): the plain network at half the width, as cheap as a route "
            "with that σ",
            settings_for=lambda _: {**HARD_SHARING, "routing.sigma": 0.5},
        ),
        Arm(
            name="auto",
            help="what the config says, and the rules where it says nothing; with --tune, the number of routes is searched",
            settings_for=lambda _: {},
        ),
        Arm(
            name="task",
            help="a route for every task: the paper",
            settings_for=lambda _: {"routing.routes": "task"},
        ),
        Arm(
            name="partition",
            help=f"{MAX_PARTITION_ROUTES} routes (fewer if there are fewer tasks) whose units do not overlap, but for those that "
            "all have",
            settings_for=lambda num_tasks: {
                "routing.routes": min(MAX_PARTITION_ROUTES, num_tasks),
                **FIXED_MASKS,
                "routing.strategy": "partition",
            },
        ),
        Arm(
            name="single",
            help="a network for every task alone",
            settings_for=lambda _: HARD_SHARING,
            per_task=True,
        ),
        Arm(
            name="probe",
            help="heads on the features that matl-embed has computed by a trunk that stays as it is",
            settings_for=lambda _: {**HARD_SHARING, **HEADS_ALONE},
        ),
        Arm(
            name="frozen",
            help="heads on a trunk that stays as it is and runs in every step (drawn, `model.pretrained`, `model.weights`)",
            settings_for=lambda _: {**HARD_SHARING, "model.freeze": ["*"]},
        ),
    )
}
NUMBERED = "kN"  # k8: eight routes


def describe_arms() -> str:
    """Returns the built-in arms with what they are, for the command's help."""
    listed = [f"{arm.name} ({arm.help})" for arm in BUILT_IN.values()]
    return ", ".join([*listed, f"{NUMBERED} (N routes, as k8)"])


def read_arms(names: Sequence[str], arguments: Sequence[str], program: str) -> list[Arm]:
    """Returns the arms of these names, in order: built-in ones, and files of config sections.

    Args:
        names: As `k8` or `own.yaml`.
        arguments: The command line's part with the config that arms change.
        program: What the user typed; ends the program on a value that its key does not take.

    Raises:
        InputError: A name is unknown or given twice, or a file cannot be read or sets what is not an arm's.
    """
    arms = [read_arm(name, arguments, program) for name in names]
    seen: dict[str, str] = {}
    for arm in arms:
        in_folders = arm.name.replace(" ", "-")
        if (other := seen.get(in_folders)) is not None:
            twice = "is there twice" if other == arm.name else f"and `{other}` would have the same folders"
            raise InputError(f"`--arms` should name each arm once. `{arm.name}` {twice}.")
        seen[in_folders] = arm.name
    if not arms:
        raise InputError(f"`--arms` should name at least one arm: {', '.join(BUILT_IN)}, {NUMBERED}, or a YAML file.")
    return arms


def read_arm(name: str, arguments: Sequence[str], program: str) -> Arm:
    if name in BUILT_IN:
        return BUILT_IN[name]
    if number := re.fullmatch(r"k([1-9]\d*)", name):
        settings = {"routing.routes": int(number[1])}
        return Arm(name=name, help=f"{number[1]} routes", settings_for=lambda _: settings)
    if name.endswith((".yaml", ".yml")):
        return read_own_arm(Path(name), arguments, program)
    raise InputError(
        f"`--arms` should be some of {', '.join(BUILT_IN)}, {NUMBERED} (as k8), and YAML files. Got {name!r}."
        + nearest(name, BUILT_IN)
    )


def read_own_arm(path: Path, arguments: Sequence[str], program: str) -> Arm:
    """Returns the arm that a file of config sections describes; it is called as the file."""
    check_config_file(path)
    content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    keys = [f"{section}.{key}" for section, values in content.items() for key in values]
    for key in keys:
        check_free(key, f"The arm {path}")
    if path.stem in BUILT_IN or re.fullmatch(r"k\d+", path.stem):
        raise InputError(f"{path} should have another name: `{path.stem}` is a built-in arm.")
    config = parse_config([*arguments, "--config", str(path)], program, "")
    settings = {key: value_of(config, key) for key in keys}
    return Arm(name=path.stem, help=str(path), settings_for=lambda _: settings)
