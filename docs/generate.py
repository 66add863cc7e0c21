"""Writes the pages that the code itself is the source of: every config key, every command, every module, every backbone.

They go to `docs/generated/`, which is not committed; pages in `docs/reference/` include them.
"""

import ast
import inspect
import json
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

ROOT = Path(__file__).parents[1]
PACKAGES = ("matl_scale", "data_prep")


def write_generated_pages(folder: Path) -> None:
    """Writes all pages; a page that has not changed keeps its time, so that Sphinx need not read it again."""
    folder.mkdir(exist_ok=True)
    pages = {"config.md": config_page(), "commands.md": commands_page(), "modules.md": modules_page()}
    pages["backbones.md"] = backbones_page()
    for name, text in pages.items():
        path = folder / name
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def config_page() -> str:
    """Returns the config reference: a section for each section of the config, an entry for each key."""
    from matl_scale.train.config import Config

    text = []
    hints = get_type_hints(Config)
    for section in fields(Config):
        kind = hints[section.name]
        text += [f"## `{section.name}`", "", (inspect.getdoc(kind) or "").split("\n\n")[0], ""]
        documentation = field_texts(kind)
        key_hints = get_type_hints(kind)
        for key in fields(kind):
            default = f"default `{default_text(key)}`"
            text += [f"`{section.name}.{key.name}`", f": {type_text(key_hints[key.name])}, {default}", ""]
            text += [textwrap.indent(documentation[key.name], "  "), ""]
    return "\n".join(text)


def field_texts(kind: type) -> dict[str, str]:
    """Returns the text below each field of a dataclass."""
    body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    assert isinstance(body, ast.ClassDef)
    texts: dict[str, str] = {}
    for entry, below in zip(body.body, [*body.body[1:], None], strict=True):
        if isinstance(entry, ast.AnnAssign) and isinstance(entry.target, ast.Name):
            assert isinstance(below, ast.Expr), f"{kind.__name__}.{entry.target.id} has no text below it"
            texts[entry.target.id] = inspect.cleandoc(ast.literal_eval(below.value))
    return texts


def default_text(key: Field[Any]) -> str:
    """Returns the default as it would be written on the command line or in YAML."""
    value = key.default if key.default is not MISSING else key.default_factory()  # type: ignore[misc]
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value) if value in ("", (), [], {}) else str(value)


def type_text(hint: Any) -> str:
    """Returns a type in words that somebody who writes YAML uses."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return " \\| ".join(f"`{choice}`" for choice in arguments)
    if origin in (Union, UnionType):
        return " \\| ".join(map(type_text, arguments))
    names = {str: "text", int: "whole number", float: "number", bool: "true or false"}
    if origin in (list, tuple):
        return f"list of {type_text(arguments[0])}"
    if origin is dict:
        return f"mapping of {type_text(arguments[0])} to {type_text(arguments[1])}"
    return names.get(hint, str(hint))


def commands_page() -> str:
    """Returns the `--help` of every installed command."""
    scripts = dict(
        re.findall(r'^(matl-\w+) = "(.+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    )
    text = []
    for name, target in scripts.items():
        if name == "matl-train":
            text += [
                f"## `{name}`",
                "",
                "Takes a YAML file by `--config` and every key of [the config](config.md).",
                "",
            ]
            continue
        subcommands = re.findall(r"^    (\w+) ", help_text(target, []), re.MULTILINE) if name == "matl-data" else []
        text += [f"## `{name}`", "", "```text", help_text(target, []), "```", ""]
        for subcommand in subcommands:
            text += [f"### `{name} {subcommand}`", "", "```text", help_text(target, [subcommand]), "```", ""]
    return "\n".join(text)


def help_text(target: str, arguments: list[str]) -> str:
    """Runs a command with `--help`, as an installed script would."""
    module, function = target.split(":")
    code = f"import sys; from {module} import {function}; sys.exit({function}())"
    environment = {**os.environ, "COLUMNS": "96", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, *arguments, "--help"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.rstrip()


def backbones_page() -> str:
    """Returns the models that can be routed, by library, and why the others cannot, from what `matl-doctor` has found."""
    found = json.loads((ROOT / "docs/reference/backbones.json").read_text(encoding="utf-8"))
    text = []
    for source in dict.fromkeys(entry["source"] for entry in found):
        own = [entry for entry in found if entry["source"] == source]
        cut = [f"`{entry['name']}`" for entry in own if entry["subnetwork"]]
        others = [entry for entry in own if not entry["subnetwork"]]
        text += [
            f"## {source}",
            "",
            f"{len(cut)} of {len(own)} models run as sub-networks:",
            "",
            ", ".join(cut) + ".",
            "",
        ]
        text += ["The others:", "", "| model | masked only | reason |", "| --- | --- | --- |"]
        for entry in others:
            reason = entry["reason"].replace("|", "\\|").replace("<", "&lt;")
            text.append(f"| `{entry['name']}` | {'yes' if entry['routed'] else 'no'} | {reason} |")
        text.append("")
    return "\n".join(text)


def modules_page() -> str:
    """Returns every module with the first sentence of its docstring, folder by folder."""
    text = []
    for folder, files in module_folders():
        text += [f"## `{folder}/`", "", first_sentence(ROOT / folder / "__init__.py"), ""]
        text += ["| file | what it holds |", "| --- | --- |"]
        text += [f"| `{file.name}` | {first_sentence(file)} |" for file in files]
        text.append("")
    return "\n".join(text)


def module_folders() -> Iterator[tuple[str, list[Path]]]:
    """Yields every package folder that holds modules, with its modules."""
    for package in PACKAGES:
        for init in sorted((ROOT / package).rglob("__init__.py")):
            files = sorted(file for file in init.parent.glob("*.py") if file.name != "__init__.py")
            if files:
                yield init.parent.relative_to(ROOT).as_posix(), files


def first_sentence(file: Path) -> str:
    documentation = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    first = " ".join(documentation.split("\n\n")[0].split())
    return first.replace("|", "\\|").replace("<", "&lt;")
