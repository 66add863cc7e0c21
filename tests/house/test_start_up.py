"""What a command imports before it has understood its command line: seconds of imports do not belong before `--help`."""

import json
import subprocess
import sys

import pytest

SLOW = {"torch", "torchvision", "mlflow", "pandas", "accelerate"}
SLOWISH = {"numpy", "pyarrow", "scipy", "fsspec", "PIL"}
# reads command lines in one process and writes after each which modules there are by now
SCRIPT = """
import contextlib, io, json, sys
from importlib import import_module

for module, *arguments in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(out):
        try:
            import_module(module).main(arguments)
            code = 0
        except SystemExit as end:
            code = end.code
    print(json.dumps([code, out.getvalue(), sorted({name.partition(".")[0] for name in sys.modules})]))
"""
LINES = [
    # those that import least come first
    ["data_prep.__main__", "--help"],
    ["data_prep.__main__", "nonsense"],
    ["matl_scale.commands.evaluate", "--help"],
    ["matl_scale.commands.evaluate", "--nonsense"],
    ["matl_scale.commands.decide", "--help"],
    ["matl_scale.doctor.__main__", "--help"],
    ["matl_scale.commands.embed", "--help"],
    ["data_prep.__main__", "shard", "--help"],
    ["data_prep.__main__", "shard", "--images", "x"],
    ["data_prep.__main__", "shard", "--images", "x", "--labels", "x", "--out", "x", "--partition", "2/1"],
    ["matl_scale.commands.predict", "--help"],
    ["matl_scale.commands.predict", "--workers", "none"],
    ["matl_scale.commands.export", "--help"],
    ["matl_scale.commands.export", "--format", "none"],
    ["matl_scale.report.__main__", "--help"],
    ["matl_scale.report.__main__"],
    ["matl_scale.tracking.sync", "--help"],
]
NUM_LEAST = 6


@pytest.fixture(scope="module")
def found() -> list[tuple[int, str, set[str]]]:
    """For each of `LINES` the exit code, what was printed, and the libraries that were imported by then."""
    output = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(LINES)], check=True, capture_output=True, text=True
    ).stdout
    return [(code, text, set(modules)) for code, text, modules in map(json.loads, output.splitlines())]


@pytest.mark.parametrize("index", range(len(LINES)), ids=[" ".join(line) for line in LINES])
def test_a_command_line_is_answered_without_slow_imports(index: int, found: list[tuple[int, str, set[str]]]) -> None:
    code, text, modules = found[index]
    assert (code, "usage:" in text) == (0, True) if "--help" in LINES[index] else code == 2, text
    assert not SLOW & modules
    assert index >= NUM_LEAST or not SLOWISH & modules


def test_the_launcher_starts_beside_timm_which_imports_torchvision() -> None:
    """It imports timm if that is there, before any script, and beside a CPU build of torch torchvision fails alone."""
    script = (
        "import accelerate.commands.accelerate_cli as cli, sys; assert 'timm' in sys.modules; cli.launch_command_parser"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True, cwd="/")
