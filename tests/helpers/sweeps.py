"""Small sweeps for tests, as the command line describes them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from helpers.run_configs import build_config
from helpers.shard_sets import ShardSet
from matl_scale.sweep.arms import read_arms
from matl_scale.sweep.budget import read_budget
from matl_scale.sweep.draft import SweepRequest
from matl_scale.sweep.vary import read_varied
from matl_scale.train.config import Config
from matl_scale.train.step.sampling import TasksConfig
from matl_scale.train.step.train_step import TrainConfig


def sweep_config(folder: Path, shards: ShardSet, steps: int = 32, **sections: Any) -> Config:
    """Returns the config of tiny runs: with batches of 12, five steps are a pass over the 60 images of a small set."""
    config = build_config(
        folder, shards, "ignored", tasks=TasksConfig(), train=TrainConfig(steps=steps, precision="fp32", accumulate=1)
    )
    return replace(config, data=replace(config.data, batch_size=12), **sections)


def build_request(
    config: Config,
    arms: str,
    seeds: Sequence[int] = (0,),
    budget: str = "compute",
    vary: Sequence[str] = (),
    **others: Any,
) -> SweepRequest:
    """Returns a sweep as the command line says it."""
    return SweepRequest(
        config=config,
        arms=read_arms(arms.split(","), [], "test"),
        seeds=seeds,
        budget=read_budget(budget),
        varied=read_varied(vary, [], "test"),
        **others,
    )
