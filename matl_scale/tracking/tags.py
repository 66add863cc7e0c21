"""The tags that a run's copy in MLflow gets when it is created (`track.tags`)."""

import posixpath
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from matl_scale.errors import InputError
from matl_scale.runs.layout import RunFolder

# what MLflow accepts
NAME_LENGTH, TEXT_LENGTH = 250, 5000
NAME = re.compile(r"[/\w.\- :]+")
RESERVED = ("mlflow.", "matl_scale.", "env.")


def check_tags(tags: Mapping[str, str]) -> None:
    """Raises `InputError` for a tag that MLflow would refuse, or that is set otherwise."""
    for name, text in tags.items():
        is_path = name != posixpath.normpath(name) or name.startswith(("/", ".."))
        if not NAME.fullmatch(name) or len(name) > NAME_LENGTH or is_path or name == ".":
            raise InputError(
                f"`track.tags` should have names of 1 to {NAME_LENGTH} letters, digits, spaces and _ - . : /, as in "
                f"`sweep/arm`. Got {name!r}."
            )
        if name.startswith(RESERVED):
            raise InputError(
                f"`track.tags` should have no names that begin with {', '.join(RESERVED)}: these are set by MLflow, or by "
                f"every run. Got {name!r}."
            )
        if len(text) > TEXT_LENGTH:
            raise InputError(
                f"`track.tags` should have texts of at most {TEXT_LENGTH} characters. That of {name!r} has {len(text)}."
            )


def read_tags(folder: Path) -> dict[str, str]:
    """Returns the tags in a run's config; none if it has no such key, as in an earlier version."""
    path = RunFolder(folder).config_file
    config: Any = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return dict(config.get("track", {}).get("tags", {}))
