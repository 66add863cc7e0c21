"""Plans of tiny sweeps: equal budgets, what may be added to a sweep, and what is refused before anything runs."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.shard_sets import ShardSet
from helpers.sweeps import build_request, sweep_config
from helpers.tiny_transformers import tiny_timm_config
from matl_scale.automatic import AUTO
from matl_scale.errors import InputError
from matl_scale.models.cost import count_training
from matl_scale.models.network import build_model
from matl_scale.runs.sweep_folder import PlannedRun, Search, SearchOutcome, SweepFolder, SweepPlan
from matl_scale.sweep.draft import SweepRequest
from matl_scale.sweep.open_sweep import open_sweep, plan_sweep
from matl_scale.sweep.plan import name_folders
from matl_scale.sweep.run_planned import build_run_config, settings_of
from matl_scale.train.config import Config, read_saved, walk, with_settings
from matl_scale.train.resolve import resolve_offline


@pytest.fixture
def config(tmp_path: Path, small_set: ShardSet) -> Config:
    return sweep_config(tmp_path, small_set)


def plan_of(request: SweepRequest, folder: Path) -> SweepPlan:
    return open_sweep(request, folder / "sweep", 1).plan


def compute_of(plan: SweepPlan, run: PlannedRun) -> tuple[float, float]:
    """Returns the multiply-adds of a run, slot by slot, and those of one of its steps."""
    resolved, data = resolve_offline(with_settings(read_saved(plan.base), run.settings))
    config, routes = resolved.config, resolved.routes.routes
    classes = list(data.num_classes.values())
    model = build_model(config.model, config.routing, classes, config.run.seed, data.image_size, routes, outline=True)
    labels = data.labels_of("train")
    total = 0
    for tasks in routes.tasks_of:
        samples = labels.count_samples(tasks)
        total += min(samples, int(config.data.batch_size)) * count_training(model, routes.route_of[tasks[0]])
    step = total / routes.num_routes * int(config.train.accumulate)
    return step * int(config.train.steps), step


def test_arms_get_equal_compute_to_within_a_step(config: Config, tmp_path: Path) -> None:
    plan = plan_of(build_request(config, "task,dense,narrow,k2,single", seeds=[0, 1]), tmp_path)
    assert plan.reference == "dense"
    (dense,) = (run for run in plan.runs_of("dense") if run.seed == 0)
    assert dense.settings["train.steps"] == 32  # the reference is as long as its config says
    assert plan.amount == pytest.approx(compute_of(plan, dense)[0])
    (narrow,) = (run for run in plan.runs_of("narrow") if run.seed == 0)
    assert narrow.settings["train.steps"] > 2.5 * 32  # half of the width, about a quarter of the compute
    for variant in ("task", "narrow", "k2", "single"):
        pairs = [compute_of(plan, run) for run in plan.runs_of(variant) if run.seed == 1]
        assert abs(sum(total for total, _ in pairs) - plan.amount) <= sum(step for _, step in pairs)
    assert [run.task for run in plan.runs_of("single")][:6] == [f"task_{i}" for i in range(6)]


def test_a_narrow_network_keeps_whole_attention_heads(config: Config, tmp_path: Path) -> None:
    vit = tiny_timm_config()
    vit = replace(vit, args={**vit.args, "num_heads": 3, "embed_dim": 24})
    request = build_request(replace(config, model=vit), "narrow,dense", seeds=[0])
    plan = plan_of(request, tmp_path)
    (narrow,) = plan.runs_of("narrow")
    assert narrow.settings["routing.sigma"] == pytest.approx(2 / 3, abs=0.001)
    assert narrow.settings["train.steps"] > 1.3 * 32
    assert plan_of(request, tmp_path) == plan
    alone = plan_of(build_request(replace(config, model=vit), "narrow", seeds=[0]), tmp_path / "alone")
    assert alone.runs_of(alone.reference)[0].settings["routing.sigma"] == narrow.settings["routing.sigma"]


def test_arms_get_equal_labels(config: Config, tmp_path: Path, small_set: ShardSet) -> None:
    plan = plan_of(build_request(config, "dense,task", budget="labels"), tmp_path)
    splits = small_set.manifest.split_numbers() == list(small_set.manifest.splits).index("train")
    labels = small_set.manifest.labels()[splits]
    labelled = int((labels >= 0).any(axis=1).sum())
    per_step = 12 * (labels >= 0).sum() / labelled  # batches of 12
    assert plan.amount == pytest.approx(32 * per_step)
    # one label per image: batches of 12, and of 3 for the task with three samples
    steps = plan.runs_of("task")[0].settings["train.steps"]
    assert abs(steps * np.mean([12, 12, 12, 12, 12, 3]) - plan.amount) <= 12


def test_a_budget_of_minutes_chooses_the_network_as_a_run_of_so_many_minutes_does(
    config: Config, tmp_path: Path
) -> None:
    base = with_settings(config, {"model.name": "vgg11_bn", "model.width": AUTO, "model.stem": "small"})
    widths = [
        plan_of(build_request(base, "dense,k2", budget=f"minutes={minutes}"), tmp_path / minutes).runs[0].settings
        for minutes in ("0.001", "500")
    ]
    assert [each["model.width"] for each in widths] == [0.125, 0.5]


def test_runs_differ_in_what_the_sweep_says_alone(config: Config, tmp_path: Path) -> None:
    config = with_settings(config, {"track.tags": {"team": "birds"}})
    opened = open_sweep(build_request(config, "dense,k2", seeds=[0, 4], experiment="birds"), tmp_path / "sweep", 1)
    plan = opened.plan
    assert [run.name for run in plan.runs] == ["dense-seed0", "k2-seed0", "dense-seed4", "k2-seed4"]
    assert opened.folder.read_plan() == plan
    found = {run.name: dict(walk(build_run_config(opened.folder, plan, run))) for run in plan.runs}
    assert found["k2-seed4"]["run.seed"] == 4
    assert found["k2-seed4"]["track.experiment"] == "birds"
    assert found["k2-seed4"]["track.tags"] == {"team": "birds", "arm": "k2", "variant": "k2", "seed": "4"}
    changed = {key for key, value in found["k2-seed0"].items() if value != found["dense-seed0"][key]}
    assert changed == {"run.name", "routing.routes", "routing.sigma", "train.steps", "track.tags"}


def test_tuned_settings_join_the_runs_of_their_variant(config: Config, tmp_path: Path) -> None:
    plan = plan_of(build_request(config, "dense,k2"), tmp_path)
    tuned = replace(
        plan, variants=[replace(variant, tuned={"optim.lr": 0.5}) for variant in plan.variants[:1]] + plan.variants[1:]
    )
    assert [settings_of(tuned, run).get("optim.lr") for run in tuned.runs] == [0.5, None]


def test_each_variant_has_a_search_that_stays_when_arms_are_added(config: Config, tmp_path: Path) -> None:
    point = {"vary": ["routing.sigma=0.5"], "tune": 6}
    plan = plan_of(build_request(config, "k2", **point), tmp_path)
    assert (plan.tune, plan.searches) == (
        6,
        [Search(name="k2-routing.sigma=0.5-search", variant="k2 routing.sigma=0.5")],
    )
    folder = SweepFolder(tmp_path / "sweep")
    folder.search_folder(plan.searches[0]).mkdir(parents=True)
    folder.write_outcome(plan.searches[0], SearchOutcome(status="finished", tuned={"optim.lr": 0.5}))
    more = plan_of(build_request(config, "k2,task", **point), tmp_path)
    assert [search.variant for search in more.searches] == ["k2 routing.sigma=0.5", "task routing.sigma=0.5"]
    # the folder of the search says what it has found, so one that is deleted is searched again
    assert [variant.tuned for variant in folder.read_plan().variants] == [{"optim.lr": 0.5}, {}]
    (folder.search_folder(plan.searches[0]) / "outcome.json").unlink()
    assert [variant.tuned for variant in folder.read_plan().variants] == [{}, {}]


def test_more_seeds_and_arms_are_added_and_nothing_else_changes(config: Config, tmp_path: Path) -> None:
    first = plan_of(build_request(config, "k2,task"), tmp_path)
    assert plan_of(build_request(config, "k2,task"), tmp_path) == first
    more = plan_of(build_request(config, "dense,k2,task", seeds=[0, 1]), tmp_path)
    assert (more.amount, more.reference) == (first.amount, "dense")
    by_name = {run.name: run for run in more.runs}
    assert [by_name[run.name] for run in first.runs] == first.runs
    assert len(more.runs) == 6


def other(config: Config, **changes: Any) -> SweepRequest:
    return build_request(config, **{"arms": "dense,k2", "seeds": [0, 1], **changes})


OTHER_SWEEPS: dict[str, tuple[Mapping[str, Any], str]] = {
    "config": ({"optim.lr": 0.5}, "optim.lr: 0.05 → 0.5"),
    "fewer arms": ({"arms": "k2"}, "`dense`: missing"),
    "fewer seeds": ({"seeds": [1]}, "--seeds: 0 missing"),
    "other trials": ({"tune": 8}, "--tune: 0 → 8"),
    "budget": ({"budget": "steps"}, "--budget: compute → steps"),
    "amount": ({"budget": "compute=5e9"}, "→ 5e+09"),
    "varied": ({"vary": ["routing.sigma=0.5"]}, "`k2`: missing"),
}


@pytest.mark.parametrize("case", OTHER_SWEEPS)
def test_the_folder_of_another_sweep_is_refused(case: str, config: Config, tmp_path: Path) -> None:
    changes, message = OTHER_SWEEPS[case]
    plan_of(other(config), tmp_path)
    settings = {key: value for key, value in changes.items() if "." in key}
    arguments = {key: value for key, value in changes.items() if "." not in key}
    with pytest.raises(InputError) as error:
        plan_of(other(with_settings(config, settings), **arguments), tmp_path)
    assert "holds another sweep" in str(error.value)
    assert message in str(error.value)


UNFIT: dict[str, tuple[Mapping[str, Any], Mapping[str, Any], str]] = {
    "more routes than tasks": (
        {"arms": "dense,k8"},
        {},
        "Arm `k8`: `routing.routes` should be at most the number of tasks, 6.",
    ),
    "units": ({"arms": "partition"}, {"model.width": 0.0625}, "Arm `partition`: `routing.strategy` = partition: layer"),
    "without the arm": ({"arms": "dense,partition"}, {"model.width": 0.0625}, "Or leave `partition` out of --arms."),
    "no labels": ({"arms": "task"}, {"data.tasks": ["nothing_*"]}, "`data.tasks` should match names of tasks"),
    "less than a pass": ({"arms": "dense,task", "budget": "steps=2"}, {}, "Use at least --budget steps="),
    "single alone": ({"arms": "dense", "single_tasks": ["task_1"]}, {}, "should come with the arm `single`"),
    "subset": ({"arms": "single", "single_tasks": ["bird_*"]}, {}, "`--single-tasks` should match names of tasks."),
    "start": ({"arms": "dense"}, {"run.start_from": "runs/other"}, "`run.start_from` should be empty in a sweep"),
    "ends early": (
        {"arms": "dense"},
        {"train.patience": 2, "eval.every": 5},
        "`train.patience` should be 0 in a sweep: all runs have the same",
    ),
}


@pytest.mark.parametrize("case", UNFIT)
def test_what_cannot_be_fed_is_refused_before_anything_runs(case: str, config: Config, tmp_path: Path) -> None:
    arguments, settings, message = UNFIT[case]
    with pytest.raises(InputError) as error:
        plan_of(build_request(with_settings(config, settings), **arguments), tmp_path)
    assert message in str(error.value)
    assert not (tmp_path / "sweep").exists()


def test_a_network_too_narrow_for_an_arm_is_told_with_a_width_that_does(config: Config, tmp_path: Path) -> None:
    config = with_settings(config, {"model.width": 0.0625, "routing.sigma": 0.5})
    with pytest.raises(InputError) as error:
        plan_of(build_request(config, "dense,partition"), tmp_path)
    found = re.search(r"so --model\.width ([\d.]+) is enough", str(error.value))
    assert found is not None, error.value
    assert "Take at most 2 routes" in str(error.value)
    wider = with_settings(config, {"model.width": float(found[1])})
    assert len(plan_of(build_request(wider, "dense,partition"), tmp_path).runs) == 2
    narrower = with_settings(config, {"model.width": float(found[1]) * 0.8})
    with pytest.raises(InputError, match="partition: layer"):
        plan_of(build_request(narrower, "dense,partition"), tmp_path / "narrower")


def test_single_asks_for_a_subset_of_many_tasks(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("matl_scale.sweep.draft.MAX_SINGLE", 5)
    with pytest.raises(InputError, match=r"`single` would train 6 networks per seed.*--single-tasks"):
        plan_of(build_request(config, "dense,single"), tmp_path)
    plan = plan_of(build_request(config, "dense,single", single_tasks=["task_[12]"]), tmp_path)
    assert [run.task for run in plan.runs] == ["", "task_1", "task_2"]
    monkeypatch.undo()
    whole = plan_of(build_request(config, "dense,single"), tmp_path / "whole")
    length_of = {run.task: run.settings["train.steps"] for run in whole.runs_of("single")}
    for run in plan.runs_of("single"):  # no longer than if all tasks had networks
        assert run.settings["train.steps"] == length_of[run.task]


def test_the_budget_is_that_of_all_tasks_where_their_number_varies(config: Config, tmp_path: Path) -> None:
    request = build_request(config, "k2,dense", vary=["T=2,6,4"])
    assert plan_of(request, tmp_path).reference == "dense T=6"
    assert plan_of(build_request(config, "k2,task"), tmp_path / "other").reference == "k2"


def test_another_folder_is_left_alone(config: Config, tmp_path: Path) -> None:
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep/thesis.tex").touch()
    with pytest.raises(InputError, match=r"has no sweep.json, but thesis.tex"):
        plan_of(build_request(config, "dense"), tmp_path)


def test_a_dry_run_writes_nothing(config: Config, tmp_path: Path) -> None:
    opened = plan_sweep(build_request(config, "dense,k2"), tmp_path / "sweep", 1)
    assert any(line.startswith("k2: ") and "passes" in line for line in opened.lines)
    assert not (tmp_path / "sweep").exists()


def test_names_of_folders_are_readable_and_differ() -> None:
    tasks = ("digit_in_1-2", "a/b", "a b", "α", "A", "a", "?", "x" * 300, "x" * 301)
    networks = [("k8 routing.sigma=0.5", ""), ("single-A", ""), *(("single", task) for task in tasks)]
    names = name_folders(networks, {})
    assert [names[network] for network in networks[:1]] == ["k8-routing.sigma=0.5"]
    assert [names["single", task] for task in ("digit_in_1-2", "α")] == ["single-digit_in_1-2", "single-α"]
    assert len({name.casefold() for name in names.values()}) == len(networks)
    assert all("/" not in name and len(name) < 200 for name in names.values())
    more = name_folders([*networks, ("single", "digit in 1-2")], names)
    assert more.items() > names.items(), "those of an earlier plan stay"
    assert re.fullmatch(r"single-digit-in-1-2", more["single", "digit in 1-2"])
    again = name_folders([("single", "digit_in_1-2"), ("single", "Digit_in_1-2")], names)
    assert re.fullmatch(r"single-Digit_in_1-2-\w{6}", again["single", "Digit_in_1-2"])


def test_folders_of_a_sweep_that_an_earlier_version_named_stay(config: Config, tmp_path: Path) -> None:
    first = plan_of(build_request(config, "dense,single"), tmp_path)
    assert [run.name for run in first.runs[:2]] == ["dense-seed0", "single-task_0-seed0"]
    renamed = [replace(run, name=run.name.replace("-seed", "-2af87b-seed")) for run in first.runs]
    SweepFolder(tmp_path / "sweep").write_plan(replace(first, runs=renamed))
    again = plan_of(build_request(config, "dense,single,k2", seeds=[0, 1]), tmp_path)
    names = [run.name for run in again.runs]
    assert {run.name for run in renamed} < set(names)
    assert {"single-task_0-2af87b-seed1", "k2-seed0"} < set(names)
