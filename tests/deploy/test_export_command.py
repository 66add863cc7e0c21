"""`matl-export`: a file per task or route, or one for all, with names that are safe, compared with the run's network."""

import re
import runpy
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.decision_rules import (
    forget_decisions,
    give_decisions,
    give_prior_offsets,
    slow_decisions,
    slow_probabilities,
)
from helpers.exported_networks import count_layers
from helpers.run_configs import build_config
from helpers.shard_sets import ShardSet
from matl_scale.commands import export as command
from matl_scale.decisions.rule import DecisionRule
from matl_scale.deploy.export import export_run
from matl_scale.deploy.export.description import FileNames, safe_names
from matl_scale.deploy.export.formats import open_exported
from matl_scale.deploy.task_rules import Output
from matl_scale.models.network import normalise
from matl_scale.models.routing_config import RoutingConfig
from matl_scale.runs.checkpoints.checkpoint import read_info
from matl_scale.train.evaluation import EvalConfig
from matl_scale.train.process_group import build_accelerator
from matl_scale.train.run import train
from matl_scale.train.step.train_step import TrainConfig

NAMES = [
    "a",
    "A",
    "a b",
    "a_b",
    "a__b",
    "../../etc/passwd",
    "/x",
    ".",
    "..",
    "",
    "-rf",
    "é",
    "e\n",
    "x" * 300,
    "con fusion/",
    "a.b",
    ".",
]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.one_of(st.text(min_size=1), st.sampled_from(NAMES)), min_size=1, max_size=6, unique=True))
def test_file_names_are_safe_and_differ(names: list[str]) -> None:
    stems = safe_names(names)
    assert len({stem.casefold() for stem in stems}) == len(names)
    for stem in stems:
        assert re.fullmatch(r"[A-Za-z0-9_-]{1,100}", stem)
        assert not stem.startswith("-")


def test_plain_names_stay() -> None:
    names = ["5_o_Clock_Shadow", "t-shirt", "Cat", "cat"]
    assert safe_names(names)[:2] == names[:2]
    assert re.fullmatch("Cat__[0-9a-f]{10}", safe_names(names)[2])


SHORT = st.sampled_from(["all", "ALL", "all_", "x", "route-x", "Route-X", "route-x_", "a b", "route-a_b"])


@settings(max_examples=50, deadline=None)
@given(st.lists(SHORT, min_size=1, unique=True), st.lists(SHORT, min_size=1, unique=True))
def test_files_of_tasks_of_routes_and_of_all_have_different_names(tasks: list[str], routes: list[str]) -> None:
    names = FileNames.choose(tasks, routes)
    assert names.tasks == safe_names(tasks)
    found = [*names.tasks, *names.routes, names.all_tasks]
    assert len({name.casefold() for name in found}) == len(tasks) + len(routes) + 1
    for name in found:
        assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,110}", name)


def test_names_of_files_are_plain_where_they_can_be() -> None:
    names = FileNames.choose(["smiling", "hat"], ["faces", "smiling"])
    assert names == FileNames(tasks=["smiling", "hat"], routes=["route-faces", "route-smiling"], all_tasks="all")


def train_run(folder: Path, shards: ShardSet, routing: RoutingConfig) -> Path:
    evaluation = EvalConfig(every=3, batch_size=7)
    config = build_config(
        folder, shards, "run", train=TrainConfig(steps=3, precision="fp32"), eval=evaluation, routing=routing
    )
    train(config, build_accelerator("fp32"))
    return config.run.folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, small_set: ShardSet) -> Path:
    """A run whose tasks have a route each."""
    return train_run(tmp_path_factory.mktemp("runs"), small_set, RoutingConfig(routes="task"))


@pytest.fixture(scope="module")
def run_on_routes(tmp_path_factory: pytest.TempPathFactory, small_set: ShardSet) -> Path:
    """A run whose six tasks share two routes."""
    routing = RoutingConfig(routes={"a b": "task_[024]", "rest": "task_[135]"}, start="layer3")
    return train_run(tmp_path_factory.mktemp("runs"), small_set, routing)


def call(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["export.py", *map(str, arguments)])
    try:
        command.main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_the_command_writes_a_file_per_task_and_compares(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "--run", run, "--task", "*") == 0
    lines = capsys.readouterr().out.splitlines()
    assert (
        len(lines) == len(list((run / "export").glob("*.safetensors"))) == len(list((run / "export").glob("*.py"))) == 6
    )
    for line in lines:
        assert re.search(r"\.safetensors: [\d.]+ MB, \d\d\.\d% of the full network, max \|Δ logit\| ", line)


def test_the_command_writes_a_file_per_route(
    run_on_routes: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "--run", run_on_routes, "--route", "a *", "--route", "rest") == 0
    first, second = capsys.readouterr().out.splitlines()
    assert re.search(r"/route-a_b__\w{10}\.safetensors: 3 tasks, [\d.]+ MB, \d\d\.\d% of the full network, max ", first)
    assert "/route-rest.safetensors: 3 tasks, " in second
    module = runpy.run_path(str(run_on_routes / "export/route-rest.py"))
    assert module["TASKS"] == ["task_1", "task_3", "task_5"]
    assert [logits.shape for logits in module["load"]()(torch.zeros(2, 3, 16, 16))] == [(2, 2)] * 3
    assert call(monkeypatch, "--run", run_on_routes, "--task", "task_4") == 0
    assert runpy.run_path(str(run_on_routes / "export/task_4.py"))["TASK"] == "task_4"


@pytest.mark.parametrize(
    ("kind", "files"),
    [
        ("safetensors", ["all/network.py", "all/network.safetensors"]),
        ("onnx", ["all.onnx"]),
        ("torch.export", ["all.pt2"]),
    ],
)
def test_the_command_writes_one_file_for_all(
    run_on_routes: Path,
    kind: str,
    files: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    assert call(monkeypatch, "--run", run_on_routes, "--all", "--format", kind, "--out", tmp_path) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert re.search(r": 6 tasks, [\d.]+ MB, \d+\.\d% of the full network, max \|Δ logit\| ", line)
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*")) == files
    logits = open_exported(tmp_path / files[-1])(torch.zeros(2, 3, 16, 16))
    assert [found.shape[1] for found in logits] == [2, 2, 3, 2, 5, 2]
    assert count_layers(tmp_path / files[-1], "conv") == 10 + 2 * 10  # those in front of layer3 once


@pytest.mark.parametrize("output", ["probabilities", "decisions"])
def test_files_with_another_output_are_compared_with_the_rules_of_the_run(
    run_on_routes: Path,
    output: Output,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    run = Path(shutil.copytree(run_on_routes, tmp_path / "run"))
    (network,) = (run / "best").glob("step-*")
    forget_decisions(network)
    give_prior_offsets(network, {"task_1": [0.0, 3.0]})
    unfitted = [DecisionRule.unfitted(count) for count in read_info(network).tasks.values()]
    unfitted[1] = DecisionRule.unfitted(2, [0.0, 3.0])
    images = normalise(
        torch.randint(256, (6, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    )
    assert call(monkeypatch, "--run", run, "--all", "--out", tmp_path / "logits") == 0
    logits = open_exported(tmp_path / "logits/all/network.safetensors")(images)
    for fitted in (False, True):
        rules = list(give_decisions(network).rules.values()) if fitted else unfitted
        capsys.readouterr()
        assert call(monkeypatch, "--run", run, "--all", "--output", output, "--out", tmp_path) == 0
        line = capsys.readouterr().out
        assert ("max |Δ probability| " if output == "probabilities" else "equal decisions") in line
        for rule, own, found in zip(
            rules, logits, open_exported(tmp_path / "all/network.safetensors")(images), strict=True
        ):
            if output == "probabilities":
                np.testing.assert_allclose(found.detach(), slow_probabilities(rule, own.detach().numpy()), atol=1e-5)
            else:
                assert found.tolist() == slow_decisions(rule, own.detach().numpy())
    assert runpy.run_path(str(tmp_path / "all/network.py"))["FITTED_ON"] == "val"


def test_wrong_decisions_of_a_file_and_decisions_of_another_network_are_refused(
    run_on_routes: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    run = Path(shutil.copytree(run_on_routes, tmp_path / "run"))
    (network,) = (run / "best").glob("step-*")
    give_decisions(network)
    wrong = lambda path: lambda images: 1 - open_exported(path)(images)  # noqa: E731
    monkeypatch.setattr(export_run, "open_exported", wrong)
    assert call(monkeypatch, "--run", run, "--task", "task_1", "--output", "decisions") == 1
    assert "gives other decisions than the run's network for task `task_1`: they" in capsys.readouterr().err
    give_decisions(network, sha256="0" * 64)
    assert call(monkeypatch, "--run", run, "--task", "task_1") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "has the decisions of another network, of step 3. Fit them again" in line


def test_a_file_is_compared_task_by_task(
    run_on_routes: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def swapped(path: Path) -> Any:
        return lambda images: [logits + (i == 3) for i, logits in enumerate(open_exported(path)(images))]

    monkeypatch.setattr(export_run, "open_exported", swapped)
    assert call(monkeypatch, "--run", run_on_routes, "--all", "--out", tmp_path) == 1
    assert "gives other logits than the run's network for task `task_3`: they" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "*", "--all"], "argument --all: not allowed with argument --task"),
        (["--route", "*", "--task", "*"], "argument --task: not allowed with argument --route"),
        ([], "One of --task NAME, --route NAME and --all should be given."),
        (
            ["--route", "rust"],
            "`--route` should match names of routes. `rust` matches none of the 2 routes. Did you mean `rest`?",
        ),
    ],
)
def test_bad_choices_are_refused(
    run_on_routes: Path,
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert call(monkeypatch, "--run", run_on_routes, *arguments) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_what_the_command_refuses(
    run: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    def refusal(*arguments: object, code: int = 2) -> str:
        assert call(monkeypatch, *arguments) == code
        (line,) = capsys.readouterr().err.splitlines()
        return line

    line = refusal("--run", run, "--task", "tusk_3")
    assert "`--task` should match names of tasks. `tusk_3` matches none of the 6 tasks. Did you mean `task_3`?" in line
    (tmp_path / "file").touch()
    line = refusal("--run", run, "--task", "task_0", "--out", tmp_path / "file" / "below")
    assert line.endswith(
        "/file/below cannot be written: Not a directory. Check the path: it leads through a file as if that were a folder."
    )
    line = refusal("--run", next((run / "best").iterdir()), "--task", "task_0")
    assert "--out should be given" in line
    monkeypatch.setattr(export_run, "open_exported", lambda path: lambda images: torch.zeros(len(images), 1) + 9)  # noqa: ARG005
    assert "gives other logits than the run's network" in refusal(
        "--run", run, "--task", "task_0", "--out", tmp_path, code=1
    )
