"""Small runs for distributed tests, and what they leave behind."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from helpers.shard_sets import ShardSet
from matl_scale.automatic import AUTO
from matl_scale.data.loading.config import DataConfig
from matl_scale.models.config import ModelConfig
from matl_scale.models.network import MEAN, STD
from matl_scale.models.routing_config import RoutingConfig
from matl_scale.tracking.recorder import TrackConfig
from matl_scale.train.config import Config, RunConfig
from matl_scale.train.defaults.fill import fill_only_auto
from matl_scale.train.evaluation import EvalConfig
from matl_scale.train.schedule import CheckpointConfig
from matl_scale.train.step.optim import OptimConfig
from matl_scale.train.step.sampling import TasksConfig
from matl_scale.train.step.train_step import TrainConfig

# what these runs have where a test leaves a value open: no choice by rules, which would change what is compared
PLAIN = {
    "model.args": {},
    "data.augment": "none", "data.image_size": 0, "data.workers": 0, "data.batch_size": 6, "model.name": "resnet18",
    "model.width": 0.0625, "model.stem": "small", "model.mean": list(MEAN), "model.std": list(STD),
    "model.weights_sha256": "", "routing.sigma": 0.5, "routing.start": "", "routing.statistics": "route",
    "train.steps": 10, "train.accumulate": 1,
    "train.ema_decay": 0.0, "optim.lr": 0.001, "optim.head_lr_scale": 1.0, "optim.warmup_steps": 0, "eval.every": 500,
    "checkpoint.every": 500,
}  # fmt: skip
SGD = OptimConfig(name="sgd", lr=0.05, momentum=0.9, weight_decay=0.01, warmup_steps=2)
ADAMW = OptimConfig(name="adamw", lr=0.01, weight_decay=0.1, head_lr_scale=3)


def build_config(folder: Path, shards: ShardSet, name: str, **sections: Any) -> Config:
    config = Config(
        run=RunConfig(name=name, dir=str(folder), seed=3),
        data=DataConfig(path=str(shards.root), batch_size=6, workers=0),
        model=ModelConfig(name="resnet18", width=0.0625, stem="small"),
        routing=RoutingConfig(sigma=0.5),
        # independent draws: tasks repeat within a step, and the rare one often has no label in its batch
        tasks=TasksConfig(policy="uniform"),
        train=TrainConfig(steps=10, precision="fp32"),
        optim=SGD,
        eval=EvalConfig(every=0, batch_size=7),
        checkpoint=CheckpointConfig(every=100),
        track=TrackConfig(mlflow=False, every=1),
    )
    return plain(replace(config, **sections))


def plain(config: Config) -> Config:
    """Returns a config without a value that is left to be chosen, but for its length where that is not one of steps."""
    has_other_length = config.train.minutes or config.train.epochs != AUTO
    return fill_only_auto(config, {key: PLAIN[key] for key in PLAIN if key != "train.steps" or not has_other_length})


def saved_state(config: Config, folder: Path | None = None) -> dict[str, Any]:
    """Loads the newest checkpoint of a run, or the given one, without what a clock measured."""
    folder = folder or sorted((config.run.folder / "checkpoints").glob("step-*"))[-1]
    return load_state(folder)


def load_state(folder: Path) -> dict[str, Any]:
    """Loads the state in a checkpoint's folder, without what a clock measured."""
    state = torch.load(folder / "state.pt", weights_only=True)
    state.pop("seconds", None)  # the best network has none
    return state  # type: ignore[no-any-return]


def assert_identical(left: Any, right: Any, context: str = "") -> None:
    """Compares nested states bit for bit."""
    assert type(left) is type(right), context
    if isinstance(left, dict):
        assert left.keys() == right.keys(), context
        for key in left:
            assert_identical(left[key], right[key], f"{context}/{key}")
    elif isinstance(left, list):
        assert len(left) == len(right)
        for i, (a, b) in enumerate(zip(left, right, strict=True)):
            assert_identical(a, b, f"{context}/{i}")
    elif isinstance(left, torch.Tensor):
        assert torch.equal(left, right), context
    else:
        assert left == right, context


TIMES = ("time", "train/images_per_s", "train/labels_per_s", "train/step_s", "train/data_wait_share", "train/memory_gb")


def records(config: Config) -> list[dict[str, Any]]:
    """Returns a run's records, without what a clock or the system measured."""
    lines = (config.run.folder / "metrics.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key not in TIMES} for line in lines]
