"""What a sweep varies: the values of config keys, or the number of tasks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import yaml

from matl_scale.errors import InputError
from matl_scale.runs.sweep_folder import Variant
from matl_scale.seeds import derive_seed
from matl_scale.sweep.arms import Arm
from matl_scale.sweep.settings import as_text, check_free, read_texts, read_value
from matl_scale.train.parse_config import check_key

NUM_TASKS = "T"
TASKS_KEY = "data.tasks"


@dataclass(frozen=True, kw_only=True)
class Varied:
    """A config key, or `T`, with the values that it takes."""

    key: str
    values: list[Any]

    @property
    def sets(self) -> str:
        """The config key that it sets."""
        return TASKS_KEY if self.key == NUM_TASKS else self.key


def read_varied(texts: Sequence[str], arguments: Sequence[str], program: str) -> list[Varied]:
    """Reads `KEY=V1,V2,…`. Ends the program on a value that its key does not take.

    Raises:
        InputError: A key is unknown, given twice, or the sweep's own; or its values are no list of different ones.
    """
    varied = [read_one(text, arguments, program) for text in texts]
    keys = [entry.sets for entry in varied]
    for key in keys:
        if keys.count(key) > 1:
            raise InputError(f"`--vary` should name each key once. `{key}` is there twice.")
    return varied


def read_one(text: str, arguments: Sequence[str], program: str) -> Varied:
    key, _, listed = text.partition("=")
    if not listed:
        raise InputError(f"`--vary` should be KEY=V1,V2,…, as routing.sigma=0.25,0.5. Got {text!r}.")
    if key != NUM_TASKS:
        check_key(key, "--vary (or T, the number of tasks)")
        if "." not in key:
            raise InputError(f"`--vary` should name a key of the section `{key}`, as routing.sigma. Got {text!r}.")
        check_free(key, "--vary")
        if key == TASKS_KEY:
            raise InputError("--vary should leave `data.tasks` alone: use T=10,50, or an arm for each choice of tasks.")
    try:
        values = read_texts(f"[{listed}]")
    except yaml.YAMLError as error:
        raise InputError(f"`--vary` should be KEY=V1,V2,…. The values of {text!r} cannot be read.") from error
    read = [
        read_number(value, text) if key == NUM_TASKS else read_value(arguments, key, as_text(value), program)
        for value in values
    ]
    if any(value in read[:i] for i, value in enumerate(read)):
        raise InputError(f"`--vary` should name each value once. Got {text!r}.")
    return Varied(key=key, values=read)


def read_number(value: Any, text: str) -> int:
    if not isinstance(value, str) or not (value.isascii() and value.isdigit()) or int(value) < 1:
        raise InputError(f"`--vary T=…` should be numbers of tasks, at least 1. Got {text!r}.")
    return int(value)


def build_variants(arms: Sequence[Arm], varied: Sequence[Varied], tasks: Sequence[str]) -> list[Variant]:
    """Returns every arm at every point of what is varied. An arm that sets a key itself is not varied in it.

    `tasks` are the names of the tasks of the sweep's config.

    Raises:
        InputError: A number of tasks is larger than there are, or no arm leaves a varied key open.
    """
    variants = []
    for arm in arms:
        fixed = arm.settings(len(tasks))
        open_keys = [entry for entry in varied if entry.sets not in fixed]
        for values in product(*(entry.values for entry in open_keys)):
            point = {entry.key: value for entry, value in zip(open_keys, values, strict=True)}
            variants.append(build_variant(arm, point, tasks))
    for entry in varied:
        if not any(entry.key in variant.point for variant in variants):
            raise InputError(
                f"`--vary {entry.key}` should vary something: every arm sets `{entry.sets}` itself. Add an arm that does not."
            )
    return variants


def build_variant(arm: Arm, point: Mapping[str, Any], tasks: Sequence[str]) -> Variant:
    settings = {key: value for key, value in point.items() if key != NUM_TASKS}
    num_tasks = point.get(NUM_TASKS, len(tasks))
    if NUM_TASKS in point:
        settings[TASKS_KEY] = draw_tasks(tasks, num_tasks)
    name = " ".join([arm.name, *(f"{key}={value}" for key, value in point.items())])
    return Variant(name=name, arm=arm.name, point=dict(point), settings=arm.settings(num_tasks) | settings)


def draw_tasks(names: Sequence[str], number: int) -> list[str]:
    """Returns so many tasks, in order. Those of a smaller number are among those of a larger one, and the choice depends on the
    number of all tasks alone."""
    if number > len(names):
        raise InputError(f"`--vary T=…` should be at most the number of tasks, {len(names)}. Got {number}.")
    drawn = np.random.default_rng(derive_seed(0, "tasks of a sweep")).permutation(len(names))[:number]
    return [names[task_id] for task_id in sorted(drawn.tolist())]


def describe_not_varied(arms: Sequence[Arm], varied: Sequence[Varied], num_tasks: int) -> list[str]:
    """Says which arms set a varied key themselves."""
    return [
        f"{entry.key} is not varied in {arm.name}, which sets it"
        for entry in varied
        for arm in arms
        if entry.sets in arm.settings(num_tasks)
    ]
