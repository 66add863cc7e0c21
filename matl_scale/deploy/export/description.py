"""What a file says about the network in it, and what the file is called."""

import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from matl_scale.storage.files import hash_text

PLAIN_NAME = re.compile(r"(?!.*__)[A-Za-z0-9][A-Za-z0-9_-]{0,79}")


@dataclass(frozen=True, kw_only=True)
class Description:
    """What somebody needs who has nothing but the file.

    Attributes:
        task: Its name.
        classes: Their names, in the order of the logits.
        image_size: Side length in pixels of the images.
        mean: Per channel (R, G, B) of the images, as fractions of 255; to be subtracted.
        std: Likewise; to be divided by.
        run: The run's name.
        step: Of the checkpoint.
        checkpoint_sha256: Of the checkpoint's tensors.
    """

    task: str
    classes: tuple[str, ...]
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    run: str
    step: int
    checkpoint_sha256: str

    def texts(self) -> dict[str, str]:
        """Returns every value as text; what is no text itself as JSON."""
        return {
            key: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            for key, value in asdict(self).items()
        }


def file_stem(task: str, tasks: Iterable[str]) -> str:
    """Returns a file name without suffix for a task: its name where that is safe, or else made safe, with a hash.

    Args:
        task: Any text.
        tasks: All tasks. Two that differ in case alone get a hash, for file systems that see no case.
    """
    alike = sum(other.casefold() == task.casefold() for other in tasks)
    if PLAIN_NAME.fullmatch(task) and alike <= 1:
        return task
    words = re.sub(r"[^A-Za-z0-9-]+", "_", task)[:60].strip("_-")
    return f"{words or 'task'}__{hash_text(task)[:10]}"
