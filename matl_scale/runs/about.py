"""`about.json`: the config of a run in flat form, its data, and the environment that it ran in."""

import json
import platform
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from matl_scale.runs.layout import RunFolder
from matl_scale.storage.files import write_json

PACKAGE = "matl-scale"


def write_about(folder: Path, params: Mapping[str, object], data: Mapping[str, Any], devices: Sequence[str]) -> None:
    """Writes the file, with the config in flat form and the name of each rank's device.

    `data` has `path`, `manifest_id`, `version`, `splits` (samples by name), `tasks` (how many) and `image_size`.
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
    """Returns the content of a run's file; empty if there is none."""
    path = RunFolder(folder).about_file
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def installed_packages() -> dict[str, str]:
    """Returns the versions of this package and of the packages that it requires, by name."""
    try:
        versions = {PACKAGE: metadata.version(PACKAGE)}
    except metadata.PackageNotFoundError:  # run from a checkout that was never installed
        return {}
    return versions | {each.name: metadata.version(each.name) for each in required_packages()}


def required_packages() -> list[Requirement]:
    """Returns what this package requires, without its extras."""
    found = map(Requirement, metadata.requires(PACKAGE) or [])
    return [each for each in found if each.marker is None or each.marker.evaluate({"extra": ""})]
