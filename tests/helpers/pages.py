"""The fenced blocks of README and docs, and how they are run as they are written.

A block of ```bash or ```python is run, unless a comment right above it says why it is not:

    <!-- heavy: trains -->       takes minutes: run by name (pytest -m docs_heavy)
    <!-- gpu: … -->              needs GPUs
    <!-- cluster: … -->          needs Slurm
    <!-- elsewhere: … -->        needs something else, or is run by other tests

`<!-- file: NAME -->` above a block of Python saves it, for the commands below it.
"""

import contextlib
import importlib.util
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES += sorted(page for folder in ("guides", "reference") for page in (ROOT / "docs" / folder).glob("*.md"))
RUN_BY_NAME = "heavy"
NEVER_RUN = ("gpu", "cluster", "elsewhere")
SHOWN_ONLY = ("text", "yaml", "json", "{toctree}", "{include}", "{eval-rst}")
BLOCK = re.compile(
    r"(?:^<!-- (?P<mark>\w+): (?P<reason>.+) -->\n)?^```(?P<kind>\S+)(?: .*)?\n(?P<code>(?:.*\n)*?)^```$", re.MULTILINE
)
SHELL_WORDS = re.compile(r"[|&;<>$`(]")


@dataclass(frozen=True, kw_only=True)
class Block:
    """One fenced block."""

    kind: str  # what stands behind the fence: `bash`, `python`, …
    code: str  # its text
    mark: str  # the first word of the comment above it; empty if there is none
    reason: str  # what the comment says
    line: int  # number of its first line in the page


def read_blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(
            kind=match["kind"],
            code=match["code"],
            mark=match["mark"] or "",
            reason=match["reason"] or "",
            line=text[: match.start("code")].count("\n") + 1,
        )
        for match in BLOCK.finditer(text)
    ]


def import_file(path: Path) -> ModuleType:
    """Imports a file that belongs to no package."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read_scripts() -> dict[str, str]:
    """Returns the installed commands with what each calls, as `module:function`."""
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    return dict(re.findall(r'^(matl-\w+) = "(.+)"', pyproject, re.MULTILINE))


def commands_of(code: str) -> list[str]:
    """Returns the command lines of a block, continued lines joined and comments left out."""
    lines = code.replace("\\\n", " ").splitlines()
    return [line for line in lines if shlex.split(line, comments=True)]


def run_block(block: Block, folder: Path, names: dict[str, object], in_process: bool) -> None:
    """Runs a block in a folder.

    Args:
        block: What to run.
        folder: Where; `launch/` is there, and the page's files.
        names: Variables of the page's Python, from block to block.
        in_process: Whether our own commands run in this process, which has imported torch already; else all run in a shell.
    """
    if block.mark == "file":
        (folder / block.reason).write_text(block.code, encoding="utf-8")
    elif block.kind == "python":
        with working_in(folder):
            exec(compile(block.code, f"line {block.line}", "exec"), names)
    elif block.kind == "bash":
        for command in commands_of(block.code):
            run_command(command, folder, in_process)


def run_command(command: str, folder: Path, in_process: bool) -> None:
    """Runs a command line, which should end with exit code 0."""
    words = shlex.split(command, comments=True)
    if in_process and words[0] in read_scripts() and not SHELL_WORDS.search(shlex.join(words).replace("'", "")):
        assert (code := call_script(words, folder)) == 0, f"{command}\nexit code {code}"
        return
    commands = folder / ".commands"
    write_scripts(commands)
    path = os.pathsep.join([str(commands), str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(
        ["bash", "-ec", command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


def call_script(words: list[str], folder: Path) -> int:
    """Calls an installed command in this process; returns its exit code."""
    module, function = read_scripts()[words[0]].split(":")
    before, sys.argv = sys.argv, words
    try:
        with working_in(folder):
            return int(getattr(import_module(module), function)() or 0)
    except SystemExit as stop:
        return int(stop.code or 0)
    finally:
        sys.argv = before


def write_scripts(folder: Path) -> None:
    """Writes the installed commands as files, so that a shell finds those of this tree."""
    folder.mkdir(exist_ok=True)
    for name, target in read_scripts().items():
        module, function = target.split(":")
        file = folder / name
        file.write_text(
            f"#!{sys.executable}\nimport sys\nfrom {module} import {function}\n"
            f'if __name__ == "__main__":  # worker processes import this file\n    sys.exit({function}())\n'
        )
        file.chmod(0o755)


@contextlib.contextmanager
def working_in(folder: Path) -> Iterator[None]:
    """Works in another folder."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
