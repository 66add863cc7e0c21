"""torchvision's weights: where they are kept, whether they are whole, and what to do if they cannot be had.

torch.hub compares the checksum in a file's name only when it has just downloaded it; here it is compared whenever they are used.
"""

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlparse

import torch

from matl_scale.errors import InputError, Problem, one_line, remedy_of
from matl_scale.storage.files import file_sha256
from matl_scale.vision import models

HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,})\.")  # torch.hub's: the first digits of the SHA-256


@dataclass(frozen=True, kw_only=True)
class WeightsFile:
    """The file of a model's default weights in torch.hub's cache, and where it comes from."""

    url: str
    path: Path

    @classmethod
    def of_model(cls, name: str) -> "WeightsFile":
        """Returns that of a torchvision model."""
        url = models.get_model_weights(name).DEFAULT.url
        return cls(url=url, path=Path(torch.hub.get_dir()) / "checkpoints" / PurePosixPath(urlparse(url).path).name)

    def find_problem(self) -> Problem | None:
        """Returns what is wrong with the file; None if it is whole, or not there."""
        if not self.path.exists():
            return None
        expected = HASH_IN_NAME.search(self.path.name)
        try:
            found = file_sha256(self.path)
        except OSError as error:
            text = f"{self.path} cannot be read: {error.strerror or error}."
            return Problem(text, remedy_of(error) or f"Replace it by {self.url}.")
        if expected is None or found.startswith(expected[1]):
            return None
        digits = found[: len(expected[1])]
        return Problem(
            f"{self.path} is damaged or cut off: its SHA-256 should begin with {expected[1]}, and begins with {digits}.",
            f"Delete it to have it downloaded again, or replace it by {self.url}.",
        )

    def how_to_get_it(self) -> str:
        """Returns what a user does on a machine without a network."""
        return (
            f"Without a network, put {self.url} into {self.path.parent} as {self.path.name} (the environment variable "
            "TORCH_HOME moves that folder), or set `model.pretrained` to false."
        )


def fetch_weights(name: str) -> None:
    """Downloads the default weights of a torchvision model if they are not in torch.hub's cache, and checks them.

    Raises:
        InputError: They cannot be downloaded or kept, or are damaged.
    """
    file = WeightsFile.of_model(name)
    if problem := file.find_problem():
        raise InputError(f"`model.pretrained`: {problem}")
    if file.path.exists():
        return
    expected = HASH_IN_NAME.search(file.path.name)
    try:
        file.path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(file.url, str(file.path), expected and expected[1], progress=False)
    except Exception as error:  # of the network, the disk, or a wrong checksum, in many kinds
        raise InputError(
            f"`model.pretrained`: {file.path.name} cannot be fetched into {file.path.parent}: {one_line(error)}. "
            f"{file.how_to_get_it()}"
        ) from error
