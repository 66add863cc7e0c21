"""`launch/benchmark.py` as a user starts it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from matl_scale.commands.benchmark import main

ROOT = Path(__file__).parents[2]


def benchmark(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "launch/benchmark.py", *arguments]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False)


def test_figures_as_a_table_and_as_json(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    result = benchmark("step", "--only", "resnet18_vs_small", "--rounds", "2", "--json", str(file))
    assert result.returncode == 0, result.stderr
    assert "step_resnet18_vs_small" in result.stdout
    figures = json.loads(file.read_text())
    assert [figure["name"] for figure in figures] == ["step_resnet18_vs_small", "step_resnet18_vs_small_with_optimizer"]
    for figure in figures:
        assert set(figure) == {
            *("suite", "name", "ratio", "median", "low", "high", "rounds", "numerator", "denominator")
        }
        assert figure["suite"] == "step"
        assert figure["rounds"] == 2
        assert 0 < figure["low"] <= figure["median"] <= figure["high"]
        assert figure["ratio"] > 0


def test_a_suite_without_enough_ranks_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(["step", "sync"])
    message = capsys.readouterr().err
    assert "The suite `sync` should have at least 2 ranks. Got 1." in message
    assert "--num_processes 2 launch/benchmark.py sync" in message
    assert len(message.splitlines()) == 1


def test_a_figure_that_does_not_exist_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(["--only", "no_such_figure"])
    message = "--only should be part of a figure's name in step, eval, losses, memory, cost. Got 'no_such_figure'."
    assert message in capsys.readouterr().err


def test_options_that_cannot_be_used_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(["step", "--rounds", "0"])
    assert "`--rounds` should be at least 1. Got 0." in capsys.readouterr().err
    assert refused(["step", "--json", str(tmp_path / "missing" / "figures.json")])
    assert "`--json`" in capsys.readouterr().err


def refused(arguments: list[str]) -> bool:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return ended.value.code == 2
