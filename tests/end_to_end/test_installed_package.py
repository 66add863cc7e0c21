"""The wheel in an environment of its own, from an empty folder: what a user without the repository has.

The environment holds links to the required packages that are installed here, so nothing is downloaded and no other torch
can get in; optional packages and the repository are out of its reach.
"""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
COMMANDS = (
    "benchmark",
    "data",
    "decide",
    "doctor",
    "embed",
    "evaluate",
    "export",
    "predict",
    "report",
    "sweep",
    "sync",
    "train",
)
TEN_STEPS = [
    "--data.path", "data/digits", "--data.image_size", "16", "--data.workers", "0",
    "--model.name", "vgg11_bn", "--model.width", "0.0625", "--model.stem", "small",
    "--train.steps", "10", "--train.precision", "fp32", "--eval.batch_size", "512", "--track.every", "5",
]  # fmt: skip

pytestmark = pytest.mark.package


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel, built from a copy: a `build` folder of another day would leave its modules in it."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("matl_scale", "data_prep"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    call(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", out, source, cwd=out)
    (path,) = out.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def scripts(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of commands of an environment with the wheel and what it requires."""
    environment = tmp_path_factory.mktemp("environment")
    call(sys.executable, "-m", "venv", "--without-pip", environment, cwd=environment)
    scripts = environment / "bin"
    pip = [sys.executable, "-m", "pip", "--python", scripts / "python", "install", "--quiet"]
    call(*pip, "--no-deps", "--no-compile", "--no-index", wheel, cwd=environment)
    (packages,) = (environment / "lib").glob("python*/site-packages")
    (distribution,) = metadata.distributions(name="matl-scale", path=[str(packages)])
    for name in required_by(distribution.requires or []):
        link_files(metadata.distribution(name), packages)
    return scripts


def required_by(requirements: list[str]) -> set[str]:
    """Returns the names of all distributions that requirements lead to, extras that they do not ask for aside."""
    names: set[tuple[str, str]] = set()
    waiting = [(Requirement(text), "") for text in requirements]
    while waiting:
        requirement, extra = waiting.pop()
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        for wanted in ("", *requirement.extras):
            name = (canonicalize_name(requirement.name), wanted)
            if name not in names:
                names.add(name)
                waiting += [(Requirement(text), wanted) for text in metadata.requires(requirement.name) or []]
    return {name for name, _ in names}


def link_files(distribution: metadata.Distribution, packages: Path) -> None:
    """Links the files and top-level folders of an installed distribution into another environment."""
    for top in {file.parts[0] for file in distribution.files or []} - {"..", "__pycache__"}:
        if not top.endswith(".pth") and not (packages / top).exists():
            (packages / top).symlink_to(Path(str(distribution.locate_file(top))))


def call(*command: str | Path, cwd: Path) -> str:
    """Runs a command that has to succeed, without our variables that lead Python to other packages."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "MLFLOW"))}
    result = subprocess.run(
        list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout


def test_what_the_wheel_holds(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {"matl_scale/py.typed", "data_prep/py.typed", "matl_scale/report/page/report.html.j2"} <= set(names)
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert {name.split("/")[0].split("-")[0] for name in names} == {"matl_scale", "data_prep"}


def test_every_command_is_there_and_imports_required_packages_only(scripts: Path, tmp_path: Path) -> None:
    assert {path.name for path in scripts.glob("matl-*")} == {f"matl-{name}" for name in COMMANDS}
    code = """
from importlib.metadata import entry_points
import matl_scale
for command in entry_points(group="console_scripts"):
    if command.name.startswith("matl-"):
        command.load()
print(matl_scale.__file__)
"""
    assert call(scripts / "python", "-c", code, cwd=tmp_path).startswith(f"{scripts.parent}/")


def test_digits_are_trained_and_reported_from_an_empty_folder(scripts: Path, tmp_path: Path) -> None:
    call(scripts / "matl-data", "example", "digits", "--out", "data/digits", "--tasks", "digit_in_?", cwd=tmp_path)
    assert "run: val after 10 steps, 10 tasks" in call(scripts / "matl-train", *TEN_STEPS, cwd=tmp_path)
    launcher = (scripts / "python", "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1")
    more = (*TEN_STEPS, "--run.name", "launched", "--track.mlflow", "false")
    call(*launcher, "-m", "matl_scale.commands.train", *more, cwd=tmp_path)
    losses = [read_losses(tmp_path / "runs" / name) for name in ("run", "launched")]
    assert [step for step, _ in losses[0]] == [5, 10]
    assert losses[0] == losses[1]
    assert "10 tasks" in call(scripts / "matl-report", "runs/run", cwd=tmp_path)
    with pytest.raises(AssertionError, match=r"needs `plotly`.*pip install 'matl-scale\[report\]'"):
        call(scripts / "matl-report", "runs/run", "--out", "page.html", cwd=tmp_path)


def read_losses(run: Path) -> list[tuple[int, float]]:
    records = map(json.loads, (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return [(record["step"], record["train/loss"]) for record in records if "train/loss" in record]
