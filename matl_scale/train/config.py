"""The whole configuration: one typed section per part of the program, and its way into and out of a run folder.

Each section is a frozen dataclass beside the code that it configures. `build_*` functions hand its values on as plain
arguments; beside them, only what checks, compares or describes whole configs sees a `Config`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from matl_scale.data.loading.config import DataConfig
from matl_scale.decisions.config import DecideConfig
from matl_scale.errors import InputError
from matl_scale.models.config import ModelConfig
from matl_scale.models.network import MEAN, STD
from matl_scale.models.routing_config import RoutingConfig, Setting
from matl_scale.tracking.recorder import TrackConfig
from matl_scale.train.evaluation import EvalConfig
from matl_scale.train.health.nonfinite import GuardConfig
from matl_scale.train.losses.config import LossConfig
from matl_scale.train.schedule import CheckpointConfig
from matl_scale.train.step.optim import OptimConfig
from matl_scale.train.step.sampling import TasksConfig
from matl_scale.train.step.train_step import TrainConfig


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Name and folder of the run, and what it starts from."""

    name: str = "run"
    """Name of the run; its folder is run.dir/run.name."""
    dir: str = "runs"
    """Folder of all runs, and of MLflow's default store."""
    seed: int = 0
    """Seed of masks, weights, task sampling, data order and augmentation."""
    resume: Literal["auto", "never"] | str = "auto"
    """`auto` resumes from the newest checkpoint of this run if there is one, `never` refuses a folder that has one, a
    path names a checkpoint (a folder step-…) to resume from."""

    start_from: str = ""
    """A run's folder, or one of its checkpoints (step-…), whose network a new run starts with: tasks that it has keep routes,
    heads and statistics, new tasks join a route or get their own (`routing.routes`). To resume a run itself, see `resume`."""
    freeze: Literal["nothing", "old"] = "nothing"
    """`old`: everything that tasks of `start_from` use stays as it is to the last bit, and only new tasks are trained. (To freeze
    modules of the trunk, see `model.freeze`.)"""

    def __post_init__(self) -> None:
        if not self.name or self.name in (".", "..") or set(self.name) & set("/\\\0"):
            raise InputError(f"`run.name` should be a plain folder name. Got {self.name!r}.")
        if self.freeze == "old" and not self.start_from:
            raise InputError("`run.freeze` = old should come with `run.start_from`: a new network has no old tasks.")

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
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    decide: DecideConfig = field(default_factory=DecideConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    guard: GuardConfig = field(default_factory=GuardConfig)
    track: TrackConfig = field(default_factory=TrackConfig)

    def __post_init__(self) -> None:
        reasons = {"roaming": "changes the units of every route", "magnitude": "trains the whole trunk for all routes"}
        strategy = self.routing.strategy
        for key, value, unset in (("run.freeze", self.run.freeze, "nothing"), ("model.freeze", self.model.freeze, [])):
            if strategy in reasons and value != unset:
                raise InputError(
                    f"`{key}` should be {unset} with `routing.strategy` = {strategy}, which {reasons[strategy]}. Got {value!r}."
                )
        self._check_head_warmup()
        self._check_patience()
        if self.model.layers and not self.model.is_features:
            raise InputError(
                f"`model.hidden` should come with `model.name` = features. Got {self.model.layers} for {self.model.name}."
            )

    def _check_patience(self) -> None:
        patience, needed = self.train.patience, ""
        if patience and self.eval.every == 0:
            needed = "evaluations: set `eval.every`, which is 0 (at the end alone)"
        elif patience and not self.checkpoint.best:
            needed = "a summary that tells whether they improve: set `checkpoint.best`, which is empty"
        if needed:
            raise InputError(f"`train.patience` = {patience} needs {needed}; or set it to 0.")

    def _check_head_warmup(self) -> None:
        warmup, dense = self.optim.head_warmup, self.routing.dense_part
        if warmup and self.routing.strategy == "roaming":
            raise InputError(
                "`optim.head_warmup` should be 0 with `routing.strategy` = roaming, which gives routes other units from the "
                f"beginning. Got {warmup:g}."
            )
        if dense and warmup > dense / 2:
            raise InputError(
                f"`optim.head_warmup` should be at most half of the dense part of `routing.strategy` = magnitude, {dense / 2:g}: "
                f"in the other half it is measured how much units matter, which needs a trunk that is trained. Got {warmup:g}."
            )

    @property
    def yardstick(self) -> tuple[object, ...]:
        """What evaluations choose the best network by. Scores of a run that went on with another one do not compare."""
        best = self.checkpoint.best
        aim = self.decide.aim if "decided" in best else None
        return self.eval.split, best, self.eval.min_count, aim, self.data.version

    def without_weights(self) -> "Config":
        """Returns the config of a network whose weights come from elsewhere, or do not matter."""
        return replace(self, model=self.model.without_weights())


# what older versions did, which had no such key
OF_OLDER_VERSIONS: dict[str, dict[str, Any]] = {
    "routing": {"routes": "task", "start": ""},
    "model": {"mean": list(MEAN), "std": list(STD), "weights_sha256": "", "args": {}},
}


def all_sections() -> list[str]:
    return [section.name for section in fields(Config)]


def all_keys() -> list[str]:
    """Returns every valid key, as `section.key`."""
    return [key for key, _ in walk(Config())]


def walk(config: Config) -> Iterator[tuple[str, Any]]:
    """Yields every key, as `section.key`, with its value."""
    for section in fields(config):
        values = getattr(config, section.name)
        assert is_dataclass(values)
        for entry in fields(values):
            yield f"{section.name}.{entry.name}", getattr(values, entry.name)


def with_settings(config: Config, settings: Mapping[str, Any]) -> Config:
    """Returns the config with other values of some keys, given as `section.key`; raises `InputError` if these do not go
    together."""
    sections: dict[str, dict[str, Any]] = {}
    for key, value in settings.items():
        section, _, name = key.partition(".")
        sections.setdefault(section, {})[name] = value
    changed = {section: replace(getattr(config, section), **values) for section, values in sections.items()}
    return replace(config, **changed)


def read_saved(sections: Mapping[str, Mapping[str, Any]]) -> Config:
    """Returns the config that a run or a checkpoint keeps as plain sections.

    Keys that it does not have, because an older version wrote it, get their defaults; keys that only a later version knows
    are ignored.
    """
    sections = {name: {**OF_OLDER_VERSIONS.get(name, {}), **values} for name, values in sections.items()}
    if sections.get("run", {}).get("freeze") == "trunk":  # what is now `model.freeze` = *
        frozen: dict[str, Any] = {"run": {"freeze": "nothing"}, "model": {"freeze": ["*"]}}
        sections |= {name: sections[name] | values for name, values in frozen.items()}
    loaded = {}
    for section in fields(Config):
        kind = type(getattr(Config(), section.name))
        names = {entry.name for entry in fields(kind)}
        values = {name: value for name, value in sections.get(section.name, {}).items() if name in names}
        loaded[section.name] = kind(**values)
    return Config(**loaded)


def with_absolute_paths(config: Config) -> Config:
    """Returns the config with local paths made absolute, so that a run's folder can be used from anywhere."""
    data, run, routing, model = config.data, config.run, config.routing, config.model
    resume = run.resume if run.resume in ("auto", "never") else absolute(run.resume)
    return replace(
        config,
        data=replace(data, path=absolute(data.path)),
        routing=replace(routing, routes=absolute_routes(routing.routes)),
        model=replace(model, weights=absolute(model.weights) if model.weights else ""),
        run=replace(run, resume=resume, start_from=absolute(run.start_from) if run.start_from else ""),
    )


def absolute_routes(setting: Setting) -> Setting:
    """Returns `routing.routes` with the path of a routes.parquet made absolute."""
    is_path = isinstance(setting, str) and setting not in ("auto", "task", "one")
    return absolute(str(setting)) if is_path else setting


def absolute(path: str) -> str:
    """Returns a path made absolute; URLs stay as they are."""
    return path if "://" in path else str(Path(path).absolute())


def dump_config(config: Config) -> str:
    """Returns the config as YAML that `--config` reads back."""
    text: str = yaml.dump(asdict(config), Dumper=ConfigDumper, sort_keys=False, allow_unicode=True)
    return text


class ConfigDumper(yaml.SafeDumper):
    """Quotes strings like 1e3, which YAML 1.1 takes for text and jsonargparse's reader for a number."""


def represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    try:
        float(text)
    except ValueError:
        return dumper.represent_str(text)
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="'")


ConfigDumper.add_representer(str, represent_text)


def describe_changes(old: Config, new: Config) -> list[str]:
    """Lists the keys in which a saved config differs from the one now used, as `key: old → new`."""
    before = dict(walk(with_absolute_paths(old)))
    return [
        f"{key}: {before[key]!r} → {value!r}" for key, value in walk(with_absolute_paths(new)) if before[key] != value
    ]
