"""How long a run is: a share of it that is done never jumps, and a run of so many minutes ends when these are over."""

import math
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from helpers.run_configs import build_config
from helpers.shard_sets import ShardSet
from matl_scale import progress
from matl_scale.errors import InputError
from matl_scale.runs.history import RunHistory
from matl_scale.train import loop
from matl_scale.train.build import build_length
from matl_scale.train.length import Clock, FirstPart, Length
from matl_scale.train.process_group import build_accelerator
from matl_scale.train.run import train
from matl_scale.train.schedule import Schedule
from matl_scale.train.step.optim import LearningRate
from matl_scale.train.step.train_step import TrainConfig


def test_a_run_of_so_many_steps() -> None:
    length = Length(num_steps=50)
    assert [length.progress(step) for step in (0, 10, 25, 50, 60)] == [0, 0.2, 0.5, 1, 1]
    assert [step for step in range(1, 51) if length.completes_part(step, 5)] == [10, 20, 30, 40, 50]
    # parts that no step ends with: each is complete with the first step that passes its end
    assert [step for step in range(1, 8) if Length(num_steps=7).completes_part(step, 5)] == [2, 3, 5, 6, 7]


def test_a_fit_keeps_what_is_done_and_every_part_is_completed_once() -> None:
    length, done, parts = Length(num_steps=1000, seconds=60), [0.0], []
    step = 0
    while step < length.num_steps:
        step += 1
        if step in (10, 40, 90):
            length.fit(step, {10: 120, 40: 200, 90: 100}[step])
        done.append(length.progress(step))
        parts += [step] if length.completes_part(step, 5) else []
    assert step == 100
    assert all(before < after for before, after in pairwise(done))
    assert done[-1] == 1
    assert len(parts) == 5
    length.fit(100, 90)  # there is no time left
    assert length.num_steps == 100


def test_a_resumed_run_of_so_many_minutes() -> None:
    saved = Length(num_steps=100, seconds=60, fitted_at=50, progress_then=0.4, progress_before=0.39)
    same, longer, shorter, fixed = (Length(num_steps=7, seconds=seconds) for seconds in (60, 120, 20, 0))
    for length in (same, longer, shorter, fixed):
        length.resume(saved, step=80, spent_s=40.0)
    assert same == saved
    assert (longer.num_steps, longer.progress(80)) == (240, pytest.approx(1 / 3))
    assert shorter.num_steps == 80, "its time is over"
    assert fixed.num_steps == 7


def test_the_learning_rate_follows_what_is_done() -> None:
    length = Length(num_steps=100)
    rate = LearningRate(peak=2.0, warmup_steps=10, length=length)
    assert [rate.at(step) for step in (0, 4)] == [0.2, 1.0]
    assert rate.at(50) == pytest.approx(1.0)
    assert rate.at(99) == pytest.approx(1 + math.cos(math.pi * 0.99))
    share = LearningRate(peak=2.0, warmup_steps="auto", length=length)  # a twentieth of the run
    assert [share.at(step) for step in (0, 1, 2)] == pytest.approx([0.4, 0.4, 0.8])
    before = rate.at(60)
    length.fit(60, 1000)
    assert rate.at(60) == pytest.approx(before)


@pytest.mark.parametrize("num_steps", [60, 5000])
def test_a_trunk_begins_with_its_warm_up_after_that_of_the_heads(num_steps: int) -> None:
    """Also where the length of the run turns out to be another than was guessed."""
    length = Length(num_steps=500, seconds=600)
    heads_alone = FirstPart(share=0.1, length=length)
    rate = LearningRate(peak=1.0, warmup_steps=100, length=length, schedule="constant")
    length.fit(10, num_steps)
    first = next(step for step in range(num_steps) if heads_alone.is_over(step))
    assert rate.at(first - 2, begin=0.1) == 0
    assert 0 < rate.at(first, begin=0.1) <= 0.02
    assert length.progress(length.step_at(0.4)) == pytest.approx(0.4)  # type: ignore[arg-type]


def test_when_something_is_due() -> None:
    schedule = Schedule(
        length=Length(num_steps=50), record_every=7, evaluate_every="auto", checkpoint_every="auto", compare_every=0
    )
    assert [step for step in range(51) if schedule.is_evaluated_after(step)] == [10, 20, 30, 40, 50]
    assert schedule.steps_to_checkpoint(45, 60.0) == 5
    assert schedule.steps_to_checkpoint(20, 60.0) == 10  # a record of a start that is too short to know its speed
    schedule.set_speed(75.0)  # eight steps in ten minutes
    assert [step for step in range(1, 51) if schedule.is_saved_after(step)] == [8, 10, 16, 20, 24, 30, 32, 40, 48, 50]
    assert schedule.steps_to_checkpoint(20, 60.0) == 8


def test_the_clock_forgets_slow_first_steps() -> None:
    clock = Clock(seconds=10.0)  # of an earlier start
    for passed in (9.0, 1.0, 1.0, 1.0, 2.0, 2.0, 2.0):
        clock.add(passed)
    assert clock.seconds == 28.0
    assert clock.step_s == pytest.approx(7 / 4)
    assert clock.steps_within(35.0) == 4
    assert clock.steps_within(5.0) == 0


def test_a_run_of_so_many_minutes_ends_when_they_are_over(
    small_set: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A clock that moves on by a second at every look makes of a step a second, and of the evaluations nothing."""
    now = iter(range(10**6))
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0.0)
    config = build_config(tmp_path, small_set, "timed", train=TrainConfig(minutes=0.5, precision="fp32"))
    config = replace(config, eval=replace(config.eval, every="auto"))
    outcome = train(config, build_accelerator("fp32"), hooks=loop.Hooks(seconds=lambda: float(next(now))))
    assert outcome.step == RunHistory(config.run.folder).steps["val"][-1]
    assert 28 <= outcome.step <= 31
    said = capsys.readouterr().err
    assert "0.5 min of steps" in said
    first, last = re.findall(r"^step (?:5|29)\S*  loss .*", said, re.MULTILINE)
    assert first.startswith("step 5  loss"), "how many steps there is time for is not known yet"
    assert "left" not in first
    assert re.fullmatch(r"step 29/\d+  loss .* \d s left", last)
    assert f"{outcome.step:,} steps" in said
    assert len(RunHistory(config.run.folder).steps["val"]) == 5


def test_a_guess_of_few_steps_does_not_end_the_schedule_before_it_is_corrected(
    small_set: ShardSet, tmp_path: Path
) -> None:
    config = build_config(tmp_path, small_set, "timed", train=TrainConfig(minutes=1, precision="fp32"))
    length = build_length(config, 1)
    length.fit(1, 1000)
    assert length.progress(1) < 0.03


def test_a_run_has_one_length() -> None:
    with pytest.raises(
        InputError, match=r"`train\.minutes` should be 0 where `train\.steps` or `train\.epochs` is given"
    ):
        TrainConfig(minutes=3, steps=10)
    with pytest.raises(InputError, match=r"`train\.epochs` should be above 0, or auto\. Got 0"):
        TrainConfig(epochs=0)


@pytest.mark.parametrize(
    ("passes", "written", "warned"), [(0.06, "0.06 passes", True), (1, "1 pass", False), (1.2, "1.2 passes", False)]
)
def test_a_run_of_less_than_one_pass_says_so(passes: float, written: str, warned: bool) -> None:
    state = SimpleNamespace(length=Length(num_steps=60), step=10)
    run: Any = SimpleNamespace(state=state, components=SimpleNamespace(epochs_per_step=passes / 60))
    said = loop.describe_duration(run, step_s=0.5)
    assert said.startswith(f"60 steps, {written} over the labels: about 25 s at 0.5 s a step")
    assert ("less than one pass" in said) == warned
