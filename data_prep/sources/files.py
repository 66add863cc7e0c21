"""The files of published data sets: found where their archives may have been unpacked or downloaded by torchvision, and read."""

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from matl_scale.errors import InputError


def locate(root: Path, name: str | Sequence[str], folders: Sequence[str]) -> Path:
    """Returns the first of `root/folder/name` that exists, trying all names in each folder; raises `InputError` if none does."""
    names = [name] if isinstance(name, str) else name
    for folder in folders:
        for file in names:
            if (root / folder / file).exists():
                return root / folder / file
    listed = ", ".join(str(root / folder) for folder in folders)
    raise InputError(
        f"{' or '.join(names)} should be in one of {listed}. Unpack the published archives there, or give another --root."
    )


def read_fields(path: Path, fewest: int) -> list[list[str]]:
    """Reads the lines of a text file as fields separated by blanks, without empty lines.

    Raises:
        InputError: The file cannot be read, or a line has fewer than `fewest` fields.
    """
    try:
        lines = [line.split() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}.") from error
    for number, fields in enumerate(lines, start=1):
        if fields and len(fields) < fewest:
            raise InputError(f"{path}, line {number}: there should be at least {fewest} fields. Got {len(fields)}.")
    return [fields for fields in lines if fields]


def as_int(text: str, path: Path, valid: Sequence[int]) -> int:
    """Reads a number; raises `InputError` unless it is one of `valid`."""
    if text.lstrip("+-").isdigit() and int(text) in valid:
        return int(text)
    raise InputError(f"{path}: {text!r} should be one of {', '.join(map(str, valid))}. Is the file complete?")


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


def cifar_pixels(records: np.ndarray) -> np.ndarray:
    """Turns CIFAR's records of 3,072 bytes, channel after channel, into pixels, shape `(num_images, 32, 32, 3)`."""
    pixels: np.ndarray = records.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return pixels
