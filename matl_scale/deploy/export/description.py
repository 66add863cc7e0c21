"""What an exported file says about its network, and the file's name."""

import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from matl_scale.storage.files import hash_text

SAFE_NAME = re.compile(r"(?!.*__)[A-Za-z0-9][A-Za-z0-9_-]{0,79}")


@dataclass(frozen=True, kw_only=True)
class Description:
    """What a user needs to know who has only the file."""

    task: str
    classes: tuple[str, ...]  # in the order of the logits
    image_size: int  # in pixels
    mean: tuple[float, ...]  # what to subtract from each channel (R, G, B) of images in 0 to 1
    std: tuple[float, ...]  # what to divide each channel by after that
    run: str
    step: int
    checkpoint_sha256: str  # of its tensors

    def texts(self) -> dict[str, str]:
        """Returns every value as text; numbers and lists as JSON."""
        return {
            key: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            for key, value in asdict(self).items()
        }


def file_stem(task: str, tasks: Iterable[str]) -> str:
    """Returns a file name without suffix for a task: its own name if that is safe, else a safe form of it with a hash. Names of
    `tasks` that differ only in case get a hash, because some file systems ignore case."""
    alike = sum(other.casefold() == task.casefold() for other in tasks)
    if SAFE_NAME.fullmatch(task) and alike <= 1:
        return task
    words = re.sub(r"[^A-Za-z0-9-]+", "_", task)[:60].strip("_-")
    return f"{words or 'task'}__{hash_text(task)[:10]}"
