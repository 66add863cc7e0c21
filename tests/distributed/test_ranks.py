"""The promises of a step on W ranks, kept by real processes over gloo."""

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from data_prep.dataset import from_arrays
from data_prep.shard_set import write_shard_set
from helpers import rank_work
from helpers.ranks import run_ranks
from helpers.reference import counts_of_draws, largest_difference, reference_run
from helpers.run_configs import ADAMW, assert_identical, build_config, saved_state
from helpers.shard_sets import ShardSet
from matl_scale.data.images.array_images import ArrayImages
from matl_scale.data.loading.loader import DataConfig
from matl_scale.metrics.names import METRICS
from matl_scale.metrics.task_metrics import TaskMetrics
from matl_scale.models.backbones import ModelConfig
from matl_scale.models.routing_config import RoutingConfig
from matl_scale.runs.layout import RunFolder
from matl_scale.runs.predictions import Predictions, read_predictions
from matl_scale.tasks import Task
from matl_scale.tracking.recorder import TrackConfig
from matl_scale.train.config import Config, RunConfig
from matl_scale.train.evaluation import EvalConfig
from matl_scale.train.schedule import CheckpointConfig
from matl_scale.train.step.sampling import TasksConfig
from matl_scale.train.step.train_step import TrainConfig

NUM_SLOTS = 4


@pytest.fixture(scope="module")
def variants(tmp_path_factory: pytest.TempPathFactory, small_set: ShardSet) -> dict[str, Config]:
    """Runs that differ in optimizer, statistics, policy and execution; the reference is masked in all of them."""
    folder = tmp_path_factory.mktemp("variants")
    return {
        "sgd": build_config(folder, small_set, "sgd", train=TrainConfig(steps=12, precision="fp32", clip_norm=1.0)),
        "adamw": build_config(folder, small_set, "adamw", optim=ADAMW),
        "shared": build_config(
            folder, small_set, "shared", routing=RoutingConfig(sigma=0.5, statistics="shared"), tasks=TasksConfig()
        ),
        "masked": build_config(
            folder,
            small_set,
            "masked",
            routing=RoutingConfig(sigma=0.5, execution="masked"),
            train=TrainConfig(steps=4, precision="fp32"),
        ),
    }


@pytest.fixture(scope="module")
def references(variants: dict[str, Config], small_set: ShardSet) -> dict[str, Any]:
    return {name: reference_run(config, small_set, NUM_SLOTS) for name, config in variants.items()}


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_ranks_equal_one_process_that_runs_the_slots_one_after_the_other(
    world_size: int, variants: dict[str, Config], references: dict[str, Any], tmp_path: Path
) -> None:
    """Trunk, heads, statistics and draws; W × accumulate is the same, so one reference serves all world sizes."""
    configs = []
    for name, config in variants.items():
        train = replace(config.train, accumulate=NUM_SLOTS // world_size)
        configs.append(replace(config, run=RunConfig(name=name, dir=str(tmp_path), seed=3), train=train))
    run_ranks(world_size, rank_work.train_runs, tmp_path / "ranks", configs)
    for (name, config), used in zip(variants.items(), configs, strict=True):
        state = saved_state(used)
        gap, tensor = largest_difference(state["model"], references[name])
        assert gap < 1e-9, (name, tensor, gap)
        assert state["draws"].tolist() == counts_of_draws(config, NUM_SLOTS, 6).tolist()


def test_float32_ranks_agree_to_rounding(variants: dict[str, Config], small_set: ShardSet, tmp_path: Path) -> None:
    config = replace(variants["sgd"], run=RunConfig(name="single", dir=str(tmp_path), seed=3))
    # the rare task's batches have three samples, and batch norms over three blow rounding up from step to step
    config = replace(config, train=replace(config.train, accumulate=2, steps=4))
    run_ranks(2, rank_work.train_runs, tmp_path / "ranks", [config], False)
    reference = reference_run(config, small_set, NUM_SLOTS, torch.float32)
    gap, tensor = largest_difference(saved_state(config)["model"], reference)
    assert gap < 1e-4, (tensor, gap)


def test_the_rare_task_was_drawn(variants: dict[str, Config], small_set: ShardSet) -> None:
    """Guards the tests above: they would prove less without its batches of three."""
    assert counts_of_draws(variants["sgd"], NUM_SLOTS, 6)[5] > 3
    assert (small_set.manifest.labels()[small_set.manifest.sample_ids("train"), 5] >= 0).sum() == 3


def test_batches_without_labels_stop_no_rank(small_set: ShardSet, tmp_path: Path) -> None:
    data = DataConfig(path=str(small_set.root), batch_size=4, workers=0, reading="stream", stream_buffer=8)
    config = build_config(tmp_path, small_set, "stream", data=data)
    run_ranks(2, rank_work.train_runs, tmp_path / "ranks", [config])
    records = [json.loads(line) for line in (RunFolder(config.run.folder).metrics_file).read_text().splitlines()]
    shares = [record["train/labelled_share"] for record in records if "train/labelled_share" in record]
    assert len(shares) == config.train.steps
    assert min(shares) < 0.5  # of 60 samples three carry the rare task's label
    assert saved_state(config)["step"] == config.train.steps


@pytest.fixture(scope="module")
def stepwise(tmp_path_factory: pytest.TempPathFactory, small_set: ShardSet) -> Config:
    """A run on two ranks with a checkpoint after every step."""
    folder = tmp_path_factory.mktemp("stepwise")
    checkpoint = CheckpointConfig(every=1, keep=100)
    config = build_config(folder, small_set, "stepwise", optim=ADAMW, checkpoint=checkpoint)
    run_ranks(2, rank_work.train_runs, folder / "ranks", [config])
    return config


def test_a_head_that_nobody_ran_is_bit_identical(stepwise: Config) -> None:
    folders = sorted((stepwise.run.folder / "checkpoints").iterdir())
    states = [torch.load(folder / "state.pt", weights_only=True) for folder in folders]
    assert len(states) == 10
    idle = moved = 0
    for before, after in itertools.pairwise(states):
        drawn = np.flatnonzero((after["draws"] - before["draws"]).numpy())
        for task in range(6):
            pairs = [
                (before["model"][f"heads.{task}.{kind}"], after["model"][f"heads.{task}.{kind}"])
                for kind in ("weight", "bias")
            ]
            same = all(torch.equal(old, new) for old, new in pairs)
            if task not in drawn:
                assert same, task
                idle += 1
            moved += not same
    assert idle > 20
    assert moved > 5


def test_evaluation_counts_each_sample_once_on_any_number_of_ranks(
    stepwise: Config, small_set: ShardSet, tmp_path: Path
) -> None:
    results, predictions = {}, {}
    for world_size in (1, 2, 3):
        kept = tmp_path / f"predictions-{world_size}"
        kept.mkdir()
        found = run_ranks(world_size, rank_work.evaluate_run, tmp_path / str(world_size), stepwise, "val", 7, kept)
        predictions[world_size] = read_predictions(RunFolder(kept).predictions_file("val"))
        for other in found[1:]:  # every rank knows all
            np.testing.assert_array_equal(found[0].counts, other.counts)
        results[world_size] = found[0]
    labels = small_set.manifest.labels()[small_set.manifest.sample_ids("val")]
    assert results[1].counts.tolist() == (labels >= 0).sum(axis=0).tolist()
    for world_size in (2, 3):
        np.testing.assert_array_equal(results[world_size].counts, results[1].counts)
        for name in METRICS:
            equal = np.testing.assert_allclose if name == "loss" else np.testing.assert_array_equal
            equal(results[world_size].values[name], results[1].values[name])
        for name in ("samples", "labels", "predicted", "confidences"):
            np.testing.assert_array_equal(getattr(predictions[world_size], name), getattr(predictions[1], name))
    assert_fits(predictions[1], results[1], labels)


def assert_fits(predictions: Predictions, metrics: TaskMetrics, labels: np.ndarray) -> None:
    """Compares what every sample was answered with the split's labels and the metrics that were counted."""
    np.testing.assert_array_equal(predictions.labels, labels)
    seen = labels >= 0
    np.testing.assert_array_equal(predictions.predicted >= 0, seen)
    np.testing.assert_array_equal(np.isnan(predictions.confidences), ~seen)
    right = ((predictions.predicted == labels) & seen).sum(axis=0) / seen.sum(axis=0)
    np.testing.assert_allclose(right, metrics.values["accuracy"])
    lowest = np.array([1 / task.num_classes for task in predictions.info.tasks])
    assert (np.nan_to_num(predictions.confidences, nan=1.0) > lowest - 0.001).all()  # float16


@pytest.mark.parametrize("world_size", [1, 2])
def test_interrupted_and_resumed_equals_uninterrupted(world_size: int, small_set: ShardSet, tmp_path: Path) -> None:
    """With everything that is drawn or remembered between steps: augmentation, loader processes, moments, averages."""
    sections = {
        "train": TrainConfig(steps=9, precision="fp32", accumulate=2, ema_decay=0.9, clip_norm=0.5),
        "data": DataConfig(path=str(small_set.root), batch_size=6, workers=1, augment="crop-flip"),
        "tasks": TasksConfig(),
        "optim": ADAMW,
        "checkpoint": CheckpointConfig(every=3),
        "eval": EvalConfig(every=4, batch_size=7),
    }
    whole, broken = (build_config(tmp_path, small_set, name, **sections) for name in ("whole", "broken"))
    run_ranks(world_size, rank_work.train_interrupted, tmp_path / "ranks", whole, broken, 5)
    assert_identical(saved_state(whole), saved_state(broken))
    logs = []
    for config in (whole, broken):
        lines = (config.run.folder / "metrics.jsonl").read_text().splitlines()
        logs.append([{k: v for k, v in json.loads(line).items() if k == "step" or "loss" in k} for line in lines])
        per_task = pq.read_table(config.run.folder / "per_task.parquet")
        assert sorted(set(per_task["step"].to_pylist())) == [4, 8, 9]
    assert logs[0] == logs[1]


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
    longer = replace(config, train=TrainConfig(steps=6, precision="fp32"))
    run_ranks(1, rank_work.train_runs, tmp_path / "one", [longer])
    state = saved_state(longer)
    assert (state["step"], state["slots"]) == (6, 3 * 2 + 3)
    # rounds: nine slots over six tasks
    assert sorted(state["draws"].tolist()) == [1, 1, 1, 2, 2, 2]


def test_masks_are_the_same_on_every_rank_process_and_world_size(small_set: ShardSet, tmp_path: Path) -> None:
    config = build_config(tmp_path, small_set, "masks")
    hashes = {run_ranks(w, rank_work.mask_hash, tmp_path / str(w), config)[rank] for w in (1, 2) for rank in range(w)}
    assert len(hashes) == 1


def test_bytes_for_heads_do_not_grow_with_the_number_of_tasks(tmp_path: Path) -> None:
    """312 tasks on a ResNet-18 of full width, 64-pixel images, two ranks."""
    configs = []
    for num_tasks in (10, 312):
        data = write_wide_set(tmp_path / f"set-{num_tasks}", num_tasks)
        configs.append(
            Config(
                run=RunConfig(name=f"bytes-{num_tasks}", dir=str(tmp_path)),
                data=DataConfig(path=str(data), batch_size=4, workers=0),
                train=TrainConfig(steps=2, precision="fp32"),
                eval=EvalConfig(every=0, batch_size=16),
                track=TrackConfig(mlflow=False),
            )
        )
    results = run_ranks(2, rank_work.count_reduced_bytes, tmp_path / "ranks", configs)
    few, many = results[0]
    assert few == many
    head = (512 + 1) * 2
    statistics = 4800 + 20  # mean and variance of the half of ResNet-18's 4800 units that a task keeps, and counts
    stop = 1
    assert few == 4 * (2 * (head + statistics + 3) + stop)


def write_wide_set(root: Path, num_tasks: int) -> Path:
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (24, 64, 64, 3), dtype=np.uint8)
    labels = generator.integers(0, 2, (24, num_tasks)).astype(np.int8)
    dataset = from_arrays(
        tasks=[Task(name=f"t{i}", classes=("no", "yes")) for i in range(num_tasks)],
        names=[f"{i}.png" for i in range(24)],
        labels=labels,
        splits=["train"] * 22 + ["val"] * 2,
        images=ArrayImages(root="memory", pixels=pixels),
    )
    write_shard_set(lambda _: dataset, root)
    return root


def test_more_readers_than_tars_are_refused_on_all_ranks(small_set: ShardSet, tmp_path: Path) -> None:
    data = DataConfig(path=str(small_set.root), batch_size=40, workers=9, reading="stream")
    config = build_config(tmp_path, small_set, "starved", data=data)
    messages = run_ranks(2, rank_work.error_of, tmp_path / "ranks", config)
    assert all("should have a tar for each of 2 ranks × 9 workers" in text for text in messages)
    assert not config.run.folder.exists()
