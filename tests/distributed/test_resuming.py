"""A run on ranks that was interrupted goes on as if nothing had happened: to the last bit on as many ranks, and on others too."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from helpers import rank_work
from helpers.ranks import run_ranks
from helpers.run_configs import ADAMW, assert_identical, build_config, saved_state
from helpers.shard_sets import ShardSet
from helpers.tiny_transformers import tiny_timm_config
from matl_scale.data.loading.config import DataConfig
from matl_scale.models.config import ModelConfig
from matl_scale.models.routing_config import RoutingConfig
from matl_scale.runs.layout import RunFolder
from matl_scale.train.evaluation import EvalConfig
from matl_scale.train.schedule import CheckpointConfig
from matl_scale.train.step.sampling import TasksConfig
from matl_scale.train.step.train_step import TrainConfig

AUGMENT = ["resized-crop", "flip", "jitter", "randaugment", "erase"]


@pytest.mark.parametrize(
    ("world_size", "routing", "stop_at"),
    [
        (1, {"routes": "task"}, 5),
        (2, {"routes": 2, "affine": "route"}, 5),  # with shared images
        (2, {"routes": 4, "strategy": "roaming", "interval": 2}, 5),
        (2, {"routes": 4, "strategy": "roaming", "interval": 2, "statistics": "step"}, 5),
        (2, {"routes": 4, "strategy": "magnitude", "dense_share": 0.5}, 4),  # in the dense part
        (1, {"routes": 4, "strategy": "magnitude", "dense_share": 0.5, "affine": "route"}, 7),  # after it
        (1, {"routes": 4, "start": "blocks.1", "strategy": "magnitude", "dense_share": 0.5}, 7),  # of a transformer
    ],
)
def test_interrupted_and_resumed_equals_uninterrupted(
    world_size: int, routing: dict[str, Any], stop_at: int, small_set: ShardSet, tmp_path: Path
) -> None:
    """With everything that is drawn or remembered between steps: augmentation, loader processes, moments, averages."""
    sections = {
        "routing": RoutingConfig(sigma=0.5, **routing),
        "train": TrainConfig(steps=9, precision="fp32", accumulate=2, ema_decay=0.9, clip_norm=0.5, patience=9),
        "data": DataConfig(
            path=str(small_set.root),
            batch_size=6,
            workers=1,
            augment=AUGMENT,
            mixup=0.5,
            cutmix=1,
            share=2 if routing["routes"] == 2 else 1,
        ),
        "tasks": TasksConfig(),
        "optim": ADAMW,
        "checkpoint": CheckpointConfig(every=3),
        "eval": EvalConfig(every=4, batch_size=7),
    }
    if "start" in routing:
        sections["model"] = tiny_timm_config("registers", drop_path=0.2)
    whole, broken = (build_config(tmp_path, small_set, name, **sections) for name in ("whole", "broken"))
    run_ranks(world_size, rank_work.train_interrupted, tmp_path / "ranks", whole, broken, stop_at)
    assert_identical(saved_state(whole), saved_state(broken))
    archives = [dict(np.load(RunFolder(config.run.folder).masks_file)) for config in (whole, broken)]
    np.testing.assert_equal(*archives)
    assert ("moves.steps" in archives[0]) == ("interval" in routing)
    logs = []
    for config in (whole, broken):
        lines = (config.run.folder / "metrics.jsonl").read_text().splitlines()
        logs.append([{k: v for k, v in json.loads(line).items() if k == "step" or "loss" in k} for line in lines])
        per_task = pq.read_table(config.run.folder / "per_task.parquet")
        assert sorted(set(per_task["step"].to_pylist())) == [4, 8, 9]
    assert logs[0] == logs[1]


def test_ranks_agree_on_the_length_of_a_timed_run_whatever_their_clocks_say(
    small_set: ShardSet, tmp_path: Path
) -> None:
    config = build_config(
        tmp_path,
        small_set,
        "timed",
        train=TrainConfig(minutes=0.5, precision="fp32"),
        checkpoint=CheckpointConfig(every=5),
    )
    config = replace(config, eval=replace(config.eval, every="auto"))
    steps = run_ranks(2, rank_work.train_by_clocks, tmp_path / "ranks", config, 17)
    assert steps == [30, 30]
    assert len(set(pq.read_table(config.run.folder / "per_task.parquet")["step"].to_pylist())) == 5


def test_random_layers_are_resumed_too(small_set: ShardSet, tmp_path: Path) -> None:
    sections = {
        "model": ModelConfig(name="efficientnet_b0", width=0.5),  # stochastic depth
        "routing": RoutingConfig(sigma=0.75),
        "train": TrainConfig(steps=3, precision="fp32"),
        "checkpoint": CheckpointConfig(every=1),
    }
    whole, broken = (build_config(tmp_path, small_set, name, **sections) for name in ("whole", "broken"))
    run_ranks(1, rank_work.train_interrupted, tmp_path / "ranks", whole, broken, 2)
    assert_identical(saved_state(whole), saved_state(broken))


def test_a_run_may_go_on_with_other_ranks(small_set: ShardSet, tmp_path: Path) -> None:
    """Batches and tasks go on from the number of slots done; no slot is run twice."""
    config = build_config(
        tmp_path, small_set, "elastic", tasks=TasksConfig(), train=TrainConfig(steps=3, precision="fp32")
    )
    run_ranks(2, rank_work.train_runs, tmp_path / "two", [config])
    longer = replace(config, train=replace(config.train, steps=6))
    run_ranks(1, rank_work.train_runs, tmp_path / "one", [longer])
    state = saved_state(longer)
    assert (state["step"], state["slots"]) == (6, 3 * 2 + 3)
    # rounds: nine slots over six tasks
    assert sorted(state["draws"].tolist()) == [1, 1, 1, 2, 2, 2]
