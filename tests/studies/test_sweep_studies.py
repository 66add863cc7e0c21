"""Studies of sweeps, with made-up sweeps: what is started, and what counts as right, as told, and as different."""

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from helpers.made_up_sweeps import finished, write_sweep
from helpers.shard_sets import ShardSet
from matl_scale.benchmark.studies import sweeps
from matl_scale.benchmark.studies.runner import run_study
from matl_scale.benchmark.studies.workbench import Workbench
from matl_scale.errors import RunError
from matl_scale.runs.sweep_folder import Outcome, PlannedRun, SweepFolder, SweepPlan
from matl_scale.train.loop import Hooks

NUM_TASKS = 12
Started = list[list[str]]


def figures(means: dict[str, float], seed: int, noise: float = 0.004) -> dict[str, np.ndarray]:
    """Returns made-up figures of three seeds, as different as their means."""
    generator = np.random.default_rng(seed)
    return {name: mean + noise * generator.normal(size=(3, NUM_TASKS)) for name, mean in means.items()}


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workbench:
    monkeypatch.setattr(Workbench, "shard_set", lambda _, name, __: tmp_path / name)
    return Workbench(work=tmp_path / "work", data={})


def fake_sweeps(
    monkeypatch: pytest.MonkeyPatch, means_of: Callable[[str], dict[str, float]], noise: float = 0.004
) -> Started:
    """Lets a sweep write made-up figures instead of training: those that `means_of` gives for the name of its folder."""
    started: Started = []

    def run(arguments: Sequence[str]) -> None:
        started.append(list(arguments))
        out = Path(arguments[arguments.index("--out") + 1])
        write_sweep(out, figures(means_of(out.name), len(started), noise))

    monkeypatch.setattr(sweeps, "run_sweep", run)
    return started


def test_answers_are_asked_of_other_seeds(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    clear = {"dense": 0.6, "task": 0.7, "k8": 0.65}
    other_best = {"dense": 0.6, "task": 0.7, "k8": 0.8}
    equal = dict.fromkeys(clear, 0.6)
    means = {
        "digits-175-first": clear, "digits-175-second": clear,
        "fashion-10-first": equal, "fashion-10-second": clear,
        "cifar-20-first": clear, "cifar-20-second": other_best,
    }  # fmt: skip
    started = fake_sweeps(monkeypatch, lambda name: means.get(name, clear))
    text = run_study(sweeps.ANSWERS, bench)
    assert len(started) == 10
    rows = {line.split(" | ")[0].removeprefix("| "): line for line in text.splitlines() if " of 1 (" in line}
    assert list(rows) == ["digits-175", "fashion-10", "cifar-20", "cifar-100", "four-sources"]
    cells = {name: [cell.split(" (")[0] for cell in line.split(" | ")[2:4]] for name, line in rows.items()}
    assert cells["digits-175"] == ["1 of 1", "1 of 1"]
    assert cells["fashion-10"] == ["1 of 1", "0 of 1"], "it cannot tell, and says so"
    assert cells["cifar-20"] == ["0 of 1", "1 of 1"], "it names an arm that other seeds do not confirm"
    seeds = [arguments[arguments.index("--seeds") + 1] for arguments in started]
    assert seeds == ["0,1,2", "3,4,5"] * 5


def test_equal_arms_are_counted_where_they_are_called_different(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_differs = {"one": 0.6, "other": 0.9}
    same = {"one": 0.6, "other": 0.6}
    started = fake_sweeps(monkeypatch, lambda name: one_differs if name == "same-7" else same, noise=0.01)
    text = run_study(sweeps.SAME_ARM, bench)
    assert len({arguments[arguments.index("--seeds") + 1] for arguments in started}) == len(started) == 20
    (line,) = (line for line in text.splitlines() if line.startswith("| one config"))
    called = line.split(" | ")[2]
    assert called.startswith(("1 of 20", "2 of 20"))
    arms = started[0][started[0].index("--arms") + 1].split(",")
    assert Path(arms[0]).read_text() == Path(arms[1]).read_text()


def test_runs_count_cpu_time_and_one_that_stopped_ends_the_study(
    small_set: ShardSet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    clocks = []

    def run(folder: SweepFolder, plan: SweepPlan, planned: PlannedRun, hooks: Hooks) -> Outcome | None:  # noqa: ARG001
        os.write(1, f"training {planned.name}".encode())
        clocks.append(hooks.seconds)
        return finished() if len(clocks) < 3 else None

    monkeypatch.setattr(sweeps, "run_planned", run)
    out = tmp_path / "sweep"
    with pytest.raises(
        RunError, match=r"dense-seed1 in .*sweep was asked to stop\. Start the study again to continue it"
    ):
        sweeps.run_sweep(
            ["--data.path", str(small_set.root), "--arms", "dense,task", "--budget", "minutes=1", "--out", str(out)]
        )
    assert clocks == [time.process_time] * 3
    assert "training dense-seed0" in (out / "logs" / "dense-seed0.log").read_text()
