"""The modules directly below matl_scale/: public names, what commands are called, and missing packages."""

import ast
import sys
from pathlib import Path

import pytest

import matl_scale
from matl_scale.cli import program_name
from matl_scale.errors import InputError
from matl_scale.extras import require


@pytest.mark.parametrize(
    ("started", "name"),
    [
        ("launch/train.py", "train.py"),
        ("train.py", "train.py"),
        ("/home/me/.venv/bin/matl-train", "matl-train"),
        ("/home/me/.venv/lib/python3.11/site-packages/matl_scale/commands/train.py", "matl-train"),  # python -m
        ("/usr/bin/pytest", "matl-train"),
    ],
)
def test_a_command_is_called_what_the_user_typed(started: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [started, "--data.path", "x"])
    assert program_name("matl-train") == name


def test_type_checkers_see_the_public_names() -> None:
    tree = ast.parse(Path(matl_scale.__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.asname: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert seen == matl_scale._PUBLIC
    assert sorted(matl_scale.__all__) == sorted(seen)


def test_missing_packages_are_named_with_the_line_that_brings_them() -> None:
    require("report", "json", purpose="The page")
    with pytest.raises(InputError) as error:
        require("report", "json", "no_such_module", "nor_this_one", purpose="The page")
    assert str(error.value) == (
        "The page needs `no_such_module`, `nor_this_one`, not installed here. "
        "Install with: pip install 'matl-scale[report]'"
    )
