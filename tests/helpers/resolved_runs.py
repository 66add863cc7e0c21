"""Runs whose choices are made, and which are not started."""

from pathlib import Path

from helpers.shard_sets import ShardSet
from matl_scale.data.loading.config import DataConfig
from matl_scale.train.config import Config, with_settings
from matl_scale.train.defaults.facts import Machine
from matl_scale.train.resolve import ResolvedRun, resolve_run
from matl_scale.train.run_data import build_run_data

LAPTOP = Machine(num_ranks=1, cores=2, threads=2, has_gpu=False, memory=2**34)


def resolved(config: Config, machine: Machine = LAPTOP) -> ResolvedRun:
    return resolve_run(config, build_run_data(with_settings(config, {"data.workers": 0}).data), machine, None, None)


def config_of(shards: ShardSet | Path, **values: object) -> Config:
    config = Config(data=DataConfig(path=str(shards.root if isinstance(shards, ShardSet) else shards)))
    return with_settings(config, {key.replace("__", "."): value for key, value in values.items()})
