"""Known data sets through torchvision, which downloads them and compares them with the published checksums."""

import pickle
from pathlib import Path
from typing import Any

from matl_scale.errors import InputError


def with_torchvision(name: str, root: Path) -> None:
    """Makes sure that a data set of torchvision lies in its layout below `root`, and is the published one.

    Raises:
        InputError: It is not there, and cannot be downloaded.
    """
    from matl_scale.vision import torchvision

    try:
        for train in (True, False):
            getattr(torchvision.datasets, name)(root, train=train, download=True)
    except (RuntimeError, OSError) as error:
        raise InputError(f"{root} does not hold {name}, and it could not be downloaded: {error}.") from error


def unpickle_checked(path: Path) -> dict[str, Any]:
    """Reads a pickle of CIFAR's archives. Only for files that `with_torchvision` has compared with their checksums: anything
    else could run foreign code."""
    with path.open("rb") as file:
        content: dict[str, Any] = pickle.load(file, encoding="latin1")
    return content
