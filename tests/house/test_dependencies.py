"""What the code imports is declared, with a reason: required packages anywhere, those of an extra where it is asked for."""

import ast
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
DISTRIBUTIONS = {  # where the name of the module is another
    "PIL": "pillow",
    "yaml": "pyyaml",
    "sklearn": "scikit-learn",
    "docstring_parser": "docstring-parser",
}
OURS = ("matl_scale", "data_prep")
# modules that a command imports after it has asked for the extra
BEHIND_AN_EXTRA = {"matl_scale/report/page": "report", "matl_scale/sweep/tuning": "tune"}
BROUGHT_BY_ANOTHER = {"sqlalchemy": "mlflow"}  # imported in functions only, to look at that package's own store


def read_list(name: str) -> list[str]:
    """Returns the lines of a list in pyproject.toml that name a requirement."""
    found = re.search(rf"^{name} = \[.*\n((?:    .*\n)+)\]", PROJECT, flags=re.MULTILINE)
    assert found, name
    return [line.strip() for line in found[1].splitlines() if line.strip().startswith('"')]


def names_of(lines: list[str]) -> set[str]:
    return {re.match(r'"([A-Za-z0-9._-]+)', line)[1].lower() for line in lines}  # type: ignore[index]


def imports_of(path: Path) -> tuple[set[str], set[str]]:
    """Returns the distributions that a module imports when it is imported, and those that its functions import."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inside = {
        id(node) for function in ast.walk(tree) if isinstance(function, ast.FunctionDef) for node in ast.walk(function)
    }
    at_once, later = set(), set()
    for node in ast.walk(tree):
        modules = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [node.module or ""]
        for module in {module.split(".")[0] for module in modules} - set(OURS) - set(sys.stdlib_module_names):
            (later if id(node) in inside else at_once).add(DISTRIBUTIONS.get(module, module).lower())
    return at_once, later


@pytest.mark.parametrize("name", ["dependencies", "report", "examples", "export", "tune", "timm", "docs", "dev"])
def test_every_requirement_has_its_reason(name: str) -> None:
    for line in read_list(name):
        assert "#" in line or line.startswith('"matl-scale['), line


@pytest.mark.parametrize("package", OURS)
def test_imports_are_declared(package: str) -> None:
    required = names_of(read_list("dependencies"))
    optional = set.union(
        *(names_of(read_list(extra)) for extra in ("report", "examples", "export", "tune", "timm", "dev"))
    )
    for path in (ROOT / package).rglob("*.py"):
        name = path.relative_to(ROOT).as_posix()
        extras = [extra for folder, extra in BEHIND_AN_EXTRA.items() if name.startswith(f"{folder}/")]
        allowed = required.union(*(names_of(read_list(extra)) for extra in extras))
        at_once, later = imports_of(path)
        assert at_once <= allowed, f"{name} imports {at_once - allowed}"
        assert later <= required | optional | set(BROUGHT_BY_ANOTHER), f"{name} imports {later - required - optional}"


def test_commands_lead_to_a_main() -> None:
    section = PROJECT.split("[project.scripts]\n")[1].split("\n\n")[0]
    commands = dict(re.findall(r'^(matl-\w+) = "([\w.]+):main"$', section, flags=re.MULTILINE))
    assert len(commands) == len(section.splitlines()) == 12
    for module in commands.values():
        tree = ast.parse((ROOT / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8"))
        assert any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in tree.body), module
