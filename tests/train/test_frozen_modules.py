"""`model.freeze` = *: heads are trained on a trunk that keeps every bit of its weights."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from helpers import rank_work
from helpers.ranks import run_ranks
from helpers.run_configs import ADAMW, SGD, assert_identical, build_config, saved_state
from helpers.shard_sets import ShardSet
from matl_scale.errors import InputError
from matl_scale.models.config import ModelConfig
from matl_scale.models.network import build_model
from matl_scale.models.routing_config import RoutingConfig
from matl_scale.routing.batch_norm import RouteBatchNorm2d, route_norms
from matl_scale.routing.surgery import route
from matl_scale.runs.checkpoints.checkpoint import open_checkpoint
from matl_scale.runs.checkpoints.network import restore_network
from matl_scale.train.config import Config, RunConfig
from matl_scale.train.loop import Hooks, Run
from matl_scale.train.process_group import build_accelerator
from matl_scale.train.run import train
from matl_scale.train.schedule import CheckpointConfig
from matl_scale.train.step.freeze import find_used
from matl_scale.train.step.frozen_modules import NUM_UPDATES, freeze_modules, keep_statistics
from matl_scale.train.step.sampling import TasksConfig
from matl_scale.train.step.train_step import TrainConfig
from matl_scale.vision import models

State = dict[str, torch.Tensor]


def probe_of(folder: Path, shards: ShardSet, name: str, **sections: Any) -> Config:
    """A run that trains heads alone, each of two routes at every second step."""
    config = build_config(
        folder,
        shards,
        name,
        model=ModelConfig(name="resnet18", width=0.0625, stem="small", freeze="*"),
        run=RunConfig(name=name, dir=str(folder), seed=3),
        routing=RoutingConfig(sigma=0.5, routes=2),
        tasks=TasksConfig(),
        optim=ADAMW,
        train=TrainConfig(steps=24, precision="fp32", ema_decay=0.9),
    )
    return replace(config, **sections)


def train_watched(config: Config) -> list[State]:
    """Trains a run, and returns its network's state before every step. The trunk may never have a gradient."""
    states: list[State] = []

    def watch(run: Run) -> None:
        model = run.state.model
        assert all(parameter.grad is None for parameter in model.trunk.parameters())
        assert model.trunk.training
        states.append({name: value.clone() for name, value in model.state_dict().items()})

    train(config, build_accelerator("fp32"), hooks=Hooks(before_step=watch))
    return states


def is_statistic(name: str) -> bool:
    return name.endswith(("running", "num_updates"))


def weights_of(state: State) -> State:
    """Returns all of a trunk but its norm statistics."""
    return {name: value for name, value in state.items() if name.startswith("trunk.") and not is_statistic(name)}


def statistics_of(state: State) -> State:
    return {name: value for name, value in state.items() if is_statistic(name)}


@pytest.mark.parametrize("execution", ["subnetwork", "masked"])
@pytest.mark.parametrize("statistics", ["route", "shared"])
def test_a_random_trunk_keeps_its_weights_and_gathers_its_statistics_once(
    small_set: ShardSet, tmp_path: Path, execution: Any, statistics: Any
) -> None:
    routing = RoutingConfig(sigma=0.5, routes=2, execution=execution, statistics=statistics)
    config = probe_of(tmp_path, small_set, "probe", routing=routing, optim=ADAMW if execution == "subnetwork" else SGD)
    states = train_watched(config)
    saved = saved_state(config)
    assert_identical(weights_of(saved["model"]), weights_of(states[0]))
    ema = {name.removeprefix("module."): value for name, value in saved["ema"].items()}
    assert_identical(weights_of(ema), weights_of(states[0]))
    assert len(saved["optimizer"]["state"]) == 4, "the optimizer knows the two heads alone"
    for name, value in saved["model"].items():
        if name.startswith("heads."):
            assert not torch.equal(value, states[0][name]), name
    # two routes take turns, so that after twice as many steps each has its statistics
    gathered = statistics_of(states[2 * NUM_UPDATES])
    assert_identical(statistics_of(saved["model"]), gathered)
    for name, value in gathered.items():
        assert not torch.equal(value, statistics_of(states[2 * NUM_UPDATES - 2])[name]), name
    if statistics == "route":
        assert all((value == NUM_UPDATES).all() for name, value in gathered.items() if name.endswith("num_updates"))


def test_statistics_are_the_mean_of_those_of_the_batches(small_set: ShardSet, tmp_path: Path) -> None:
    """For the first norm, the input of which is the image's conv: its mean over the batches of each route."""
    config = probe_of(tmp_path, small_set, "probe")
    means: list[torch.Tensor] = []

    def keep(_: nn.Module, inputs: Any, __: Any) -> None:
        x, route = inputs
        if int(route) == 0:
            means.append(x.mean(dim=(0, 2, 3)))

    def watch(run: Run) -> None:
        if run.state.step == 0:
            run.state.model.trunk.get_submodule("bn1").register_forward_hook(keep)

    masked = replace(config, routing=replace(config.routing, execution="masked"))
    train(masked, build_accelerator("fp32"), hooks=Hooks(before_step=watch))
    model = restore_network(open_checkpoint(masked.run.folder), torch.device("cpu"))
    norm = route_norms(model)[0]
    expected = torch.stack(means[:NUM_UPDATES]).mean(dim=0)[norm.active[0].long()]
    torch.testing.assert_close(norm.running[0, 0], expected, rtol=1e-4, atol=1e-5)


def test_a_run_that_was_interrupted_ends_as_if_it_had_not_been(small_set: ShardSet, tmp_path: Path) -> None:
    whole = probe_of(tmp_path, small_set, "whole")
    train(whole, build_accelerator("fp32"))
    parts = probe_of(tmp_path, small_set, "parts", checkpoint=CheckpointConfig(every=7))
    for steps in (7, 21):  # in the middle of gathering, and after it
        hooks = Hooks(before_step=lambda run, steps=steps: stop_at(run, steps))  # type: ignore[misc]
        with pytest.raises(rank_work.Interrupted):
            train(parts, build_accelerator("fp32"), hooks=hooks)
    train(parts, build_accelerator("fp32"))
    expected, found = saved_state(whole), saved_state(parts)
    for part in ("model", "ema", "optimizer"):
        assert_identical(found[part], expected[part], part)


def stop_at(run: Run, step: int) -> None:
    if run.state.step == step:
        raise rank_work.Interrupted


def test_a_trained_trunk_keeps_the_statistics_of_its_routes_and_new_routes_gather_theirs(
    small_set: ShardSet, tmp_path: Path
) -> None:
    old, new = ["task_0", "task_1"], ["task_2", "task_3"]
    first = probe_of(
        tmp_path,
        small_set,
        "first",
        run=RunConfig(name="first", dir=str(tmp_path)),
        model=ModelConfig(name="resnet18", width=0.0625, stem="small"),
        routing=RoutingConfig(routes="task"),
    )
    first = replace(first, data=replace(first.data, tasks=old), train=replace(first.train, ema_decay=0.0))
    train(first, build_accelerator("fp32"))
    trained = saved_state(first)["model"]
    run = RunConfig(name="second", dir=str(tmp_path), start_from=str(first.run.folder))
    second = replace(
        first,
        run=run,
        model=replace(first.model, freeze=["*"]),
        data=replace(first.data, tasks=old + new),
        train=replace(first.train, steps=12),
    )
    states = train_watched(second)
    state = saved_state(second)["model"]
    masks = {name for name in trained if name.endswith(".mask")}
    for name, value in weights_of(trained).items():
        if name not in masks:
            assert torch.equal(state[name], value), name
    for name, value in statistics_of(trained).items():
        assert torch.equal(state[name][:2], value), name
        assert not torch.equal(state[name][2:], states[0][name][2:]), name
    assert not torch.equal(state["heads.0.weight"], trained["heads.0.weight"]), "old heads are trained too"


@pytest.mark.parametrize("sigma", [1.0, 0.5])
def test_pretrained_statistics_are_kept_where_routes_keep_all_units_before(
    small_set: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sigma: float
) -> None:
    plain = models.get_model

    def get_model(name: str, weights: str | None) -> nn.Module:
        network = plain(name)
        if weights == "DEFAULT":
            for norm in (module for module in network.modules() if isinstance(module, nn.BatchNorm2d)):
                nn.init.constant_(norm.running_mean, 0.25)
        return network

    monkeypatch.setattr(models, "get_model", get_model)
    for module in ("matl_scale.train.build_state", "matl_scale.models.pretrained"):
        monkeypatch.setattr(f"{module}.fetch_weights", lambda _: None)
    config = probe_of(
        tmp_path,
        small_set,
        "probe",
        model=ModelConfig(name="mobilenet_v3_small", pretrained=True, freeze="*"),
        routing=RoutingConfig(sigma=sigma, routes="one"),
        train=TrainConfig(steps=2, precision="fp32"),
    )
    train(config, build_accelerator("fp32"))
    model = restore_network(open_checkpoint(config.run.folder), torch.device("cpu"))
    kept = [bool((norm.running[:, 0] == 0.25).all()) for norm in route_norms(model)]
    assert all(kept) if sigma == 1 else kept == [True] + [False] * (len(kept) - 1), "all before the first norm"


@pytest.mark.parametrize("execution", ["subnetwork", "masked"])
def test_a_frozen_beginning_keeps_its_weights_and_completes_its_statistics(
    small_set: ShardSet, tmp_path: Path, execution: Any
) -> None:
    """With slots of one step that share the slices of a route, and norms whose weights belong to routes."""
    routing = RoutingConfig(sigma=0.5, routes=2, execution=execution, affine="route")
    train_config = TrainConfig(steps=14, precision="fp32", accumulate=4)
    config = probe_of(tmp_path, small_set, "partly", routing=routing, train=train_config, model=BEGINNING)
    states: list[State] = []

    def watch(run: Run) -> None:
        states.append({name: value.clone() for name, value in run.state.model.state_dict().items()})

    train(config, build_accelerator("fp32"), hooks=Hooks(before_step=watch))
    model = restore_network(open_checkpoint(config.run.folder), torch.device("cpu"))
    sizes = [norm.num_features * 2 for norm in route_norms(model)]
    for name, value in model.state_dict().items():
        parts, first = value.split(sizes) if name.startswith("affine.") else (value,), states[0][name]
        if name.startswith("affine."):  # of the five norms in front, and those behind
            kept = [torch.equal(part, old) for part, old in zip(parts, first.split(sizes), strict=True)]
            assert kept == [index < 5 for index in range(len(kept))]
        elif is_statistic(name):
            # two routes share the slots of a step, so that each has its ten updates after ten steps
            is_kept = torch.equal(value, states[NUM_UPDATES][name])
            assert is_kept == is_in_front(name), name
        elif "conv" in name:
            assert torch.equal(value, first) == is_in_front(name), name


BEGINNING = ModelConfig(name="resnet18", width=0.0625, stem="small", freeze=["conv1", "bn1", "layer1"])


def is_in_front(name: str) -> bool:
    return name.startswith(("trunk.conv1", "trunk.bn1", "trunk.layer1"))


def test_what_old_tasks_use_is_found_beside_frozen_modules() -> None:
    """`run.freeze` old and `model.freeze` together."""
    model = build_model(BEGINNING, RoutingConfig(sigma=0.5), [2, 2], 0, 16)
    everything = {id(parameter) for parameter, _ in find_used(model, {0})}
    freeze_modules(model.trunk, BEGINNING.freeze)
    found = {id(parameter) for parameter, _ in find_used(model, {0})}
    trained = {id(parameter) for parameter in model.trunk.parameters() if parameter.requires_grad}
    assert found == trained < everything
    freeze_modules(model.trunk, ["*"])
    assert find_used(model, {0}) == []


def test_patterns_that_match_nothing_are_refused(small_set: ShardSet, tmp_path: Path) -> None:
    config = probe_of(tmp_path, small_set, "refused", model=replace(BEGINNING, freeze=["layr1"]))
    with pytest.raises(
        InputError, match=r"`model\.freeze` .* `layr1` matches none of its modules.*Did you mean `layer1`"
    ):
        train(config, build_accelerator("fp32"))


def test_ranks_equal_one_process(small_set: ShardSet, tmp_path: Path) -> None:
    """A frozen trunk, and one that is partly frozen and rests as a whole until heads are warm."""

    def configs_of(name: str, accumulate: int) -> list[Config]:
        train = TrainConfig(steps=12, precision="fp32", accumulate=accumulate, clip_norm=1.0)
        whole = probe_of(tmp_path, small_set, name, train=train, tasks=TasksConfig(policy="uniform"))
        partly = replace(whole, model=BEGINNING, run=replace(whole.run, name=f"{name}-partly"))
        return [whole, replace(partly, optim=replace(ADAMW, lr=0.001, head_warmup=0.5, layer_decay=0.7))]

    one, two = configs_of("one", 2), configs_of("two", 1)
    run_ranks(2, rank_work.train_runs, tmp_path / "ranks", two, False)
    for single, spread in zip(one, two, strict=True):
        train(single, build_accelerator("fp32"))
        expected, found = saved_state(single)["model"], saved_state(spread)["model"]
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-4, msg=name)
            if "conv" in name and (single is one[0] or is_in_front(name)):
                assert torch.equal(found[name], value), name


def test_norms_behind_missing_units_alone_lose_their_statistics() -> None:
    """The first routed conv, and the shortcut beside it, get what they got before the network was routed."""
    trunk = route(models.resnet18(weights=None), 2, 0.5, start="layer4")
    keep_statistics(trunk)
    lost = {
        name
        for name, norm in trunk.named_modules()
        if isinstance(norm, RouteBatchNorm2d) and not norm.num_updates.all()
    }
    assert lost == {"layer4.0.bn2", "layer4.1.bn1", "layer4.1.bn2"}
    whole = route(models.resnet18(weights=None), 2, 1.0)
    keep_statistics(whole)
    assert all((norm.num_updates == NUM_UPDATES).all() for norm in route_norms(whole))
