"""The whole configuration: one typed section per part of the program, from a YAML file and the command line.

Each section is a frozen dataclass beside the code that reads it. Unknown keys are refused with the nearest valid one.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

import jsonargparse
import yaml

from matl_scale.cli import exit_with_error
from matl_scale.data.loading.loader import DataConfig
from matl_scale.errors import InputError, nearest
from matl_scale.models.backbones import ModelConfig
from matl_scale.models.network import RoutingConfig
from matl_scale.tracking.recorder import TrackConfig
from matl_scale.train.evaluation import EvalConfig
from matl_scale.train.health.nonfinite import GuardConfig
from matl_scale.train.schedule import CheckpointConfig
from matl_scale.train.step.optim import OptimConfig
from matl_scale.train.step.sampling import TasksConfig
from matl_scale.train.step.train_step import TrainConfig


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Name and place of the run."""

    name: str = "run"
    """Its folder is run.dir/run.name."""
    dir: str = "runs"
    """Folder of all runs, and of MLflow's default store."""
    seed: int = 0
    """Of masks, weights, task sampling, data order and augmentation."""
    resume: Literal["auto", "never"] | str = "auto"
    """`auto` goes on from the newest checkpoint of this run if there is one, `never` refuses a folder that has one, a
    path names a checkpoint (a folder step-…) to go on from."""

    start_from: str = ""
    """A run's folder, or one of its checkpoints (step-…), whose network a new run starts with: tasks that it has keep masks,
    heads and statistics, new tasks get their own. For a run that goes on with itself, see `resume`."""

    def __post_init__(self) -> None:
        if not self.name or self.name in (".", "..") or set(self.name) & set("/\\\0"):
            raise InputError(f"`run.name` should be a plain folder name. Got {self.name!r}.")

    @property
    def folder(self) -> Path:
        return Path(self.dir) / self.name


@dataclass(frozen=True, kw_only=True)
class Config:
    """All sections."""

    run: RunConfig = field(default_factory=RunConfig)
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    routing: RoutingConfig = field(default_factory=RoutingConfig)
    tasks: TasksConfig = field(default_factory=TasksConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    guard: GuardConfig = field(default_factory=GuardConfig)
    track: TrackConfig = field(default_factory=TrackConfig)


class ConfigParser(jsonargparse.ArgumentParser):
    """Reports an error as one line on the first rank, and ends with exit code 2."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        exit_with_error(self.prog, f"{ex}" if isinstance(ex, InputError) else message)


def parse_config(arguments: Sequence[str], program: str, description: str) -> Config:
    """Reads `--config FILE` and `--section.key VALUE`; later ones win. Ends the program on a wrong one or on --help."""
    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = ConfigParser(prog=program, description=description, formatter_class=HelpFormatter, print_config=None)
    parser.add_argument(
        "--config", action="config", help="YAML file with any of the keys below; a run's config.yaml will do"
    )
    defaults = Config()
    for section in fields(Config):
        parser.add_argument(f"--{section.name}", type=section.type, default=getattr(defaults, section.name))
    try:
        check_arguments(arguments)
        parsed = parser.parse_args(list(arguments))
        sections = parser.instantiate(parsed)
        return Config(**{section.name: sections[section.name] for section in fields(Config)})
    except InputError as error:
        exit_with_error(program, error)


class HelpFormatter(jsonargparse.DefaultHelpFormatter):
    """Leaves the usage line short: there are some fifty keys."""

    def add_usage(self, usage: Any, actions: Any, groups: Any, prefix: Any = None) -> None:  # noqa: ARG002
        super().add_usage("%(prog)s [--config FILE] [--section.key VALUE ...]", [], [], prefix)


def check_arguments(arguments: Sequence[str]) -> None:
    """Raises `InputError` for an unknown key on the command line or in a config file, before values are looked at."""
    for place, argument in enumerate(arguments):
        name, _, value = argument.partition("=")
        if name == "--config":
            path = value or (arguments[place + 1] if place + 1 < len(arguments) else "")
            check_config_file(Path(path))
        elif name.startswith("--") and name != "--help":
            check_key(name[2:].removesuffix("+"), "the command line")  # `--data.tasks+ NAME` adds to a list


def check_config_file(path: Path) -> None:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"The config file {path} cannot be read: {error}.") from error
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


def check_key(key: str, place: str) -> None:
    if key not in all_keys() and key not in all_sections():
        raise InputError(f"Unknown config key `{key}` in {place}." + nearest(key, all_keys()))


def all_sections() -> list[str]:
    return [section.name for section in fields(Config)]


def all_keys() -> list[str]:
    """Returns every valid key, as `section.key`."""
    return [key for key, _ in walk(Config())]


def walk(config: Config) -> Iterator[tuple[str, Any]]:
    """Yields every key with its value."""
    for section in fields(config):
        values = getattr(config, section.name)
        assert is_dataclass(values)
        for entry in fields(values):
            yield f"{section.name}.{entry.name}", getattr(values, entry.name)


def dump_config(config: Config) -> str:
    """Returns the config as YAML that `--config` reads back."""
    return yaml.dump(asdict(config), Dumper=ConfigDumper, sort_keys=False, allow_unicode=True)


class ConfigDumper(yaml.SafeDumper):
    """Quotes strings like 1e3, which YAML 1.1 takes for text and jsonargparse's reader for a number."""


def represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    try:
        float(text)
    except ValueError:
        return dumper.represent_str(text)
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="'")


ConfigDumper.add_representer(str, represent_text)


def describe_changes(old: Mapping[str, Any], new: Config) -> list[str]:
    """Lists the keys in which a saved config differs from the one now used, as `key: old → new`."""
    changes = []
    for key, value in walk(new):
        section, _, name = key.partition(".")
        before = old.get(section, {}).get(name)
        if before != value:
            changes.append(f"{key}: {before!r} → {value!r}")
    return changes
