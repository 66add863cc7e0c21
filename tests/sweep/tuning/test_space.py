"""What is searched for each arm, and the settings that follow from a trial's choices."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest

from helpers.shard_sets import ShardSet
from helpers.sweeps import build_request, sweep_config
from helpers.tiny_transformers import tiny_timm_config
from matl_scale.errors import InputError
from matl_scale.models.routing_config import RoutingConfig
from matl_scale.runs.sweep_folder import SweepPlan
from matl_scale.sweep.open_sweep import plan_sweep
from matl_scale.sweep.plan import measure_network
from matl_scale.sweep.tuning.plan_trial import SEED, find_space, settings_of_trial, trial_configs
from matl_scale.sweep.tuning.space import DECAY, FACTOR, ROUTES, SIGMA, Space, choose
from matl_scale.train.config import read_saved, with_settings
from matl_scale.train.resolve import resolve_offline
from matl_scale.train.step.optim import OptimConfig

ALL_SIGMAS = [0.25, 0.5, 0.75, 1.0]


def plan_of(folder: Path, shards: ShardSet, arms: str, *, seeds: int = 1, **others: Any) -> SweepPlan:
    sections = {key: others.pop(key) for key in ("optim",) if key in others}
    config = sweep_config(folder, shards, steps=60, routing=RoutingConfig(), **sections)
    request = build_request(config, arms, seeds=range(seeds), tune=4, **others)
    return plan_sweep(request, folder / "sweep", 1).plan


def spaces_of(plan: SweepPlan) -> dict[str, Space]:
    return {variant.name: find_space(plan, variant) for variant in plan.variants}


def test_what_an_arm_or_a_point_sets_is_not_searched(tmp_path: Path, small_set: ShardSet) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("optim: {lr: 0.01, weight_decay: 0.1}\nrouting: {routes: one}\n")
    plan = plan_of(tmp_path, small_set, f"dense,single,task,k4,auto,{own}")
    spaces = spaces_of(plan)
    assert {name: (space.sigmas, space.routes) for name, space in spaces.items()} == {
        "dense": ([], []),
        "single": ([], []),
        "task": (ALL_SIGMAS, []),
        "k4": (ALL_SIGMAS, []),
        # six tasks
        "auto": (ALL_SIGMAS, sorted({1, 2, 4, spaces["auto"].first_routes})),
        "own": ([], []),
    }
    assert spaces["dense"].first == {FACTOR: 1.0, DECAY: 0.01}
    assert spaces["k4"].first == {FACTOR: 1.0, DECAY: 0.01, SIGMA: spaces["k4"].first_sigma}
    assert spaces["own"].first == {}


def test_only_what_splits_the_heads_of_a_transformer_is_searched(tmp_path: Path, small_set: ShardSet) -> None:
    config = sweep_config(tmp_path, small_set, steps=60, routing=RoutingConfig())
    vit = tiny_timm_config()
    vit = replace(vit, args={**vit.args, "num_heads": 3, "embed_dim": 24})
    request = build_request(replace(config, model=vit), "k4", tune=4)
    space = spaces_of(plan_sweep(request, tmp_path / "sweep", 1).plan)["k4"]
    assert space.sigmas == [0.333, 0.667, 1.0]


def test_a_point_that_sets_sigma_leaves_the_number_of_routes(tmp_path: Path, small_set: ShardSet) -> None:
    plan = plan_of(tmp_path, small_set, "auto,k2", vary=["routing.sigma=0.5,0.6,1"])
    spaces = spaces_of(plan)
    assert all(not space.sigmas for space in spaces.values())
    first = spaces["auto routing.sigma=0.6"].first_routes
    # one route of which a part is used is a smaller network; with σ 1 all routes are one network
    assert spaces["auto routing.sigma=0.6"].routes == sorted({2, 4, first})
    assert spaces["auto routing.sigma=1.0"].routes == []
    assert spaces["k2 routing.sigma=0.5"].routes == []


def test_a_decay_of_zero_stays(tmp_path: Path, small_set: ShardSet) -> None:
    plan = plan_of(tmp_path, small_set, "dense", optim=OptimConfig(weight_decay=0.0))
    assert find_space(plan, plan.variants[0]).first == {FACTOR: 1.0}


def test_choices_are_from_the_space(tmp_path: Path, small_set: ShardSet) -> None:
    plan = plan_of(tmp_path, small_set, "auto")
    space = find_space(plan, plan.variants[0])
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    for _ in range(40):
        choices = choose(study.ask(), space)
        assert 1 / 8 <= choices[FACTOR] <= 8
        assert 1e-4 <= choices[DECAY] <= 0.3
        assert choices[ROUTES] in space.routes
        assert choices[SIGMA] in (ALL_SIGMAS if choices[ROUTES] > 1 else [1.0])


@pytest.mark.parametrize("budget", ["compute", "steps=90", "minutes=2"])
def test_other_routes_get_the_same_budget(budget: str, tmp_path: Path, small_set: ShardSet) -> None:
    plan = plan_of(tmp_path, small_set, "dense,k4", budget=budget, optim=OptimConfig())
    variant = plan.variants[1]
    choices = {FACTOR: 4.0, DECAY: 0.05, SIGMA: 0.25}
    settings = settings_of_trial(plan, variant, choices, is_first=False)
    assert (settings["routing.sigma"], settings["optim.weight_decay"]) == (0.25, 0.05)
    (config,) = trial_configs(plan, variant, settings, tmp_path, 7)
    assert (config.run.name, config.run.seed, config.track.mlflow) == ("trial-007", SEED, False)
    assert config.routing.routes == 4
    by_rules = with_settings(config, {"optim.lr": "auto"})
    assert config.optim.lr == pytest.approx(4 * resolve_offline(by_rules)[0].config.optim.lr)
    network = measure_network(config, "")
    if plan.budget == "minutes":
        assert (config.train.minutes, config.train.steps) == (2.0, "auto")
    else:
        cost = network.costs.of_a_step(plan.budget)
        assert abs(int(config.train.steps) * cost - plan.amount) <= cost / 2
    assert network.config.data.batch_size == config.data.batch_size


def test_the_first_trial_is_what_the_rules_choose(tmp_path: Path, small_set: ShardSet) -> None:
    plan = plan_of(tmp_path, small_set, "dense,auto")
    for variant in plan.variants:
        first = find_space(plan, variant).first
        assert settings_of_trial(plan, variant, first, is_first=True) == {}
        (config,) = trial_configs(plan, variant, {}, tmp_path, 1)
        (run,) = plan.runs_of(variant.name)
        planned = with_settings(read_saved(plan.base), run.settings)
        for section in ("data", "model", "routing", "optim", "train"):
            assert getattr(config, section) == getattr(planned, section)


def test_a_network_for_each_task_has_one_learning_rate(tmp_path: Path, small_set: ShardSet) -> None:
    plan = plan_of(tmp_path, small_set, "single", seeds=2, single_tasks=["task_[01]"])
    (variant,) = plan.variants
    settings = settings_of_trial(plan, variant, {FACTOR: 0.5}, is_first=False)
    assert set(settings) == {"optim.lr"}
    configs = trial_configs(plan, variant, settings, tmp_path, 1)
    assert [(config.run.name, config.data.tasks) for config in configs] == [
        ("trial-001-001", ["task_0"]),
        ("trial-001-002", ["task_1"]),
    ]
    assert {config.run.seed for config in configs} == {SEED}


def test_routes_that_would_see_their_labels_less_than_once_are_refused(tmp_path: Path, small_set: ShardSet) -> None:
    planned = plan_of(tmp_path, small_set, "k4")
    costs = measure_network(with_settings(read_saved(planned.base), planned.runs[0].settings), "").costs
    amount = 1.5 * costs.least_steps * costs.of_a_step("compute")
    plan = plan_of(tmp_path, small_set, "k4", budget=f"compute={amount}")
    assert settings_of_trial(plan, plan.variants[0], {SIGMA: 0.25}, is_first=False)
    with pytest.raises(InputError, match=r"would have .* passes over its labels"):
        settings_of_trial(plan, plan.variants[0], {SIGMA: 1.0}, is_first=False)
