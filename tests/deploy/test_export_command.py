"""`matl-export`: a file per task, with a name that is safe, compared with the run's network."""

import re
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.run_configs import build_config
from helpers.shard_sets import ShardSet
from matl_scale.commands import export as command
from matl_scale.deploy.export import export_tasks
from matl_scale.deploy.export.description import file_stem
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
    stems = [file_stem(name, names) for name in names]
    assert len({stem.casefold() for stem in stems}) == len(names)
    for stem in stems:
        assert re.fullmatch(r"[A-Za-z0-9_-]{1,100}", stem)
        assert not stem.startswith("-")


def test_plain_names_stay() -> None:
    names = ["5_o_Clock_Shadow", "t-shirt", "Cat", "cat"]
    assert [file_stem(name, names) for name in names[:2]] == names[:2]
    assert re.fullmatch("Cat__[0-9a-f]{10}", file_stem("Cat", names))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, small_set: ShardSet) -> Path:
    config = build_config(
        tmp_path_factory.mktemp("runs"),
        small_set,
        "run",
        train=TrainConfig(steps=3, precision="fp32"),
        eval=EvalConfig(every=3, batch_size=7),
    )
    train(config, build_accelerator("fp32"))
    return config.run.folder


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
    assert "`--task` should match task names. `tusk_3` matches none of the 6 tasks. Did you mean `task_3`?" in line
    (tmp_path / "file").touch()
    line = refusal("--run", run, "--task", "task_0", "--out", tmp_path / "file" / "below")
    assert line.endswith("/file/below cannot be written: Not a directory. Choose another folder.")
    line = refusal("--run", next((run / "best").iterdir()), "--task", "task_0")
    assert "--out should be given" in line
    monkeypatch.setattr(export_tasks, "open_exported", lambda path: lambda images: torch.zeros(len(images), 1) + 9)  # noqa: ARG005
    assert "gives other logits than the run's network" in refusal(
        "--run", run, "--task", "task_0", "--out", tmp_path, code=1
    )
