"""`about.json`: what a run is made of: its config in flat form, its data and the environment that it runs in."""

import json
import platform
import re
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from matl_scale.runs.layout import RunFolder
from matl_scale.storage.files import write_json

PACKAGE = "matl-scale"


def write_about(folder: Path, params: Mapping[str, object], data: Mapping[str, Any], devices: Sequence[str]) -> None:
    """Writes the file.

    Args:
        folder: Of the run.
        params: Flat config.
        data: `path`, `manifest_id`, `version`, `splits` (samples by name), `tasks` (how many), `image_size`.
        devices: What each rank computes on, by name.
    """
    environment = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "devices": list(devices),
        "packages": installed_packages(),
    }
    texts = {key: str(value) for key, value in params.items()}
    write_json(RunFolder(folder).about_file, {"params": texts, "data": dict(data), "environment": environment})


def read_about(folder: Path) -> dict[str, Any]:
    """Returns what the file of a run says; empty if there is none."""
    path = RunFolder(folder).about_file
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def installed_packages() -> dict[str, str]:
    """Returns the versions of this package and of what it needs, by name."""
    try:
        needed = metadata.requires(PACKAGE) or []
        versions = {PACKAGE: metadata.version(PACKAGE)}
    except metadata.PackageNotFoundError:  # run from a checkout that was never installed
        return {}
    for requirement in needed:
        if "extra ==" in requirement:
            continue
        name = re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0]
        versions[name] = metadata.version(name)
    return versions
