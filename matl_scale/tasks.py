"""What a task is, and how tasks are chosen by name patterns. No torch: data preparation uses this module too."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal, TypeVar

from matl_scale.errors import InputError, nearest

Value = TypeVar("Value")


@dataclass(frozen=True, kw_only=True)
class Task:
    """One classification problem.

    Attributes:
        name: Unique within a shard set.
        classes: Class names; a label is an index into them. Two classes make a binary task whose class 1 is positive.
        source: Name of the file or data set of its labels, for people.
    """

    name: str
    classes: tuple[str, ...]
    source: str = ""

    def __post_init__(self) -> None:
        if not self.name:
            raise InputError("A task should have a name. Got an empty one.")
        for text in (self.name, *self.classes):
            if not isinstance(text, str) or "\0" in text or text != text.encode("utf-8", "replace").decode():
                raise InputError(
                    f"Names of tasks and classes should be UTF-8 text. Got {text!r} in task {self.name!r}."
                )
        if len(self.classes) < 2:
            raise InputError(
                f"Task `{self.name}` should have at least two classes. Got {list(self.classes)}: "
                "there is nothing to learn from this column; leave it out."
            )

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def positive(self) -> str | None:
        """The name of class 1 of a binary task; None for more classes."""
        return self.classes[1] if len(self.classes) == 2 else None


def match_names(
    names: Sequence[str],
    patterns: str | Sequence[str] | None,
    key: str,
    kind: Literal["tasks", "routes", "columns"] = "tasks",
) -> list[int]:
    """Returns the indices, ascending, of the names that a shell-style pattern, or one of several, matches; all without a pattern.

    A name that is equal to a pattern wins: `*` is the task called `*` if there is one, and else stands for all. In brackets a
    character is only itself: `[*]`, `[?]`, `[[]`.

    Raises:
        InputError: A pattern matches nothing; the message names the setting `key` that it came from, and the kind of things.
    """
    if patterns is None:
        return list(range(len(names)))
    chosen: set[int] = set()
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        # an exact name wins over a pattern: names may contain brackets
        found = [i for i, name in enumerate(names) if name == pattern]
        found = found or [i for i, name in enumerate(names) if fnmatchcase(name, pattern)]
        if not found:
            raise InputError(
                f"`{key}` should match names of {kind}. `{pattern}` matches none of the {len(names)} {kind}."
                + nearest(pattern, names)
            )
        chosen.update(found)
    return sorted(chosen)


def values_by_pattern(
    names: Sequence[str], setting: Value | Mapping[str, Value], key: str, default: Value
) -> list[Value]:
    """Returns the value of each task where a setting is one value for all tasks, or a mapping from task patterns to values.

    The last pattern that matches a task counts; a task that none matches has `default`.

    Raises:
        InputError: A pattern matches nothing; the message names the setting `key`.
    """
    if not isinstance(setting, Mapping):
        return [setting] * len(names)
    values = [default] * len(names)
    for pattern, value in setting.items():
        for task_id in match_names(names, pattern, key):
            values[task_id] = value
    return values
