"""Data sets that torchvision downloads and compares with the published checksums."""

import pickle
from pathlib import Path
from typing import Any

from matl_scale.errors import InputError


def with_torchvision(name: str, root: Path) -> None:
    """Downloads a data set in torchvision's layout below `root`, unless it is there, and checks that it is the published one.

    Raises:
        InputError: The data set is not there and cannot be downloaded.
    """
    from matl_scale.vision import torchvision

    try:
        for train in (True, False):
            getattr(torchvision.datasets, name)(root, train=train, download=True)
    except (RuntimeError, OSError) as error:
        raise InputError(f"{root} does not hold {name}, and it could not be downloaded: {error}.") from error


def unpickle_checked(path: Path) -> dict[str, Any]:
    """Reads a pickle of CIFAR's archives. Only for files that `with_torchvision` has compared with their checksums: any other
    file could run foreign code."""
    with path.open("rb") as file:
        content: dict[str, Any] = pickle.load(file, encoding="latin1")
    return content
