"""`run.freeze` old: new tasks are trained beside old ones, whose logits keep every bit."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data_prep.dataset import from_arrays
from data_prep.planning.make_plan import Options
from data_prep.shard_set import write_shard_set
from helpers.run_configs import ADAMW, build_config
from helpers.shard_sets import ShardSet
from matl_scale.data.images.array_images import ArrayImages
from matl_scale.data.loading.config import DataConfig
from matl_scale.errors import InputError
from matl_scale.models.config import ModelConfig
from matl_scale.models.logits import find_columns
from matl_scale.models.network import RoutedModel
from matl_scale.models.routing_config import RoutingConfig
from matl_scale.runs.checkpoints.checkpoint import open_checkpoint
from matl_scale.runs.checkpoints.network import restore_network
from matl_scale.tasks import Task
from matl_scale.train.config import Config, RunConfig
from matl_scale.train.losses.config import LossConfig
from matl_scale.train.process_group import build_accelerator
from matl_scale.train.run import train
from matl_scale.train.schedule import CheckpointConfig
from matl_scale.train.step.train_step import TrainConfig

OLD, NEW = ["old_0", "old_1", "old_2", "old_3"], ["new_0", "new_1"]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    """Images whose colours decide all labels: old tasks 0 and 1 agree, 2 and 3 agree, and so do new 0 and old 0."""
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (90, 16, 16, 3), dtype=np.uint8)
    facts = pixels[:, :, :, :2].mean(axis=(1, 2)) > 127.5
    columns = np.array([0, 0, 1, 1, 0, 1])
    labels = facts[:, columns].astype(np.int8)
    dataset = from_arrays(
        tasks=[Task(name=name, classes=("no", "yes")) for name in OLD + NEW],
        names=[f"{i:03d}.png" for i in range(90)],
        labels=labels,
        splits=["val" if i % 3 == 2 else "train" for i in range(90)],
        images=ArrayImages(root="memory", pixels=pixels),
    )
    root = tmp_path_factory.mktemp("freeze") / "set"
    manifest = write_shard_set(lambda _: dataset, root, Options(shard_mb=1))
    assert manifest is not None
    return ShardSet(root=root, manifest=manifest, pixels=pixels, labels=labels)


def config_of(
    folder: Path, shards: ShardSet, name: str, tasks: list[str], routing: RoutingConfig, **run: Any
) -> Config:
    return build_config(
        folder,
        shards,
        name,
        run=RunConfig(name=name, dir=str(folder), **run),
        data=DataConfig(path=str(shards.root), batch_size=8, workers=0, tasks=tasks),
        model=ModelConfig(name="resnet18", width=0.125, stem="small"),
        routing=routing,
        train=TrainConfig(steps=6, precision="fp32", accumulate=2, ema_decay=0.9),
        optim=ADAMW,
        checkpoint=CheckpointConfig(every=3),
    )


def run(config: Config) -> RoutedModel:
    train(config, build_accelerator("fp32"))
    return restore_network(open_checkpoint(config.run.folder), torch.device("cpu"))


@torch.no_grad()
def logits_of(model: RoutedModel, names: list[str]) -> dict[str, torch.Tensor]:
    images = torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    outputs = {}
    for task_id, name in enumerate(names):
        route_id = model.routes.route_of[task_id]
        columns = find_columns(model.routes.tasks_of[route_id], model.num_classes, task_id)
        outputs[name] = model(images, route_id)[:, columns]
    return outputs


@pytest.mark.parametrize(
    ("routing", "added"),
    [
        (RoutingConfig(routes=2), RoutingConfig(routes="auto")),  # new tasks join old routes
        (RoutingConfig(routes=2), RoutingConfig(routes="task")),  # they get routes of their own
        (RoutingConfig(routes=2, start="layer3"), RoutingConfig(routes=3, start="layer3")),
        (RoutingConfig(routes="task", statistics="shared"), RoutingConfig(routes="task", statistics="shared")),
        (RoutingConfig(routes=2, statistics="step"), RoutingConfig(routes=4, statistics="step")),
        (RoutingConfig(routes=2, affine="route"), RoutingConfig(routes=4, affine="route")),
    ],
    ids=["join", "own routes", "unrouted layers", "shared statistics", "one batch", "affine weights per route"],
)
def test_logits_of_old_tasks_keep_every_bit_while_new_ones_are_trained(
    shards: ShardSet, tmp_path: Path, routing: RoutingConfig, added: RoutingConfig
) -> None:
    first = logits_of(run(config_of(tmp_path, shards, "first", OLD, routing)), OLD)
    arguments = {"start_from": str(tmp_path / "first"), "freeze": "old"}
    config = config_of(tmp_path, shards, "second", OLD + NEW, added, **arguments)
    model = run(config)
    if added.routes == "auto":
        route_of = dict(zip(OLD + NEW, model.routes.route_of, strict=True))
        assert route_of["new_0"] == route_of["old_0"] != route_of["old_2"] == route_of["new_1"]
    second = logits_of(model, OLD + NEW)
    for name in OLD:
        assert torch.equal(second[name], first[name]), name
    for name in NEW:
        assert second[name].abs().max() > 0, "a new head starts at zero and is trained"

    # a resumed run knows what is frozen, even if the run that it started from is gone
    longer = replace(config, train=replace(config.train, steps=9))
    (tmp_path / "first").rename(tmp_path / "moved")
    third = logits_of(run(longer), OLD + NEW)
    assert all(torch.equal(third[name], first[name]) for name in OLD)
    assert not torch.equal(third["new_0"], second["new_0"])


def test_without_freezing_old_tasks_go_on(shards: ShardSet, tmp_path: Path) -> None:
    routing = RoutingConfig(routes=2)
    first = logits_of(run(config_of(tmp_path, shards, "first", OLD, routing)), OLD)
    again = run(config_of(tmp_path, shards, "second", OLD + NEW, RoutingConfig(), start_from=str(tmp_path / "first")))
    assert not any(torch.equal(value, first[name]) for name, value in logits_of(again, OLD).items())


def test_freezing_needs_old_tasks_and_new_ones(shards: ShardSet, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"`run\.freeze` = old should come with `run\.start_from`"):
        RunConfig(freeze="old")
    run(config_of(tmp_path, shards, "first", OLD, RoutingConfig(routes=2)))
    arguments = {"start_from": str(tmp_path / "first"), "freeze": "old"}
    config = config_of(tmp_path, shards, "second", OLD, RoutingConfig(), **arguments)
    with pytest.raises(InputError, match=r"leaves nothing to train: all 4 tasks are in .*first"):
        train(config, build_accelerator("fp32"))


def test_prior_offsets_of_frozen_tasks_stay_those_of_the_run_that_trained_them(
    shards: ShardSet, tmp_path: Path
) -> None:
    def offsets_of(config: Config) -> dict[str, list[float]]:
        train(config, build_accelerator("fp32"))
        return open_checkpoint(config.run.folder).prior_offsets

    task = RoutingConfig(routes="task")
    first = config_of(tmp_path, shards, "first", OLD, task)
    trained = offsets_of(replace(first, loss=LossConfig(class_weight={"old_[23]": "inverse"})))
    assert list(trained) == ["old_2", "old_3"]  # the others would not differ: their classes are equal
    arguments = {"start_from": str(tmp_path / "first"), "freeze": "old"}
    second = config_of(tmp_path, shards, "second", OLD + NEW, task, **arguments)
    second = replace(second, loss=LossConfig(name="logit_adjusted"))
    found = offsets_of(second)
    assert {name: found[name] for name in found if name in OLD} == trained
    assert set(found) - set(OLD) == {"new_1"}
    (tmp_path / "first").rename(tmp_path / "moved")
    assert offsets_of(replace(second, train=replace(second.train, steps=9))) == found
