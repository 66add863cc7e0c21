"""Searches whose training is a function of the test: what counts as a trial, what survives a stop and a death."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from helpers.shard_sets import ShardSet
from helpers.sweeps import build_request, sweep_config
from matl_scale.errors import InputError, RunError
from matl_scale.models.routing_config import RoutingConfig
from matl_scale.runs.sweep_folder import SearchOutcome, SweepFolder
from matl_scale.storage.locks import lock_folder
from matl_scale.sweep.open_sweep import open_sweep
from matl_scale.sweep.tuning.died import mark_death
from matl_scale.sweep.tuning.search import TrainTrial, run_search
from matl_scale.sweep.tuning.study import JOURNAL_FILE
from matl_scale.sweep.tuning.train_trial import Report
from matl_scale.train.config import Config
from matl_scale.train.schedule import PARTS

TRIALS = 7


@pytest.fixture
def sweep(tmp_path: Path, small_set: ShardSet) -> SweepFolder:
    """A sweep of which the arm k2 is tuned: learning rate, decay and σ."""
    config = sweep_config(tmp_path, small_set, steps=60, routing=RoutingConfig())
    return open_sweep(build_request(config, "k2", tune=TRIALS), tmp_path / "sweep", 1).folder


def goodness(config: Config) -> float:
    """Returns what a config reaches in these tests: the best learning rate is an eighth of the config's."""
    return 1 / (1 + float(config.optim.lr)) - (0.5 if config.routing.sigma == 0.25 else 0)


def reach(values: Callable[[Config], float]) -> TrainTrial:
    """Returns a training that comes nearer to a value in every part."""

    def train(configs: Sequence[Config], report: Report) -> float:
        (config,) = configs
        for part in range(1, PARTS + 1):
            report(part, values(config) * part / PARTS, part == PARTS)
        return values(config)

    return train


def search(
    folder: SweepFolder, train: TrainTrial, lines: list[str] | None = None, trials: int = TRIALS
) -> SearchOutcome | None:
    plan = replace(folder.read_plan(), tune=trials)
    said = [] if lines is None else lines
    return run_search(folder, plan, plan.searches[0], said.append, train)


def test_the_best_trial_says_the_settings_of_all_runs(sweep: SweepFolder) -> None:
    lines: list[str] = []
    tried: list[float] = []

    def good(config: Config) -> float:
        tried.append(goodness(config))
        return tried[-1]

    outcome = search(sweep, reach(good), lines)
    assert outcome is not None
    assert (outcome.status, outcome.trials, len(lines)) == ("finished", TRIALS, TRIALS)
    assert outcome.value == max(tried)
    assert outcome.tuned["optim.lr"] < 0.05
    assert outcome.pruned > 0  # some are clearly worse
    assert lines[0].startswith("k2: trial 1 of 7: ")
    assert "with what the rules choose; best" in lines[0]
    assert any("ended early" in line for line in lines)
    (variant,) = sweep.read_plan().variants
    assert variant.tuned == outcome.tuned


def test_the_first_trial_wins_over_equals(sweep: SweepFolder) -> None:
    outcome = search(sweep, reach(lambda _: 0.5))
    assert outcome == SearchOutcome(status="finished", value=0.5, best=1, finished=TRIALS)
    assert sweep.read_plan().variants[0].tuned == {}


def values_of(folder: SweepFolder) -> list[tuple[float, str]]:
    """Returns learning rate and σ of every trial by the study's own file, in order."""
    lines = (folder.search_folder(folder.read_plan().searches[0]) / JOURNAL_FILE).read_text().splitlines()
    settings = [json.loads(line).get("user_attr", {}).get("settings") for line in lines]
    return [(each.get("optim.lr"), each.get("routing.sigma")) for each in settings if each is not None]


def test_an_interrupted_search_goes_the_way_it_would_have_gone(
    sweep: SweepFolder, tmp_path: Path, small_set: ShardSet
) -> None:
    whole = search(sweep, reach(goodness))

    config = sweep_config(tmp_path, small_set, steps=60, routing=RoutingConfig())
    other = open_sweep(build_request(config, "k2", tune=TRIALS), tmp_path / "other", 1).folder
    trained: list[str] = []
    starts = 0

    def interrupted(configs: Sequence[Config], report: Report) -> float | None:
        nonlocal starts
        starts += 1
        if starts in (2, 4, 5):  # stopped after two parts
            report(1, goodness(configs[0]) / PARTS, False)
            report(2, 2 * goodness(configs[0]) / PARTS, False)
            return None
        trained.append(configs[0].run.name)
        return reach(goodness)(configs, report)

    for _ in range(3):
        assert search(other, interrupted) is None
    # a line that was not written to its end, and a lock that its process has left
    place = other.search_folder(other.read_plan().searches[0])
    with (place / JOURNAL_FILE).open("a") as file:
        file.write('{"op_code": 7, "tri')
    (place / f"{JOURNAL_FILE}.lock").symlink_to(JOURNAL_FILE)
    again = search(other, interrupted)
    assert again == whole
    assert values_of(other) == values_of(sweep)
    assert trained == [f"trial-{i + 1:03}" for i in range(TRIALS)]
    # all is done: nothing is trained any more
    assert search(other, lambda *_: pytest.fail("a trial too many")) == whole


def test_a_trial_that_fails_is_one_of_the_trials(sweep: SweepFolder) -> None:
    def diverges(config: Config) -> float:
        if float(config.optim.lr) > 0.05:
            raise RunError("the loss is not finite")
        return 0.5

    lines: list[str] = []
    outcome = search(sweep, reach(diverges), lines)
    assert outcome is not None
    assert outcome.trials == TRIALS
    assert outcome.failed > 0
    assert sum("failed: the loss is not finite" in line for line in lines) == outcome.failed


def test_a_search_without_a_result_says_why_and_is_tried_again(sweep: SweepFolder) -> None:
    def breaks(_: Config) -> float:
        raise RunError("no such disk")

    for _ in range(2):
        with pytest.raises(RunError, match="none of 2 trials was trained to its end; the first: no such disk"):
            search(sweep, reach(breaks), trials=2)
    outcome = search(sweep, reach(goodness), trials=2)
    assert outcome is not None
    assert outcome.finished == 2


def test_the_death_of_a_process_costs_one_trial(sweep: SweepFolder) -> None:
    names: list[str] = []

    def asked(configs: Sequence[Config], report: Report) -> float | None:
        names.append(configs[0].run.name)
        return None if len(names) == 1 else reach(lambda _: 0.5)(configs, report)

    search(sweep, asked)
    place = sweep.search_folder(sweep.read_plan().searches[0])
    mark_death(place, "its process was ended by SIGKILL")
    (place / "trial-001" / "checkpoints").mkdir(parents=True)
    lines: list[str] = []
    outcome = search(sweep, asked, lines, trials=3)
    assert outcome is not None
    assert (outcome.failed, outcome.finished) == (1, 2)
    assert lines[0] == "k2: trial 1 of 3: failed: its process was ended by SIGKILL"
    assert names == ["trial-001", "trial-002", "trial-003"]
    assert not (place / "trial-001" / "checkpoints").exists()
    # dead without a trial: this is no trial's fault
    mark_death(place, "its process ended with exit code 3")
    with pytest.raises(RunError, match="exit code 3"):
        search(sweep, asked)


def test_a_study_that_another_process_holds_is_refused(sweep: SweepFolder) -> None:
    place = sweep.search_folder(sweep.read_plan().searches[0])
    place.mkdir(parents=True)
    with lock_folder(place), pytest.raises(InputError, match=r"k2-search is in use by process \d+ on "):
        search(sweep, reach(goodness))
