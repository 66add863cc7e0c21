"""Micro-steps that run as one batch, by whose images together norms normalise (`routing.statistics` = step)."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from helpers.network_outputs import gap
from helpers.resolved_runs import LAPTOP, config_of, resolved
from helpers.run_configs import build_config
from helpers.shard_sets import ShardSet
from matl_scale import InputError
from matl_scale.models.backbones import build_backbone
from matl_scale.models.config import ModelConfig
from matl_scale.models.network import RoutedModel, build_model
from matl_scale.models.predictor import Predictor
from matl_scale.models.routing_config import Execution, RoutingConfig
from matl_scale.routing.batch_norm import route_norms
from matl_scale.runs.checkpoints.checkpoint import open_checkpoint
from matl_scale.runs.checkpoints.network import restore_network
from matl_scale.sweep.costs import measure_costs
from matl_scale.train.choose_statistics import choose_statistics
from matl_scale.train.config import Config, with_settings
from matl_scale.train.defaults.weights import fill_from_weights
from matl_scale.train.loop import Hooks, Run
from matl_scale.train.process_group import build_accelerator
from matl_scale.train.run import train
from matl_scale.train.run_data import build_run_data
from matl_scale.train.step.execution import TrunkExecution
from matl_scale.train.step.train_step import TrainConfig

MODEL = ModelConfig(name="resnet18", width=0.125, stem="small")
ROUTE_IDS, SIZES = [2, 0, 3, 0], [5, 4, 6, 1]  # of four micro-steps; one has a single image


@pytest.fixture
def double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def build(sigma: float = 0.5, start: str = "") -> RoutedModel:
    routing = RoutingConfig(sigma=sigma, start=start, statistics="step")
    return build_model(MODEL, routing, [2] * 4, 0, 32).double().train()


def draw_images(seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(size, 3, 32, 32, generator=generator) for size in SIZES]


def masked_by_hand(model: RoutedModel) -> nn.Module:
    """Returns torch's own network, with the same weights, whose norms are followed by each image's mask."""
    backbone = build_backbone(MODEL, 0).double().train()
    backbone.load_state_dict({**backbone.state_dict(), **dict(model.trunk.named_parameters())})
    by_image = torch.tensor([route for route, size in zip(ROUTE_IDS, SIZES, strict=True) for _ in range(size)])
    for name, module in list(backbone.named_modules()):
        if name.replace(".", "_") in model.trunk.routers and isinstance(module, nn.BatchNorm2d):
            mask = model.trunk.routers[name.replace(".", "_")].mask[by_image][:, :, None, None]
            module.register_forward_hook(lambda _, __, y, mask=mask: y * mask)
    return backbone


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("start", ["", "layer3"])
@pytest.mark.parametrize("options", [{}, {"checkpointing": True}], ids=["plain", "checkpointing"])
def test_it_is_a_batch_of_the_plain_network_with_a_mask_for_each_image(start: str, options: dict[str, Any]) -> None:
    model = build(start=start)
    plain = masked_by_hand(model)
    trunk = TrunkExecution(build_accelerator("fp32"), model.trunk, "subnetwork", slots="joint", **options)
    for seed in range(2):
        images = draw_images(seed)
        trunk.begin_step(ROUTE_IDS)
        features = torch.cat(trunk.features(images, ROUTE_IDS))
        wanted = plain(torch.cat(images))
        assert gap(features, wanted) < 1e-10
        weights = torch.linspace(-1, 1, features.numel()).view_as(features)
        (features * weights).sum().backward()
        (wanted * weights).sum().backward()
        for name, parameter in plain.named_parameters():
            actual = model.trunk.get_parameter(name).grad
            assert actual is not None, name
            assert parameter.grad is not None, name
            assert gap(actual, parameter.grad) < 1e-9, name


@pytest.mark.usefixtures("double")
def test_running_statistics_are_those_of_torch() -> None:
    model = build()
    plain = masked_by_hand(model)
    for module in plain.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the plain average, with which route norms begin
    trunk = TrunkExecution(build_accelerator("fp32"), model.trunk, "subnetwork", slots="joint")
    for seed in range(3):
        trunk.features(draw_images(seed), ROUTE_IDS)
        plain(torch.cat(draw_images(seed)))
    for name, module in plain.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            found = model.trunk.get_submodule(name).running[0]
            assert gap(found, torch.stack([module.running_mean, module.running_var])) < 1e-10, name


@pytest.mark.usefixtures("double")
def test_sub_networks_evaluate_what_was_trained_masked() -> None:
    model = build()
    trunk = TrunkExecution(build_accelerator("fp32"), model.trunk, "subnetwork", slots="joint")
    trunk.features(draw_images(0), ROUTE_IDS)
    model.eval()
    for head in model.heads:
        nn.init.normal_(head.weight)
    executions: list[Execution] = ["masked", "subnetwork"]
    found = []
    for execution in executions:
        predictor = Predictor(model, execution, 4)
        predictor.start()
        found.append(predictor.logits_of_tasks(draw_images(1)[0], range(4)))
    for task in range(4):
        assert gap(found[0][task], found[1][task]) < 1e-10


@pytest.mark.usefixtures("double")
def test_slots_of_one_route_with_all_units_are_one_large_batch() -> None:
    model, other = build(sigma=1.0), build(sigma=1.0)
    images = draw_images(0)
    parts = TrunkExecution(build_accelerator("fp32"), model.trunk, "subnetwork", slots="joint")
    whole = TrunkExecution(build_accelerator("fp32"), other.trunk, "subnetwork", slots="joint")
    found = torch.cat(parts.features(images, [0, 0, 0, 0]))
    (wanted,) = whole.features([torch.cat(images)], [0])
    assert torch.equal(found, wanted)


def test_a_run_trains_its_micro_steps_in_one_pass(small_set: ShardSet, tmp_path: Path) -> None:
    routing = RoutingConfig(sigma=0.5, routes=3, statistics="step")
    settings = TrainConfig(steps=3, precision="fp32", accumulate=3)
    config = build_config(tmp_path, small_set, "joint", routing=routing, train=settings)
    passes: list[int] = []

    def watch(run: Run) -> None:
        if run.state.step == 0:
            run.state.model.trunk.register_forward_hook(lambda _, inputs, __: passes.append(len(inputs[0])))

    train(config, build_accelerator("fp32"), hooks=Hooks(before_step=watch))
    assert passes == [18] * 3
    norms = route_norms(restore_network(open_checkpoint(config.run.folder), torch.device("cpu")))
    assert {int(count) for norm in norms for count in norm.num_updates.unique()} == {3}


def chosen_for(shards: ShardSet, **settings: object) -> tuple[str, str]:
    config = with_settings(config_of(shards, data__image_size=64, **settings), {"model.pretrained": True})
    run = resolved(fill_from_weights(config, None))
    return run.config.routing.statistics, run.slots


def test_routes_of_trained_networks_are_normalised_together(small_set: ShardSet) -> None:
    assert chosen_for(small_set, routing__routes=2) == ("step", "joint")
    for settings in (
        {},
        {"routing__routes": 2, "routing__sigma": 0.75},
        {"routing__routes": 2, "routing__strategy": "magnitude"},
        {"routing__routes": 2, "routing__affine": "route"},
        {"routing__routes": 2, "train__slots": "single"},
        {"routing__routes": 2, "model__drop_path": 0.1},
        {"routing__routes": 2, "model__name": "convnext_tiny"},
    ):
        statistics, slots = chosen_for(small_set, **settings)
        assert statistics == "route", settings
        assert slots != "joint", settings
    run = resolved(config_of(small_set, routing__routes=2))
    assert run.config.routing.statistics == "route", "from scratch"


def test_all_micro_steps_have_to_fit_into_the_memory(small_set: ShardSet) -> None:
    config = config_of(small_set, routing__routes=2, model__name="resnet18", model__width=1.0, data__image_size=64)
    tight = replace(LAPTOP, memory=60_000_000)
    sizes = {
        statistics: resolved(with_settings(config, {"routing.statistics": statistics}), tight).config.data.batch_size
        for statistics in ("route", "step")
    }
    assert sizes["step"] < sizes["route"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"routing.affine": "route"}, r"with `routing\.affine` = route"),
        ({"routing.strategy": "magnitude"}, r"with `routing\.strategy` = magnitude"),
        ({"train.slots": "single"}, r"with `train\.slots` = single"),
        ({"model.drop_path": 0.1}, r"with random layers \(`layer1\.0\.drop_path`\)"),
        ({"model.name": "squeezenet1_1"}, "with a backbone without batch norms"),
    ],
)
def test_what_cannot_run_as_one_batch_is_refused(settings: dict[str, object], message: str) -> None:
    given = {"model.name": "resnet18", "model.width": 0.25, "model.stem": "small", "data.path": "nowhere"}
    routing = {"routing.sigma": 0.5, "routing.statistics": "step"}
    with pytest.raises(InputError, match=r"`routing\.statistics` should be route or auto " + message):
        choose_statistics(with_settings(Config(), given | routing | settings), 64, 4)


def test_training_counts_all_units(small_set: ShardSet) -> None:
    def cost(**settings: object) -> float:
        config = config_of(small_set, routing__routes=2, data__image_size=64, data__workers=0, **settings)
        resolution = resolved(config)
        return float(measure_costs(resolution, build_run_data(resolution.config.data)).multiply_adds.mean())

    whole = cost(routing__sigma=1.0)
    assert cost(routing__sigma=0.5, routing__statistics="step") == whole
    assert cost(routing__sigma=0.5) < 0.5 * whole
