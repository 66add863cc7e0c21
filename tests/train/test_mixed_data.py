"""Sets in which each image has one label, every label, hardly any, and all three kinds at once: trained and evaluated alike."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from data_prep.dataset import from_arrays
from data_prep.planning.make_plan import Options
from data_prep.shard_set import write_shard_set
from matl_scale.data.images.array_images import ArrayImages
from matl_scale.data.loading.config import DataConfig
from matl_scale.data.loading.plan import RouteOrder
from matl_scale.errors import InputError
from matl_scale.models.config import ModelConfig
from matl_scale.models.routing_config import RoutingConfig
from matl_scale.runs.checkpoints.checkpoint import open_checkpoint
from matl_scale.runs.history import RunHistory
from matl_scale.runs.records import read_status
from matl_scale.runs.routes import read_routes
from matl_scale.tasks import Task
from matl_scale.tracking.recorder import TrackConfig
from matl_scale.train.config import Config, RunConfig
from matl_scale.train.evaluation import EvalConfig
from matl_scale.train.process_group import build_accelerator
from matl_scale.train.run import train
from matl_scale.train.run_data import TRAIN_SPLIT, build_run_data
from matl_scale.train.step.sampling import RouteSampler
from matl_scale.train.step.train_step import TrainConfig

NUM_IMAGES, STEPS, SLOTS = 180, 5, 3
KINDS = ("one each", "full", "sparse")


def draw_labels(kind: str, generator: np.random.Generator, images: np.ndarray) -> np.ndarray:
    """Returns labels of four tasks, two of them with five classes, for some of the images; the others have none."""
    labels = np.full((NUM_IMAGES, 4), -1, dtype=np.int8)
    drawn = np.stack([generator.integers(0, count, len(images)) for count in (2, 5, 2, 5)], axis=1)
    present = {
        "one each": np.arange(4) == (images % 4)[:, None],
        "full": np.ones((len(images), 4), dtype=bool),
        "sparse": generator.random((len(images), 4)) < 0.06,
    }[kind]
    if kind == "sparse":  # every class of every task occurs in both splits
        present[:20] = True
        drawn[:20] = (np.arange(20) // 2)[:, None] % (2, 5, 2, 5)
    labels[images] = np.where(present, drawn, -1)
    return labels


@pytest.fixture(scope="module", params=[*KINDS, "all three"])
def shards(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    generator = np.random.default_rng(0)
    kinds = KINDS if request.param == "all three" else (request.param,)
    parts = [np.arange(i, NUM_IMAGES, len(kinds)) for i in range(len(kinds))]
    labels = [draw_labels(kind, generator, part) for kind, part in zip(kinds, parts, strict=True)]
    classes = [tuple(str(c) for c in range(count)) for count in (2, 5, 2, 5)]
    dataset = from_arrays(
        tasks=[Task(name=f"{kind}_{i}", classes=classes[i]) for kind in kinds for i in range(4)],
        names=[f"{i:03d}.png" for i in range(NUM_IMAGES)],
        labels=np.concatenate(labels, axis=1),
        splits=["val" if i % 5 == 4 else "train" for i in range(NUM_IMAGES)],
        images=ArrayImages(root="memory", pixels=generator.integers(0, 256, (NUM_IMAGES, 16, 16, 3), dtype=np.uint8)),
    )
    root = tmp_path_factory.mktemp("mixed") / "set"
    assert write_shard_set(lambda _: dataset, root, Options(shard_mb=1)) is not None
    return root


def count_labels_of_slots(config: Config, labels: np.ndarray, routes: Any) -> np.ndarray:
    """Counts the labels that the slots of all steps have, slot by slot."""
    data = build_run_data(config.data)
    order = RouteOrder(0, 8, data.labels_of(TRAIN_SPLIT), routes)
    sampler, draws = RouteSampler(0, routes.num_routes, SLOTS), np.zeros(routes.num_routes, dtype=int)
    seen = np.zeros(routes.num_tasks, dtype=int)
    for step in range(STEPS):
        for route in sampler.routes(step).tolist():
            for sample in order.batch(route, int(draws[route])).tolist():
                for task in routes.tasks_of[route]:
                    seen[task] += labels[sample, task] >= 0
            draws[route] += 1
    return seen


def build_config(folder: Path, shards: Path, setting: Any, balance: float = 0.0) -> Config:
    return Config(
        run=RunConfig(name="run", dir=str(folder)),
        data=DataConfig(path=str(shards), batch_size=8, workers=0, balance=balance),
        model=ModelConfig(name="resnet18", width=0.0625, stem="small"),
        routing=RoutingConfig(routes=setting),
        train=TrainConfig(steps=STEPS, precision="fp32", accumulate=SLOTS),
        eval=EvalConfig(every=0, batch_size=16),
        track=TrackConfig(mlflow=False, every=1),
    )


def test_classes_are_balanced_only_where_a_route_serves_one_task(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"`data\.balance` should be 0 where a route serves several tasks.*`routing\.routes` to task"
    ):
        train(build_config(tmp_path, shards, 2, balance=0.5), build_accelerator("fp32"))
    train(build_config(tmp_path, shards, "auto", balance=0.5), build_accelerator("fp32"))
    assert read_status(tmp_path / "run") == "FINISHED"


@pytest.mark.parametrize("setting", ["auto", 2])
def test_every_kind_of_labels_is_trained_and_evaluated_whole(shards: Path, tmp_path: Path, setting: Any) -> None:
    config = build_config(tmp_path, shards, setting)
    train(config, build_accelerator("fp32"))
    history, data = RunHistory(config.run.folder), build_run_data(config.data)
    routes = open_checkpoint(config.run.folder).routes
    assert [len(tasks) for tasks in read_routes(config.run.folder / "routes.parquet").values()] == [
        len(tasks) for tasks in routes.tasks_of
    ]
    assert setting == "auto" or routes.num_routes == 2

    labels, latest = data.manifest.labels(), history.latest("val")
    np.testing.assert_array_equal(latest.metrics.counts, data.count_labelled("val"))
    np.testing.assert_array_equal(latest.labels_seen, count_labels_of_slots(config, labels, routes))
    losses = [record["train/loss"] for record in history.records if "train/loss" in record]
    assert len(losses) == STEPS
    assert np.isfinite(losses).all()
    # a loss in the units of a cross-entropy, whatever is missing
    assert 0.2 < np.mean(losses) < 5

    predictions = history.predictions("val")
    np.testing.assert_array_equal(predictions.predicted >= 0, predictions.labels >= 0)
    table = pq.read_table(config.run.folder / "draws.parquet").to_pylist()
    assert sum(row["draws"] for row in table[: routes.num_tasks]) >= STEPS * SLOTS
