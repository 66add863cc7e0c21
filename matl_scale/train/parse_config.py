"""The config from a YAML file and the command line. Unknown keys are refused with the nearest valid one."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn

import jsonargparse
import yaml

from matl_scale.cli import exit_with_error
from matl_scale.errors import InputError, nearest
from matl_scale.train.config import Config, all_keys, all_sections

LENGTH_KEYS = {"train.epochs": "auto", "train.steps": "auto", "train.minutes": "0"}  # with what leaves them open


class ConfigParser(jsonargparse.ArgumentParser):
    """Reports an error as one line on the first rank, and ends with exit code 2."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        exit_with_error(self.prog, f"{ex}" if isinstance(ex, InputError) else message)


class HelpFormatter(jsonargparse.DefaultHelpFormatter):
    """Keeps the usage line short: there are some fifty keys."""

    def add_usage(self, usage: Any, actions: Any, groups: Any, prefix: Any = None) -> None:  # noqa: ARG002
        super().add_usage("%(prog)s [--config FILE] [--section.key VALUE ...]", [], [], prefix)


def parse_config(arguments: Sequence[str], program: str, description: str) -> Config:
    """Reads `--config FILE` and `--section.key VALUE`; later ones win. Ends the program on a wrong one or on --help."""
    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = ConfigParser(prog=program, description=description, formatter_class=HelpFormatter, print_config=None)
    parser.add_argument(
        "--config", action="config", help="YAML file with any of the keys below; a run's config.yaml works too"
    )
    defaults = Config()
    for section in fields(Config):
        parser.add_argument(f"--{section.name}", type=section.type, default=getattr(defaults, section.name))
    try:
        check_arguments(arguments)
        parsed = parser.parse_args(without_length_of_files(arguments))
        sections = parser.instantiate(parsed)
        return Config(**{section.name: sections[section.name] for section in fields(Config)})
    except InputError as error:
        exit_with_error(program, error)


def without_length_of_files(arguments: Sequence[str]) -> list[str]:
    """Returns arguments in which a length of the run behind the last config file replaces the length that the file gives: a run
    has one length, and its `config.yaml` holds the steps that followed from its passes."""
    names = [argument.partition("=")[0] for argument in arguments]
    after = 0
    for index, name in enumerate(names):
        if name == "--config":
            after = index + (1 if "=" in arguments[index] else 2)
    if not after or {f"--{key}" for key in LENGTH_KEYS}.isdisjoint(names[after:]):
        return list(arguments)
    unset = [f"--{key}={value}" for key, value in LENGTH_KEYS.items()]
    return [*arguments[:after], *unset, *arguments[after:]]


def check_arguments(arguments: Sequence[str]) -> None:
    """Raises `InputError` for an unknown key on the command line or in a config file, before values are looked at."""
    for index, argument in enumerate(arguments):
        name, _, value = argument.partition("=")
        if name == "--config":
            path = value or (arguments[index + 1] if index + 1 < len(arguments) else "")
            check_config_file(Path(path))
        elif name.startswith("--") and name != "--help":
            check_key(name[2:].removesuffix("+"), "the command line")  # `--data.tasks+ NAME` adds to a list


def check_config_file(path: Path) -> None:
    """Raises `InputError` if a config file cannot be read, or holds something else than known sections and keys."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"The config file {path} cannot be read: {error}.") from error
    if not content:
        raise InputError(f"The config file {path} is empty. It should hold sections with keys.")
    if not isinstance(content, Mapping):
        raise InputError(f"{path} should hold sections with keys. Got {type(content).__name__}.")
    for section, values in content.items():
        check_section(section, path)
        if not isinstance(values, Mapping):
            raise InputError(f"{path}: section `{section}` should hold keys. Got {values!r}.")
        for key in values:
            check_key(f"{section}.{key}", str(path))


def check_section(section: object, path: Path) -> None:
    if section not in all_sections():
        raise InputError(f"Unknown config section `{section}` in {path}." + nearest(str(section), all_sections()))


def check_key(key: str, context: str) -> None:
    if key not in all_keys() and key not in all_sections():
        raise InputError(f"Unknown config key `{key}` in {context}." + nearest(key, all_keys()))
