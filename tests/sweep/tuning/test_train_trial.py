"""One tiny search that really trains: what trials leave behind, and that the runs get what it has found."""

import signal
from pathlib import Path

import pytest

from helpers.shard_sets import ShardSet
from helpers.sweeps import build_request, sweep_config
from matl_scale.models.routing_config import RoutingConfig
from matl_scale.runs.history import RunHistory
from matl_scale.runs.records import read_records
from matl_scale.sweep.open_sweep import open_sweep
from matl_scale.sweep.run_planned import build_run_config
from matl_scale.sweep.tuning.plan_trial import trial_configs
from matl_scale.sweep.tuning.search import run_search
from matl_scale.sweep.tuning.study import TrialPruned
from matl_scale.sweep.tuning.train_trial import delete_checkpoints, read_best, train_trial

METRIC = "val/macro_average_precision"  # as there are few samples of a class


def test_a_search_trains_and_the_runs_have_its_settings(tmp_path: Path, small_set: ShardSet) -> None:
    config = sweep_config(tmp_path, small_set, steps=10, routing=RoutingConfig())
    folder = open_sweep(build_request(config, "k2", tune=2, budget="steps=20"), tmp_path / "sweep", 1).folder
    plan = folder.read_plan()
    (search,), lines = plan.searches, []
    outcome = run_search(folder, plan, search, lines.append)
    assert outcome is not None
    assert outcome.finished == 2
    best = []
    for name in ("trial-001", "trial-002"):
        trial = folder.search_folder(search) / name
        values = [record[METRIC] for record in read_records(trial) if METRIC in record]
        assert len(values) == 5  # after each fifth, whatever the runs do
        best.append(max(values))
        assert not (trial / "checkpoints").exists()
        assert not (trial / "best").exists()
        assert RunHistory(trial).config["run"]["seed"] not in plan.seeds
    assert outcome.value == max(best)
    assert outcome == folder.read_search(search)
    plan = folder.read_plan()
    planned = build_run_config(folder, plan, plan.runs[0])
    if outcome.best == 2:
        assert planned.optim.lr == plan.variants[0].tuned["optim.lr"] == outcome.tuned["optim.lr"]
    else:
        assert planned.optim.lr == config.optim.lr


def test_a_trial_of_several_networks_stops_goes_on_and_is_ended(tmp_path: Path, small_set: ShardSet) -> None:
    config = sweep_config(tmp_path, small_set, steps=10)
    request = build_request(config, "single", tune=2, single_tasks=["task_[04]"], budget="steps=60")
    plan = open_sweep(request, tmp_path / "sweep", 1).plan
    configs = trial_configs(plan, plan.variants[0], {}, tmp_path / "trials", 1)
    reports: dict[int, float] = {}

    def stop_at_seven(number: int, value: float, is_last: bool) -> None:
        assert is_last == (number == 10)
        reports[number] = value
        if number == 7:
            signal.raise_signal(signal.SIGTERM)

    assert train_trial(configs, stop_at_seven) is None
    assert sorted(reports) == [1, 2, 3, 4, 5, 6, 7]

    def keep(number: int, value: float, _: bool) -> None:
        reports[number] = value

    value = train_trial(configs, keep)
    assert sorted(reports) == list(range(1, 11))
    bests = [read_best(each) for each in configs]
    assert value == reports[10] == pytest.approx(sum(best for best in bests if best is not None) / 2)
    assert reports[5] == bests[0]

    def prune(*_: float) -> None:
        raise TrialPruned

    worse = trial_configs(plan, plan.variants[0], {}, tmp_path / "trials", 2)
    with pytest.raises(TrialPruned):
        train_trial(worse, prune)
    assert len([record for record in read_records(worse[0].run.folder) if METRIC in record]) == 1
    delete_checkpoints(config.run.folder for config in worse)
    assert not (worse[0].run.folder / "best").exists()


def test_the_dense_part_of_a_trial_says_nothing_of_its_sub_networks(tmp_path: Path, small_set: ShardSet) -> None:
    """With the strategy magnitude: evaluations in the first half of the run are of all units."""
    routing = RoutingConfig(routes=2, sigma=0.5, strategy="magnitude", dense_share=0.5)
    config = sweep_config(tmp_path, small_set, steps=10, routing=routing)
    plan = open_sweep(build_request(config, "k2", tune=1, budget="steps=20"), tmp_path / "sweep", 1).plan
    (trial,) = trial_configs(plan, plan.variants[0], {}, tmp_path / "trials", 1)
    reports: dict[int, float] = {}
    value = train_trial([trial], lambda number, best, _: reports.update({number: best}))
    values = {record["step"]: record[METRIC] for record in read_records(trial.run.folder) if METRIC in record}
    assert sorted(values) == [4, 8, 12, 16, 20]
    assert sorted(reports) == [3, 4, 5]
    assert value == reports[5] == max(values[step] for step in (12, 16, 20))
