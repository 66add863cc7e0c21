"""The promises of a step on W ranks, kept by real processes over gloo."""

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data_prep.dataset import from_arrays
from data_prep.shard_set import write_shard_set
from helpers import rank_work
from helpers.ranks import run_ranks
from helpers.reference import Reference, is_statistic, largest_difference, reference_run
from helpers.run_configs import ADAMW, build_config, saved_state
from helpers.shard_sets import ShardSet
from helpers.tiny_transformers import tiny_timm_config
from matl_scale.data.images.array_images import ArrayImages
from matl_scale.data.loading.config import DataConfig
from matl_scale.metrics.names import COUNTED_METRICS
from matl_scale.metrics.task_metrics import TaskMetrics
from matl_scale.models.config import ModelConfig
from matl_scale.models.routing_config import RoutingConfig, Setting
from matl_scale.routing.masks import Strategy
from matl_scale.runs.checkpoints.checkpoint import open_checkpoint, read_info
from matl_scale.runs.layout import RunFolder
from matl_scale.runs.predictions import Predictions, read_predictions
from matl_scale.tasks import Task
from matl_scale.tracking.recorder import TrackConfig
from matl_scale.train.config import Config, RunConfig
from matl_scale.train.evaluation import EvalConfig
from matl_scale.train.losses.config import LossConfig
from matl_scale.train.schedule import CheckpointConfig
from matl_scale.train.step.sampling import RouteSampler, TasksConfig
from matl_scale.train.step.train_step import TrainConfig

NUM_SLOTS = 4


FEW_STEPS = TrainConfig(steps=4, precision="fp32")
BY_NAME: dict[str, list[str] | str] = {
    "mixed": ["task_0", "task_[45]"],
    "binary": ["task_1", "task_3"],
    "three": "task_2",
}
# with several tasks per route; the labels are those of the sparse set. `data` has keys of that section
SHARED_ROUTES: dict[str, dict[str, Any]] = {
    "by name": {"routing": RoutingConfig(sigma=0.5, routes=BY_NAME), "train": TrainConfig(steps=6, precision="fp32")},
    "by affinity": {
        "routing": RoutingConfig(sigma=0.5, routes=2),
        "optim": ADAMW,
        "tasks": TasksConfig(),
        "train": TrainConfig(steps=6, precision="fp32"),
    },
    "from layer3": {"routing": RoutingConfig(sigma=0.5, routes=2, start="layer3"), "optim": ADAMW, "train": FEW_STEPS},
    "affine": {
        "routing": RoutingConfig(sigma=0.5, sigma_last=0.25, routes=3, start="layer2", affine="route"),
        "optim": ADAMW,
        "train": replace(FEW_STEPS, clip_norm=1.0),
    },
    "roaming": {
        "routing": RoutingConfig(sigma=0.5, routes=2, strategy="roaming", interval=2),
        "optim": ADAMW,
        "tasks": TasksConfig(),
        "train": TrainConfig(steps=6, precision="fp32"),
    },
    "transformer": {
        "model": tiny_timm_config("registers"),
        "routing": RoutingConfig(sigma=0.5, routes=2, strategy="roaming", interval=2),
        "optim": ADAMW,
        "tasks": TasksConfig(),
        "train": FEW_STEPS,
    },
    "step": {
        "routing": RoutingConfig(sigma=0.5, routes=3, start="layer2", statistics="step"),
        "optim": ADAMW,
        "train": replace(FEW_STEPS, clip_norm=1.0),
    },
    "one": {"routing": RoutingConfig(sigma=1.0, routes="one"), "train": replace(FEW_STEPS, clip_norm=1.0)},
    "losses": {
        "routing": RoutingConfig(sigma=0.5, routes=BY_NAME),
        "loss": LossConfig(
            name={"task_[03]": "asymmetric", "task_1": "focal", "task_[24]": "logit_adjusted"},
            class_weight={"*": "inverse", "task_0": "none", "task_2": {"class_1": 4.0}},
            label_smoothing=0.1,
            task_weight={"task_4": 0.5},
        ),
        "train": FEW_STEPS,
    },
    "filled": {
        "routing": RoutingConfig(sigma=0.5, routes=BY_NAME),
        "loss": LossConfig(class_weight="sqrt"),
        "data": {"missing": {"task_[0135]": "negative", "task_4": "soft"}},
        "train": FEW_STEPS,
    },
    "shared images": {
        "routing": RoutingConfig(sigma=0.5, routes=2),
        "tasks": TasksConfig(),
        "data": {"share": 2},
        "train": TrainConfig(steps=6, precision="fp32"),
    },
}


FOUR_RANKS = (
    "sgd",
    "shared",
    "magnitude",
    "by affinity",
    "affine",
    "roaming",
    "losses",
    "step",
)  # the others run on one and two


@pytest.fixture(scope="module")
def variants(
    tmp_path_factory: pytest.TempPathFactory, small_set: ShardSet, sparse_set: ShardSet
) -> dict[str, tuple[Config, ShardSet]]:
    """Runs that differ in routes, labels, optimizer, statistics, policy and execution, each with its shard set; the reference
    is masked in all of them."""
    folder = tmp_path_factory.mktemp("variants")
    alone = {
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
            train=FEW_STEPS,
        ),
    }
    magnitude = RoutingConfig(sigma=0.5, strategy="magnitude", dense_share=0.5)
    alone["magnitude"] = build_config(
        folder, small_set, "magnitude", routing=magnitude, tasks=TasksConfig(), optim=ADAMW,
        train=TrainConfig(steps=8, precision="fp32"),
    )  # fmt: skip
    alone["magnitude, affine"] = build_config(
        folder, small_set, "magnitude, affine", routing=replace(magnitude, routes=2, affine="route"), tasks=TasksConfig(),
        train=FEW_STEPS,
    )  # fmt: skip
    shared = {}
    for name, sections in SHARED_ROUTES.items():
        config = build_config(folder, sparse_set, name, **{key: sections[key] for key in sections if key != "data"})
        shared[name] = replace(config, data=replace(config.data, **sections.get("data", {})))
    return {name: (config, small_set) for name, config in alone.items()} | {
        name: (config, sparse_set) for name, config in shared.items()
    }


@pytest.fixture(scope="module")
def references(variants: dict[str, tuple[Config, ShardSet]]) -> dict[str, Reference]:
    return {name: reference_run(config, data, NUM_SLOTS) for name, (config, data) in variants.items()}


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_ranks_equal_one_process_that_runs_the_slots_one_after_the_other(
    world_size: int, variants: dict[str, tuple[Config, ShardSet]], references: dict[str, Reference], tmp_path: Path
) -> None:
    """Trunk, heads, statistics, draws and labels; W × accumulate is the same, so one reference serves all world sizes."""
    configs = []
    expectations = {}
    for name, (config, _) in variants.items():
        if config.data.share > NUM_SLOTS // world_size or (world_size == 4 and name not in FOUR_RANKS):
            continue
        expectations[name] = references[name]
        train = replace(config.train, accumulate=NUM_SLOTS // world_size)
        configs.append(replace(config, run=RunConfig(name=name, dir=str(tmp_path), seed=3), train=train))
    run_ranks(world_size, rank_work.train_runs, tmp_path / "ranks", configs)
    for (name, expected), used in zip(expectations.items(), configs, strict=True):
        state = saved_state(used)
        gap, tensor = largest_difference(state["model"], expected.model)
        # the rare task's batches hold all of its samples, whose frequencies its bias starts with: its gradient is of rounding
        # alone, which Adam divides by its own size
        assert gap < (1e-8 if used.optim.name == "adamw" else 1e-9), (name, tensor, gap)
        assert state["draws"].tolist() == expected.draws, name
        assert state["labels_seen"].tolist() == expected.labels_seen, name


def test_float32_ranks_agree_to_rounding(variants: dict[str, tuple[Config, ShardSet]], tmp_path: Path) -> None:
    config, data = variants["sgd"]
    config = replace(config, run=RunConfig(name="single", dir=str(tmp_path), seed=3))
    # the rare task's batches have three samples, and batch norms over three blow rounding up from step to step
    config = replace(config, train=replace(config.train, accumulate=2, steps=4))
    run_ranks(2, rank_work.train_runs, tmp_path / "ranks", [config], False)
    reference = reference_run(config, data, NUM_SLOTS, torch.float32)
    gap, tensor = largest_difference(saved_state(config)["model"], reference.model)
    assert gap < 1e-4, (tensor, gap)


def test_parts_that_rest_give_the_statistics_of_a_step_on_any_number_of_ranks(
    small_set: ShardSet, tmp_path: Path
) -> None:
    """Heads first, then all but what is frozen; norms gather the statistics that they lack meanwhile."""
    states = {}
    for world_size in (1, 2):
        config = build_config(
            tmp_path / str(world_size),
            small_set,
            "rest",
            model=ModelConfig(name="resnet18", width=0.0625, stem="small", freeze=["conv1", "bn1", "layer1"]),
            routing=RoutingConfig(sigma=0.5, routes=4, start="layer2", statistics="step"),
            tasks=TasksConfig(),
            optim=replace(ADAMW, head_warmup=0.5),
            train=TrainConfig(steps=8, precision="fp32", accumulate=NUM_SLOTS // world_size),
        )
        run_ranks(world_size, rank_work.train_runs, tmp_path / f"ranks{world_size}", [config])
        states[world_size] = saved_state(config)["model"]
    for name, value in states[1].items():
        torch.testing.assert_close(states[2][name], value, rtol=1e-8, atol=1e-9, msg=name)


def test_the_rare_task_was_drawn(references: dict[str, Reference], small_set: ShardSet) -> None:
    """Guards the tests above: they would prove less without its batches of three."""
    assert references["sgd"].draws[5] > 3
    assert (small_set.manifest.labels()[small_set.manifest.sample_ids("train"), 5] >= 0).sum() == 3


def test_routes_were_shared_by_binary_and_other_tasks_with_most_labels_missing(
    references: dict[str, Reference], sparse_set: ShardSet
) -> None:
    """Guards the tests above too."""
    labels = sparse_set.manifest.labels()[sparse_set.manifest.sample_ids("train")]
    assert 0.58 < (labels < 0).mean() < 0.62
    for name in SHARED_ROUTES:
        routes, classes = references[name].model.routes, references[name].model.num_classes
        assert any({classes[task] for task in tasks} >= {2, 5} for tasks in routes.tasks_of), (name, routes.tasks_of)
        assert min(references[name].draws) > 1
        assert min(references[name].labels_seen) > 0


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
def stepwise(tmp_path_factory: pytest.TempPathFactory, small_set: ShardSet) -> dict[str, Config]:
    """Runs on two ranks with a checkpoint after every step: with a route for every task, and with four routes for six."""
    folder = tmp_path_factory.mktemp("stepwise")
    sections = {"optim": ADAMW, "checkpoint": CheckpointConfig(every=1, keep=100)}
    shared = RoutingConfig(sigma=0.5, routes=4, grouping="order")
    configs = {
        "task": build_config(folder, small_set, "task", **sections),
        "shared": build_config(folder, small_set, "shared", routing=shared, **sections),
    }
    run_ranks(2, rank_work.train_runs, folder / "ranks", list(configs.values()))
    return configs


@pytest.mark.parametrize(("name", "num_routes"), [("task", 6), ("shared", 4)])
def test_a_route_that_nobody_ran_is_bit_identical(name: str, num_routes: int, stepwise: dict[str, Config]) -> None:
    """Its heads and its norm statistics; labels are counted for tasks of routes that ran."""
    folders = sorted((stepwise[name].run.folder / "checkpoints").iterdir())
    states = [torch.load(folder / "state.pt", weights_only=True) for folder in folders]
    tasks_of = read_info(folders[0]).routes.tasks_of
    assert len(states) == 10
    assert len(tasks_of) == num_routes
    idle = moved = 0
    for before, after in itertools.pairwise(states):
        drawn = np.flatnonzero((after["draws"] - before["draws"]).numpy())
        seen = np.flatnonzero((after["labels_seen"] - before["labels_seen"]).numpy())
        assert set(seen.tolist()) <= {task for route in drawn for task in tasks_of[route]}
        for route in range(num_routes):
            parts = zip(parts_of_route(before["model"], route), parts_of_route(after["model"], route), strict=True)
            same = all(torch.equal(old, new) for old, new in parts)
            if route not in drawn:
                assert same, route
                idle += 1
            moved += not same
    assert idle > 3 * num_routes
    assert moved > 5


def parts_of_route(model: dict[str, torch.Tensor], route: int) -> list[torch.Tensor]:
    """Returns what belongs to one route alone: its head matrix, and its rows of norm statistics."""
    parts = [model[f"heads.{route}.{kind}"] for kind in ("weight", "bias")]
    return parts + [value[route] for name, value in model.items() if is_statistic(name)]


def test_evaluation_counts_each_sample_once_on_any_number_of_ranks(
    stepwise: dict[str, Config], small_set: ShardSet, tmp_path: Path
) -> None:
    results: dict[str, dict[int, TaskMetrics]] = {name: {} for name in stepwise}
    predictions: dict[str, dict[int, Predictions]] = {name: {} for name in stepwise}
    for world_size in (1, 2, 3):
        kept = tmp_path / f"predictions-{world_size}"
        for name in stepwise:
            (kept / name).mkdir(parents=True)
        ranks = run_ranks(world_size, rank_work.evaluate_runs, tmp_path / str(world_size), stepwise, "val", 7, kept)
        for name in stepwise:
            predictions[name][world_size] = read_predictions(RunFolder(kept / name).predictions_file("val"))
            for other in ranks[1:]:  # every rank knows all
                np.testing.assert_array_equal(ranks[0][name].counts, other[name].counts)
            results[name][world_size] = ranks[0][name]
    labels = small_set.manifest.labels()[small_set.manifest.sample_ids("val")]
    for name in stepwise:
        assert_same_evaluation(results[name], predictions[name])
        assert results[name][1].counts.tolist() == (labels >= 0).sum(axis=0).tolist()
        assert_fits(predictions[name][1], results[name][1], labels)


def assert_same_evaluation(results: dict[int, TaskMetrics], predictions: dict[int, Predictions]) -> None:
    """Compares the metrics and predictions of several world sizes with those of one rank."""
    for world_size in results.keys() - {1}:
        np.testing.assert_array_equal(results[world_size].counts, results[1].counts)
        for name in COUNTED_METRICS:
            equal = np.testing.assert_allclose if name == "loss" else np.testing.assert_array_equal
            equal(results[world_size].values[name], results[1].values[name])
        for name in ("samples", "labels", "predicted", "confidences", "log_odds"):
            np.testing.assert_array_equal(getattr(predictions[world_size], name), getattr(predictions[1], name))


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


def test_routes_and_masks_are_the_same_on_every_rank_process_and_world_size(
    small_set: ShardSet, tmp_path: Path
) -> None:
    strategies: list[Strategy] = ["random", "affinity"]
    routings = [RoutingConfig(sigma=0.5, routes=3, strategy=strategy) for strategy in strategies]
    configs = [build_config(tmp_path, small_set, "masks", routing=routing) for routing in routings]
    drawn = [run_ranks(w, rank_work.choose_and_draw, tmp_path / str(w), configs) for w in (1, 2)]
    assert len({outcome for ranks in drawn for outcome in ranks}) == 1
    (routes, random), (same_routes, laid) = drawn[0][0]
    assert routes.num_routes == 3
    assert routes == same_routes
    assert random != laid


def test_bytes_grow_with_the_tasks_of_active_routes_only(tmp_path: Path) -> None:
    """On a ResNet-18 of a quarter of the width, 64-pixel images, four ranks: the formula knows neither T nor R."""
    classes = [5 if i % 13 == 12 else 2 for i in range(312)]
    paths = {num_tasks: write_wide_set(tmp_path / f"set-{num_tasks}", classes[:num_tasks]) for num_tasks in (10, 312)}
    cases: list[tuple[int, Setting]] = [(10, "task"), (312, "task"), (312, 16)]
    configs = [
        Config(
            run=RunConfig(name=f"{num_tasks}-{routes}", dir=str(tmp_path)),
            data=DataConfig(path=str(paths[num_tasks]), batch_size=4, workers=0),
            model=ModelConfig(name="resnet18", width=0.25, stem="standard"),
            routing=RoutingConfig(routes=routes, grouping="order", sigma=0.5),
            train=TrainConfig(steps=2, precision="fp32", accumulate=1),
            eval=EvalConfig(every=0, batch_size=16),
            checkpoint=CheckpointConfig(every=100),
            track=TrackConfig(mlflow=False),
        )
        for num_tasks, routes in cases
    ]
    sent = run_ranks(4, rank_work.count_reduced_bytes, tmp_path / "ranks", configs)[0]
    for config, sizes in zip(configs, sent, strict=True):
        routes = open_checkpoint(config.run.folder).routes
        sampler = RouteSampler(config.run.seed, routes.num_routes, num_slots=4)
        for step, num_bytes in enumerate(sizes):
            active = [[classes[task] for task in routes.tasks_of[route]] for route in sampler.routes(step)]
            assert num_bytes == bytes_of_step(active), config.run.name


def bytes_of_step(classes: list[list[int]]) -> int:
    """Returns the bytes of a step's buffer from the class counts of the tasks of each of its slots' routes, all different."""
    statistics = 1200 + 20  # mean and variance of the half of its 1200 units that a route keeps, and counts of 20 norms
    loss_labelled_damaged, stop = 3 * len(classes), 1
    per_route = [len(counts) + sum(counts) * (128 + 1) + statistics for counts in classes]
    return 4 * (loss_labelled_damaged + stop + sum(per_route))


def write_wide_set(root: Path, classes: list[int]) -> Path:
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (24, 64, 64, 3), dtype=np.uint8)
    labels = np.stack([generator.integers(0, count, 24) for count in classes], axis=1).astype(np.int8)
    dataset = from_arrays(
        tasks=[Task(name=f"t{i}", classes=tuple("abcde"[:count])) for i, count in enumerate(classes)],
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
