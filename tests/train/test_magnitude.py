"""The strategy `magnitude`: what is refused, what it starts from, when its dense part ends, and what is kept of it."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from helpers.run_configs import build_config
from helpers.shard_sets import ShardSet
from matl_scale.errors import InputError
from matl_scale.models.network import RoutedModel
from matl_scale.models.routing_config import RoutingConfig
from matl_scale.routing.batch_norm import route_norms
from matl_scale.routing.router import TaskRouter
from matl_scale.runs.checkpoints.checkpoint import checkpoint_folders, open_checkpoint
from matl_scale.runs.checkpoints.network import open_network, restore_network
from matl_scale.runs.layout import RunFolder
from matl_scale.sweep.costs import measure_costs
from matl_scale.sweep.run_planned import measure_outcome
from matl_scale.train.build import build_state
from matl_scale.train.config import Config, RunConfig, with_settings
from matl_scale.train.length import Length
from matl_scale.train.loop import Hooks, Run
from matl_scale.train.masks.dense_part import DensePart
from matl_scale.train.process_group import build_accelerator
from matl_scale.train.resolve import resolve_offline
from matl_scale.train.resume.open_run import OpenedRun
from matl_scale.train.resume.start_from import find_start
from matl_scale.train.run import train
from matl_scale.train.step.sampling import TasksConfig
from matl_scale.train.step.train_step import TrainConfig

MAGNITUDE: dict[str, Any] = {"strategy": "magnitude", "sigma": 0.5, "routes": 2, "dense_share": 0.5}


def config_of(folder: Path, shards: ShardSet, name: str, **routing: Any) -> Config:
    return build_config(
        folder, shards, name, routing=RoutingConfig(**routing), tasks=TasksConfig(),
        train=TrainConfig(steps=4, precision="fp32", accumulate=2),
    )  # fmt: skip


def routers(model: RoutedModel) -> list[TaskRouter]:
    return [module for module in model.trunk.modules() if isinstance(module, TaskRouter)]


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory, small_set: ShardSet) -> Config:
    """A finished dense run."""
    config = config_of(tmp_path_factory.mktemp("dense"), small_set, "dense", routes="one", sigma=1.0)
    train(config, build_accelerator("fp32"))
    return config


@pytest.fixture(scope="module")
def carved(tmp_path_factory: pytest.TempPathFactory, small_set: ShardSet) -> Config:
    """A finished run, evaluated in its dense part with a perfect score, which would win if it counted."""
    config = config_of(tmp_path_factory.mktemp("carved"), small_set, "carved", **MAGNITUDE)
    config = with_settings(config, {"eval.every": 2, "checkpoint.every": 2, "checkpoint.keep": 5})

    def praise(run: Run, _: object) -> None:
        if run.state.importance is not None:
            folder = checkpoint_folders(RunFolder(config.run.folder).best_folder)[-1]
            shutil.copytree(folder, config.run.folder / "dense-best")

    train(config, build_accelerator("fp32"), hooks=Hooks(after_evaluation=praise))
    return config


def test_the_dense_part_ends_with_its_share_and_is_measured_in_its_second_half() -> None:
    part = DensePart(share=0.3, length=Length(num_steps=10))
    assert part.num_steps == 3
    assert [step for step in range(10) if part.is_measured(step)] == [1, 2]
    for num_steps in (7, 100, 1234):
        for share in (0.001, 0.1, 0.37, 0.9):
            part = DensePart(share=share, length=Length(num_steps=num_steps))
            assert share * num_steps <= part.num_steps + 1e-6 < share * num_steps + 1.001
            measured = [step for step in range(num_steps) if part.is_measured(step)]
            assert measured[-1] == part.num_steps - 1
            assert abs(len(measured) - part.num_steps / 2) <= 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"routing.sigma": 1.0}, "magnitude needs `routing.sigma` below 1"),
        ({"routing.routes": "one", "routing.sigma": "auto"}, "which is also what auto takes for a single route"),
        ({"routing.dense_share": 1.0}, "above 0 and below 1"),
        ({"routing.dense_share": 0.99}, "0.99 of 4 steps leaves none to train the sub-networks in"),
        ({"routing.dense_share": 0.01, "routing.routes": "task"}, "4 of 6 routes are never drawn there"),
        ({"routing.strategy": "random"}, "should be auto with the strategy random, which has no dense part"),
        ({"model.freeze": ["*"]}, "which trains the whole trunk for all routes"),
    ],
)
def test_what_cannot_work_is_refused(
    changes: dict[str, Any], message: str, small_set: ShardSet, tmp_path: Path
) -> None:
    config = config_of(tmp_path, small_set, "refused", **MAGNITUDE)
    with pytest.raises(InputError, match=message):
        resolve_offline(with_settings(config, changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"routing.strategy": "random", "routing.dense_share": "auto"},
            "`routing.strategy` = 'magnitude', not 'random'",
        ),
        ({"routing.dense_share": 0.75}, "`routing.dense_share` = 0.5, not 0.75"),
    ],
)
def test_a_run_does_not_resume_as_another(changes: dict[str, Any], message: str, carved: Config) -> None:
    with pytest.raises(InputError, match=message):
        train(with_settings(carved, changes | {"train.steps": 6}), build_accelerator("fp32"))


def test_each_route_keeps_its_share_and_the_best_network_is_one_of_sub_networks(carved: Config) -> None:
    folder = RunFolder(carved.run.folder)
    for which in ("best", "newest"):
        model = restore_network(open_network(carved.run.folder, which), torch.device("cpu"))
        for router in routers(model):
            assert router.mask.sum(dim=1).tolist() == [round(0.5 * router.mask.shape[1])] * 2
    assert all(router.mask.all() for router in routers(restored(carved.run.folder / "dense-best")))
    assert all(router.mask.all() for router in routers(restored(checkpoint_folders(folder.checkpoints_folder)[0])))
    masks = np.load(folder.masks_file)
    for name, module in model.trunk.named_modules():
        if isinstance(module, TaskRouter):
            np.testing.assert_array_equal(masks[name], module.mask.numpy())
    assert "0.5 of a layer's units are active" in folder.config_file.read_text().splitlines()[0]


def restored(folder: Path) -> RoutedModel:
    return restore_network(open_checkpoint(folder), torch.device("cpu"))


def test_both_parts_are_counted_at_what_they_cost(carved: Config) -> None:
    resolved, data = resolve_offline(carved)
    costs = measure_costs(resolved, data)
    random_masks = with_settings(carved, {"routing.strategy": "random", "routing.dense_share": "auto"})
    one_route = with_settings(random_masks, {"routing.sigma": 1.0})
    subnetwork, whole = (measure_costs(*resolve_offline(each)) for each in (random_masks, one_route))
    np.testing.assert_array_equal(costs.multiply_adds, subnetwork.multiply_adds)
    np.testing.assert_array_equal(costs.dense_multiply_adds, whole.multiply_adds)
    outcome = measure_outcome(carved.run.folder, 1.0)
    # rounds of two routes in steps of two slots: each has one in every step
    assert outcome.multiply_adds == float(
        (costs.images * (2 * costs.dense_multiply_adds + 2 * costs.multiply_adds)).sum()
    )
    assert outcome.multiply_adds == 4 * costs.of_a_step("compute")


def test_a_dense_run_is_what_each_route_starts_from(
    dense: Config, carved: Config, small_set: ShardSet, tmp_path: Path
) -> None:
    config = config_of(tmp_path, small_set, "second", **MAGNITUDE)
    config = replace(config, run=RunConfig(name="second", dir=str(tmp_path), seed=4, start_from=str(dense.run.folder)))
    resolved, data = resolve_offline(config)
    routes = resolved.routes.routes
    assert routes.num_routes == 2
    opened = OpenedRun(checkpoint=None, start=find_start(config.run.start_from), complaints=[], evaluations=set())
    state, _ = build_state(
        resolved.config, data, routes, build_accelerator("fp32"), opened, Length(num_steps=4), resolved.slots
    )
    first, second = restored(dense.run.folder), state.model.eval()
    images = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    expected = first(images, 0).split(first.num_classes, dim=1)
    for route_id, tasks in enumerate(routes.tasks_of):
        found = second(images, route_id).split([second.num_classes[task] for task in tasks], dim=1)
        for task, logits in zip(tasks, found, strict=True):
            torch.testing.assert_close(logits, expected[task])
    assert all((norm.num_updates == route_norms(first)[0].num_updates[0]).all() for norm in route_norms(second))
    train(config, build_accelerator("fp32"))
    assert all(
        int(router.mask[0].sum()) == router.mask.shape[1] // 2 for router in routers(restored(config.run.folder))
    )

    other = replace(config, run=replace(config.run, name="third", start_from=str(carved.run.folder)))
    with pytest.raises(InputError, match=r"every route of .* should have all units"):
        train(other, build_accelerator("fp32"))
