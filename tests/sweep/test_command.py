"""`matl-sweep` as a user starts it."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers.shard_sets import ShardSet
from matl_scale.commands.sweep import main
from matl_scale.runs.history import RunHistory
from matl_scale.runs.sweep_folder import SweepFolder

TINY = [
    "--model.name", "resnet18", "--model.width", "0.0625", "--model.stem", "small", "--data.workers", "0",
    "--data.batch_size", "12",
    "--train.steps", "40", "--train.precision", "fp32", "--checkpoint.every", "10", "--track.mlflow", "false",
]  # fmt: skip


def test_a_plan_is_printed(small_set: ShardSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "sweep"
    options = ["--arms", "dense,k2", "--seeds", "4,7", "--vary", "routing.sigma=0.5,1", "--out", str(out), "--dry-run"]
    assert main(["--data.path", str(small_set.root), *TINY, *options]) == 0
    printed = capsys.readouterr().out
    assert "routing.sigma is not varied in dense, which sets it" in printed
    assert "k2 routing.sigma=0.5: " in printed
    assert "6 runs: 3 variants × seeds 4, 7; " in printed
    assert not out.exists()


def test_tuning_is_said_before_it_begins(
    small_set: ShardSet, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["--arms", "dense", "--seeds", "2", "--tune", "8", "--out", str(tmp_path / "sweep"), "--dry-run"]
    given = ["--data.path", str(small_set.root), *TINY, *options]
    assert main(given) == 0
    printed = capsys.readouterr().out
    assert "settings of every variant are searched on val: 8 trials" in printed
    assert "val is searched and compared, as there is no test" in printed
    assert "each variant after 8 trials; " in printed
    monkeypatch.setattr("matl_scale.extras.find_spec", lambda _: None)
    with pytest.raises(SystemExit):
        main(given)
    assert (
        "--tune needs `optuna`, not installed here. Install with: pip install 'matl-scale[tune]'"
        in capsys.readouterr().err
    )


BAD = {
    "no arms": (["--out", "x"], "--arms"),
    "config key": (["--arms", "dense", "--out", "x", "--routing.sgima", "1"], "Did you mean `routing.sigma`?"),
    "option": (["--arms", "dense", "--out", "x", "--seed", "3"], "Unknown config key `seed` in the command line."),
    "trials": (["--arms", "dense", "--out", "x", "--tune", "-1"], "`--tune` should be at least 1"),
    "parallel": (["--arms", "dense", "--out", "x", "--parallel", "0"], "`--parallel` should be at least 1"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, message = BAD[case]
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_a_sweep_killed_three_times_gives_the_same_table(small_set: ShardSet, tmp_path: Path) -> None:
    def start(name: str) -> "subprocess.Popen[bytes]":
        options = ["--arms", "dense,k2", "--seeds", "2", "--out", str(tmp_path / name)]
        command = [
            sys.executable,
            "-m",
            "matl_scale.commands.sweep",
            "--data.path",
            str(small_set.root),
            *TINY,
            *options,
        ]
        return subprocess.Popen(command)

    assert start("whole").wait() == 0
    for kill in range(3):
        process = start("killed")
        wait_for_checkpoints(tmp_path / "killed", kill + 1)
        process.kill()
        process.wait()
    assert start("killed").wait() == 0
    assert start("killed").wait() == 0  # nothing is left to do
    assert table(tmp_path / "killed") == table(tmp_path / "whole")


def wait_for_checkpoints(folder: Path, number: int) -> None:
    for _ in range(6000):
        if len(list(folder.glob("runs/*/checkpoints/step-*"))) >= number:
            return
        time.sleep(0.02)
    raise AssertionError(f"{folder} has not {number} checkpoints")


def table(path: Path) -> dict[str, object]:
    """Returns every run's figures and what it cost, but for what a clock says."""
    folder = SweepFolder(path)
    plan = folder.read_plan()
    found: dict[str, object] = {}
    for run in plan.runs:
        outcome = json.loads((folder.run_folder(run) / "outcome.json").read_text())
        cost = {key: value for key, value in outcome.items() if key not in ("seconds", "images_per_s")}
        found[run.name] = cost, RunHistory(folder.run_folder(run)).latest(plan.split).metrics.summary()
    return found
