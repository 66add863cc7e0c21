"""Plans as files: the options of `matl-sweep` in YAML, so that a comparison can be kept in a repository and repeated.

A plan becomes options in front of those of the command line, so what is on the line wins. Values are texts, read as on the line.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from matl_scale.errors import InputError, nearest
from matl_scale.sweep.settings import as_text, read_texts
from matl_scale.train.config import all_sections
from matl_scale.train.parse_config import LENGTH_KEYS, check_key

OPTION = "--plan"
SET_KEY = "set"


def expand_plan(given: Sequence[str]) -> list[str]:
    """Returns a command line with the options of its plan in place of `--plan FILE`; one without a plan stays as it is.

    Raises:
        InputError: The plan cannot be read, has an unknown key, or a key has a value of the wrong kind.
    """
    line, paths = split_off_plans(given)
    if not paths:
        return line
    if len(paths) > 1:
        raise InputError(f"`{OPTION}` should be given once. Got {', '.join(paths)}.")
    names = {argument.partition("=")[0].removeprefix("--") for argument in line if argument.startswith("--")}
    options: list[str] = []
    for key, value in read_plan_file(Path(paths[0])).items():
        if key == SET_KEY:
            options += write_config_keys(value, names, f"`{SET_KEY}` in the plan {paths[0]}")
        elif key not in names:
            options += WRITERS[key](key, value, f"`{key}` in the plan {paths[0]}")
    return [*options, *line]


def split_off_plans(given: Sequence[str]) -> tuple[list[str], list[str]]:
    """Returns the command line without its plans, and their paths."""
    line: list[str] = []
    paths: list[str] = []
    rest = iter(given)
    for argument in rest:
        name, has_path, path = argument.partition("=")
        if name != OPTION:
            line.append(argument)
            continue
        path = path if has_path else next(rest, "")
        if not path:
            raise InputError(f"`{OPTION}` should be followed by a YAML file.")
        paths.append(path)
    return line, paths


def read_plan_file(path: Path) -> dict[str, Any]:
    """Reads a plan, its options in an order in which `set` comes after `config`."""
    try:
        content = read_texts(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"The plan {path} cannot be read: {error}.") from error
    if not isinstance(content, Mapping) or not content:
        raise InputError(f"The plan {path} should hold options of the sweep: {', '.join(KEYS)}.")
    for key in content:
        check_plan_key(str(key), path)
    return {key: content[key] for key in KEYS if key in content}


def check_plan_key(key: str, path: Path) -> None:
    if key in KEYS:
        return
    if key.partition(".")[0] in all_sections():
        raise InputError(
            f"`{key}` in the plan {path} is of the config. Put it under `{SET_KEY}`, as {SET_KEY}: {{optim.lr: 0.1}}."
        )
    raise InputError(
        f"Unknown key `{key}` in the plan {path}. It should be one of {', '.join(KEYS)}." + nearest(key, KEYS)
    )


def write_text(key: str, value: Any, context: str) -> list[str]:
    if not isinstance(value, str) or not value:
        raise InputError(f"{context} should be one value. Got {value!r}.")
    return [f"--{key}={value}"]


def write_list(key: str, value: Any, context: str) -> list[str]:
    """Writes a list, or a text that has commas already."""
    if isinstance(value, list):
        value = "".join(f"{text}," for text in check_texts(value, context))  # `5,` is the seed 5, and `5` five seeds
    return write_text(key, value, context)


def write_words(key: str, value: Any, context: str) -> list[str]:
    return [f"--{key}", *check_texts(value if isinstance(value, list) else [value], context)]


def write_varied(key: str, value: Any, context: str) -> list[str]:
    if not isinstance(value, Mapping) or not all(isinstance(values, list) and values for values in value.values()):
        raise InputError(
            f"{context} should hold keys with lists of values, as {{routing.sigma: [0.5, 1]}}. Got {value!r}."
        )
    return [f"--{key}={name}={as_text(values)[1:-1]}" for name, values in value.items()]


def write_config_keys(value: Any, on_line: set[str], context: str) -> list[str]:
    """Writes keys of the config, without those on the command line; a length there replaces any length of the plan."""
    if not isinstance(value, Mapping):
        raise InputError(f"{context} should hold keys of the config, as {{optim.lr: 0.1}}. Got {value!r}.")
    for key in value:
        check_key(str(key), context)
        if "." not in key:
            raise InputError(f"{context} should name keys as `{key}.NAME`, not the section `{key}`.")
    replaced = on_line if on_line.isdisjoint(LENGTH_KEYS) else {*on_line, *LENGTH_KEYS}
    return [f"--{key}={as_text(text)}" for key, text in value.items() if key not in replaced]


def check_texts(values: Sequence[Any], context: str) -> list[str]:
    if not values or not all(isinstance(text, str) and text for text in values):
        raise InputError(f"{context} should be a list of texts or numbers. Got {values!r}.")
    return list(values)


WRITERS: Mapping[str, Callable[[str, Any, str], list[str]]] = {
    "config": write_text,
    "arms": write_list,
    "seeds": write_list,
    "vary": write_varied,
    "budget": write_text,
    "tune": write_text,
    "single-tasks": write_words,
    "parallel": write_text,
    "out": write_text,
}
KEYS = (*WRITERS, SET_KEY)
