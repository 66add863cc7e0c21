"""What an exported file says about its network, and the names of formats, files and outputs."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from matl_scale.data.images.fit import Fit
from matl_scale.deploy.task_rules import Output, TaskRules
from matl_scale.storage.files import hash_text
from matl_scale.tasks import Task

Format = Literal["safetensors", "onnx", "torch.export"]
FORMATS: tuple[Format, ...] = get_args(Format)
SAFE_NAME = re.compile(r"(?!.*__)[A-Za-z0-9][A-Za-z0-9_-]{0,79}")
OUTPUT_NAMES: dict[Output, str] = {"logits": "logits", "probabilities": "probabilities", "decisions": "decision"}


@dataclass(frozen=True, kw_only=True)
class Description:
    """What a user needs to know who has only the file."""

    tasks: tuple[Task, ...]  # one for each output, in their order
    outputs: tuple[str, ...]  # names of the outputs
    output: Output = "logits"  # what they are
    rules: TaskRules  # how the tasks' logits become probabilities and decisions
    image_size: int  # in pixels
    fit: Fit  # how images of another shape were made squares of that size
    mean: tuple[float, ...]  # what to subtract from each channel (R, G, B) of images in 0 to 1
    std: tuple[float, ...]  # what to divide each channel by after that
    run: str
    step: int
    checkpoint_sha256: str  # of its tensors

    def content(self) -> dict[str, Any]:
        """Returns every value by its key. One task is described by `task` and `classes`; several by `tasks`, with their names,
        classes and decision rules in lists, and the `outputs` of the file that belong to them."""
        columns = {"classes": [task.classes for task in self.tasks], **self.rules.columns()}
        if len(self.tasks) == 1:
            about: dict[str, Any] = {"task": self.tasks[0].name, **{key: own for key, (own,) in columns.items()}}
        else:
            about = {"tasks": [task.name for task in self.tasks], **columns, "outputs": self.outputs}
        common = ("output", "image_size", "fit", "mean", "std", "run", "step", "checkpoint_sha256")
        return about | {"fitted_on": self.rules.fitted_on} | {key: getattr(self, key) for key in common}

    def texts(self) -> dict[str, str]:
        """Returns every value as text; numbers and lists as JSON."""
        return {
            key: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            for key, value in self.content().items()
        }


def safe_names(names: Sequence[str]) -> list[str]:
    """Returns a different name for each that is safe as that of a file, without suffix: the name itself if that is safe, else a
    safe form of it with a hash. Names that differ only in case get a hash, because some file systems ignore case."""
    alike = Counter(name.casefold() for name in names)
    safe = []
    for name in names:
        if SAFE_NAME.fullmatch(name) and alike[name.casefold()] <= 1:
            safe.append(name)
        else:
            words = re.sub(r"[^A-Za-z0-9-]+", "_", name)[:60].strip("_-")
            safe.append(f"{words or 'task'}__{hash_text(name)[:10]}")
    return safe


@dataclass(frozen=True, kw_only=True)
class FileNames:
    """The names, without suffix, of all files that one network may be exported to. No two are equal, whatever tasks and routes
    are called, so that files of several calls can be in one folder."""

    tasks: list[str]
    routes: list[str]
    all_tasks: str

    @classmethod
    def choose(cls, tasks: Sequence[str], routes: Sequence[str]) -> "FileNames":
        """Returns the names for the tasks and routes of a network."""
        of_tasks = safe_names(tasks)
        taken = {name.casefold() for name in of_tasks}
        others = []
        for name in [*(f"route-{route}" for route in safe_names(routes)), "all"]:
            while name.casefold() in taken:
                name += "_"
            taken.add(name.casefold())
            others.append(name)
        return cls(tasks=of_tasks, routes=others[:-1], all_tasks=others[-1])
