"""Runs that are stopped, or that have to stop, on real ranks over gloo."""

import csv
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from helpers import rank_work
from helpers.ranks import run_ranks, start_ranks
from helpers.run_configs import ADAMW, assert_identical, build_config, records, saved_state
from helpers.shard_sets import ShardSet
from matl_scale.data.loading.config import DataConfig
from matl_scale.models.routing_config import RoutingConfig, Setting
from matl_scale.tracking.recorder import TrackConfig
from matl_scale.train.config import with_settings
from matl_scale.train.evaluation import EvalConfig
from matl_scale.train.health.nonfinite import GuardConfig
from matl_scale.train.schedule import CheckpointConfig
from matl_scale.train.step.sampling import TasksConfig
from matl_scale.train.step.train_step import TrainConfig


@pytest.mark.parametrize(
    ("world_size", "in_evaluation", "routes"), [(1, False, "task"), (2, False, 4), (2, True, "task")]
)
def test_stopped_and_started_again_equals_uninterrupted(
    world_size: int, in_evaluation: bool, routes: Setting, small_set: ShardSet, tmp_path: Path
) -> None:
    """Weights, records and evaluations; one rank alone gets the signal."""
    sections = {
        "routing": RoutingConfig(sigma=0.5, routes=routes),
        "train": TrainConfig(steps=9, precision="fp32", accumulate=2, ema_decay=0.9, clip_norm=0.5),
        "data": DataConfig(path=str(small_set.root), batch_size=6, workers=1, augment="crop-flip"),
        "tasks": TasksConfig(),
        "optim": ADAMW,
        "checkpoint": CheckpointConfig(every=3),
        "eval": EvalConfig(every=4, batch_size=7),
        "track": TrackConfig(mlflow=False, every=3),
    }
    whole, broken = (build_config(tmp_path, small_set, name, **sections) for name in ("whole", "broken"))
    work = (rank_work.train_stopped, tmp_path / "ranks", whole, broken, 4, in_evaluation)
    steps = run_ranks(world_size, *work)
    assert steps == [[4 if in_evaluation else 5, 9]] * world_size
    assert_identical(saved_state(whole), saved_state(broken))
    assert records(whole) == records(broken)
    tables = [pq.read_table(config.run.folder / "per_task.parquet") for config in (whole, broken)]
    assert tables[0].equals(tables[1])


def test_steps_with_nan_are_skipped_on_all_ranks(small_set: ShardSet, tmp_path: Path) -> None:
    """A run with NaN in two steps equals one whose parameters were left alone in them, and goes on."""
    config = build_config(tmp_path, small_set, "nan", train=TrainConfig(steps=6, precision="fp32"), optim=ADAMW)
    config = replace(config, checkpoint=CheckpointConfig(every=1, keep=9))
    assert run_ranks(2, rank_work.with_nan, tmp_path / "ranks", config, [2, 3]) == ["", ""]
    folders = sorted((config.run.folder / "checkpoints").iterdir())
    states = [saved_state(config, folder) for folder in folders]
    for step in (3, 4):
        assert_identical(states[step - 1]["model"], states[1]["model"])
        assert_identical(states[step - 1]["optimizer"]["state"], states[1]["optimizer"]["state"])
    assert not all((states[5]["model"][name] == value).all() for name, value in states[1]["model"].items())
    assert states[5]["draws"].sum() == 12
    assert [record["train/skipped_steps"] for record in records(config) if "train/lr" in record] == [0, 0, 1, 2, 2, 2]


@pytest.mark.parametrize("share", [1, 2])
def test_nan_in_every_step_stops_the_run_with_the_samples(share: int, small_set: ShardSet, tmp_path: Path) -> None:
    guard = GuardConfig(max_nonfinite=2)
    config = build_config(tmp_path, small_set, "nan", guard=guard, checkpoint=CheckpointConfig(every=1))
    of_many = {"data.share": share, "train.accumulate": 2, "data.tasks": ["task_[0-4]"]}
    config = with_settings(config, of_many)
    errors = run_ranks(2, rank_work.with_nan, tmp_path / "ranks", config, [1, 2, 3, 4])
    assert errors[0] == errors[1]
    assert errors[0].startswith("3 steps in a row had a loss or gradient that is not finite")
    with (config.run.folder / "nonfinite.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["step"] for row in rows} == {"4"}
    suspects = {row["route"] for row in rows if row["suspect"] == "True"}
    assert len(suspects) == share, "of one slot; slots that share images share what is wrong with them"
    assert all(route in errors[0] for route in suspects)
    assert {row["rank"] for row in rows if row["loss"] == "nan"} == {"1"}
    row_of = {key: i for i, key in enumerate(small_set.manifest.samples["key"].to_pylist())}
    labels, tasks = small_set.manifest.labels(), small_set.manifest.task_names
    trained = [labels[row_of[row["key"]], tasks.index(row["route"])] >= 0 for row in rows]
    assert all(trained) if share == 1 else any(trained)  # a shared batch is listed whole
    assert saved_state(config)["step"] == 3  # the step that stopped the run was not saved


@pytest.mark.parametrize("world_size", [2, 3])
def test_a_flipped_bit_stops_the_run_before_it_is_saved(world_size: int, small_set: ShardSet, tmp_path: Path) -> None:
    config = build_config(tmp_path, small_set, "drift", checkpoint=CheckpointConfig(every=4))
    config = replace(config, guard=GuardConfig(replicas_every=3))
    errors = run_ranks(world_size, rank_work.with_flipped_bit, tmp_path / "ranks", config, 5)
    assert len(set(errors)) == 1
    assert errors[0].startswith("Replicas differ after step 6: `")
    where = "has 2 different values on 2 ranks" if world_size == 2 else "differs on rank 2 from the 2 others"
    assert where in errors[0]
    assert saved_state(config)["step"] == 4


def test_ranks_that_wait_for_one_that_is_stuck_end_with_a_message(small_set: ShardSet, tmp_path: Path) -> None:
    config = build_config(tmp_path, small_set, "stuck", guard=GuardConfig(timeout_s=15))
    messages = tmp_path / "messages"
    ranks = start_ranks(3, rank_work.train_and_freeze, tmp_path / "ranks", config, 4, str(messages))
    try:
        for rank in ranks[:2]:
            rank.join(120)
            assert rank.exitcode == 1
    finally:
        ranks[2].kill()
    text = messages.read_text()
    for rank in range(2):
        assert f"rank {rank} of 3: nothing has happened for 15 s (guard.timeout_s) in step 5 (route task_" in text
    assert "Ranks that do not respond: " in text
    assert "Ranks 2 failed to pass" in text


def test_a_run_goes_from_four_ranks_to_two_to_one_and_back(small_set: ShardSet, tmp_path: Path) -> None:
    """With as many slots per step, every loss, draw, result and weight is that of four ranks, to float64 rounding; here five
    routes serve six tasks."""
    sections = {
        "routing": RoutingConfig(sigma=0.5, routes=5),
        "tasks": TasksConfig(),
        "train": TrainConfig(steps=12, precision="fp32"),
        "optim": ADAMW,
        "checkpoint": CheckpointConfig(every=2),
    }
    whole, elastic = (build_config(tmp_path, small_set, name, **sections) for name in ("whole", "elastic"))
    run_ranks(4, rank_work.train_runs, tmp_path / "whole-ranks", [whole])
    for world_size, steps in ((4, 3), (2, 6), (1, 9), (4, 12)):
        part = replace(elastic, train=replace(elastic.train, accumulate=4 // world_size))
        work = rank_work.train_to if steps < 12 else rank_work.train_rest
        run_ranks(world_size, work, tmp_path / f"ranks-{steps}", part, steps)
        assert saved_state(elastic)["step"] == steps
    ends = [saved_state(config)["model"] for config in (elastic, whole)]
    for name, value in ends[1].items():
        torch.testing.assert_close(ends[0][name], value, rtol=0, atol=1e-9, msg=name)
    for counts in ("draws", "labels_seen"):
        assert saved_state(elastic)[counts].tolist() == saved_state(whole)[counts].tolist()
    for ours, theirs in zip(records(elastic), records(whole), strict=True):
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():
            assert ours[name] == pytest.approx(value, rel=1e-9), name
