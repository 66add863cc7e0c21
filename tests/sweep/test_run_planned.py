"""Runs of a sweep, trained in the test's process."""

import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from helpers.shard_sets import ShardSet
from helpers.sweeps import build_request, sweep_config
from matl_scale.runs.history import RunHistory
from matl_scale.runs.layout import RunFolder
from matl_scale.runs.sweep_folder import SweepFolder, SweepPlan
from matl_scale.sweep.open_sweep import open_sweep
from matl_scale.sweep.run_planned import run_planned
from matl_scale.train.loop import Hooks, Run
from matl_scale.train.schedule import CheckpointConfig


def plan_tiny(folder: Path, shards: ShardSet, **data: Any) -> tuple[SweepFolder, SweepPlan]:
    config = sweep_config(folder, shards, steps=6, checkpoint=CheckpointConfig(every=100))
    config = replace(config, data=replace(config.data, **data))
    opened = open_sweep(build_request(config, "dense,k2"), folder / "sweep", 1)
    return opened.folder, opened.plan


def table(folder: SweepFolder, plan: SweepPlan) -> dict[str, dict[str, float]]:
    """Returns the figures of every run; those of a clock aside."""
    return {run.name: RunHistory(folder.run_folder(run)).latest(plan.split).metrics.summary() for run in plan.runs}


def test_runs_have_their_budget_and_survive_being_stopped(tmp_path: Path, small_set: ShardSet) -> None:
    folder, plan = plan_tiny(tmp_path / "whole", small_set)
    for run in plan.runs:
        outcome = run_planned(folder, plan, run)
        assert outcome == folder.read_outcome(run)
        assert outcome is not None
        assert outcome.steps == run.settings["train.steps"]
        step = outcome.multiply_adds / outcome.steps
        assert abs(outcome.multiply_adds - plan.amount) <= step
        assert outcome.images <= outcome.labels  # an image without a label is not trained
        assert min(outcome.seconds, outcome.images_per_s, outcome.passes) > 0
    dense = folder.read_outcome(plan.runs[0])
    assert dense is not None
    assert dense.images == 6 * 12
    assert "arm: dense" in RunFolder(folder.run_folder(plan.runs[0])).config_file.read_text()

    # where missing labels are filled, a pass has more labels, and so has what was trained
    filled_folder, filled = plan_tiny(tmp_path / "filled", small_set, missing={"task_[0135]": "negative"})
    outcome = run_planned(filled_folder, filled, filled.runs[0])
    assert outcome is not None
    assert outcome.images == 6 * 12
    assert outcome.labels >= outcome.images * 4
    assert outcome.passes == pytest.approx(6 * 12 / 60, rel=0.01)

    # stopped once by a signal, once killed between the last step and the outcome
    stopped, _ = plan_tiny(tmp_path / "stopped", small_set)

    def stop_at_three(run: Run) -> None:
        if run.state.step == 3:
            signal.raise_signal(signal.SIGTERM)

    assert run_planned(stopped, plan, plan.runs[0], Hooks(before_step=stop_at_three)) is None
    assert stopped.read_outcome(plan.runs[0]) is None
    for run in plan.runs:
        run_planned(stopped, plan, run)
    stopped.forget_outcome(plan.runs[1])
    again = run_planned(stopped, plan, plan.runs[1])
    assert again is not None
    assert again.steps == plan.runs[1].settings["train.steps"]
    assert table(stopped, plan) == table(folder, plan)
