"""Which class of a binary task is the positive one, class 1: precision, recall and average precision are about it.

Words that deny something are negative; of other pairs the later one is positive, in the order of numbers or letters. The user's
`--positive TASK=CLASS` comes before both.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from data_prep.labels.white_space import trim
from matl_scale.errors import InputError, nearest, shortened
from matl_scale.tasks import Task, match_names

# negative whatever the other class is called
DENIALS = frozenset(
    {"no", "none", "not", "non", "nein", "never", "false", "absent", "missing", "negative", "neg", "off", "without"}
    | {"inactive", "disabled", "normal", "healthy", "benign", "unaffected", "uninfected"}
)
DENYING_PREFIX = re.compile(r"(no|not|non|without)[ _-].+")
# negative, positive: too short or too common to be negative beside other words
PAIRS = frozenset(
    [("0", "1"), ("-1", "1"), ("-1", "+1"), ("-", "+"), ("n", "y"), ("n", "j"), ("f", "t"), ("falsch", "wahr")]
)


def order_classes(classes: Sequence[str]) -> tuple[tuple[str, ...], bool]:
    """Returns the classes of a task with the positive one last if there are two, and whether their words say which that is."""
    if len(classes) != 2:
        return tuple(classes), True
    first, second = (trim(name).casefold() for name in classes)
    if (first, second) in PAIRS or (denies(first) and not denies(second)):
        return tuple(classes), True
    if (second, first) in PAIRS or (denies(second) and not denies(first)):
        return (classes[1], classes[0]), True
    return tuple(classes), False


def denies(word: str) -> bool:
    return word in DENIALS or bool(DENYING_PREFIX.fullmatch(word))


def describe_guesses(tasks: Sequence[Task]) -> list[str]:
    """Returns a line about the binary tasks whose words do not say which class is positive."""
    listed = [f"`{task.positive}` of `{task.name}`" for task in tasks if not order_classes(task.classes)[1]]
    if not listed:
        return []
    return [
        f"positive classes, the later of two in order, as nothing says which it should be: {shortened(listed, 5)}. Choose with "
        "--positive TASK=CLASS"
    ]


def choose_positive(tasks: Sequence[Task], choices: Sequence[str]) -> list[Task]:
    """Returns the tasks with their two classes in the order that the user chose.

    Args:
        tasks: The tasks.
        choices: Texts TASK=CLASS. TASK is a name or a pattern; a pattern chooses for those of its tasks that have the class.

    Raises:
        InputError: There is no such task, it is not binary, or it has no such class; or two choices disagree.
    """
    chosen: dict[int, str] = {}
    for choice in choices:
        for task_id, name in resolve_choice(tasks, choice):
            if chosen.setdefault(task_id, name) != name:
                raise InputError(
                    f"`--positive` should name one class of `{tasks[task_id].name}`. Got `{chosen[task_id]}` and `{name}`."
                )
    return [with_positive(task, chosen[i]) if i in chosen else task for i, task in enumerate(tasks)]


def with_positive(task: Task, name: str) -> Task:
    others = [other for other in task.classes if other != name]
    return replace(task, classes=(*others, name))


def resolve_choice(tasks: Sequence[Task], choice: str) -> Iterator[tuple[int, str]]:
    """Yields the index and the positive class of each task that a text TASK=CLASS is about."""
    names = [task.name for task in tasks]
    # names may contain the sign: the longest part before one that is a task is meant
    splits = [(choice[: found.start()], choice[found.end() :]) for found in re.finditer("=", choice)]
    exact = [(left, right) for left, right in splits if left in names]
    if exact:
        left, right = exact[-1]
        task_id = names.index(left)
        yield task_id, find_class(tasks[task_id], right)
        return
    if not splits:
        raise InputError(f"`--positive` should be TASK=CLASS. Got `{choice}`.")
    left, right = splits[0]
    matching = match_names(names, left, "--positive")
    able = [task_id for task_id in matching if right in tasks[task_id].classes and tasks[task_id].positive is not None]
    if not able:
        raise InputError(
            f"`--positive` {choice}: none of the {len(matching)} tasks that match `{left}` is binary and has the class `{right}`."
        )
    yield from ((task_id, right) for task_id in able)


def find_class(task: Task, name: str) -> str:
    """Returns the class of a binary task; raises `InputError` if the task has more, or not this one."""
    if task.positive is None:
        raise InputError(
            f"`--positive` should name a task of two classes. `{task.name}` has {len(task.classes)}: "
            f"{shortened(task.classes, 5)}."
        )
    if name in task.classes:
        return name
    raise InputError(
        f"`--positive` should name a class of `{task.name}`: {' or '.join(f'`{known}`' for known in task.classes)}. Got "
        f"`{name}`." + nearest(name, task.classes)
    )


def check_positive_kept(tasks: Sequence[Task], choices: Sequence[str], path: str) -> None:
    """Raises `InputError` if rows would join tasks of a shard set whose positive classes are others than the user chose."""
    for task, wanted in zip(tasks, choose_positive(tasks, choices), strict=True):
        if task != wanted:
            raise InputError(
                f"`--positive`: class `{task.positive}` of `{task.name}` is positive in the shard set that the rows of {path} "
                "will join, and stays so. Leave the option out, or write a new set."
            )
