"""Runs that answered the same question: the same images, and for a task the same labels. Only those are compared."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from matl_scale.errors import InputError, shortened
from matl_scale.runs.history import RunHistory
from matl_scale.tasks import Task, match_names


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What one run answered on a split.

    Attributes:
        name: Of the run.
        step: Steps that the network had been trained.
        test_set: Hash of the images.
        samples: Keys, shape `(num_samples,)`.
        tasks: By name, in the run's order.
        rows: Place of each task in the two matrices.
        labels: Class indices, −1 = no label, shape `(num_tasks, num_samples)`.
        right: Whether the answer was right, of no meaning without a label; same shape.
    """

    name: str
    step: int
    test_set: str
    samples: np.ndarray
    tasks: Mapping[str, Task]
    rows: Mapping[str, int]
    labels: np.ndarray
    right: np.ndarray

    @property
    def label(self) -> str:
        return f"{self.name} (step {self.step})"


@dataclass(frozen=True, kw_only=True)
class AlignedRuns:
    """Runs whose answers can be compared sample by sample.

    Attributes:
        answers: Of each run.
        tasks: Those that all have with equal labels.
        left_out: The others, as `name: why`.
    """

    answers: list[Answers]
    tasks: list[Task]
    left_out: list[str]

    def labels(self, name: str) -> np.ndarray:
        """Returns the class indices of a task's labelled samples."""
        return self.answers[0].labels[self.answers[0].rows[name]][self._labelled(name)]

    def right(self, name: str, runs: Sequence[int]) -> np.ndarray:
        """Returns which labelled samples of a task were answered rightly, shape `(num_runs, num_labelled)`."""
        labelled, chosen = self._labelled(name), [self.answers[i] for i in runs]
        return np.stack([answers.right[answers.rows[name]][labelled] for answers in chosen])

    def _labelled(self, name: str) -> np.ndarray:
        labelled: np.ndarray = self.answers[0].labels[self.answers[0].rows[name]] >= 0
        return labelled


def read_answers(run: RunHistory, split: str, name: str | None = None) -> Answers:
    """Reads a run's predictions, task by task instead of sample by sample."""
    predictions = run.predictions(split)
    info = predictions.info
    return Answers(
        name=run.name if name is None else name,
        step=info.step,
        test_set=info.test_set,
        samples=predictions.samples,
        tasks={task.name: task for task in info.tasks},
        rows={task.name: i for i, task in enumerate(info.tasks)},
        labels=np.ascontiguousarray(predictions.labels.T),
        right=np.ascontiguousarray((predictions.predicted == predictions.labels).T),
    )


def align(
    answers: Sequence[Answers], split: str, patterns: Sequence[str] = (), common_tasks: bool = False
) -> AlignedRuns:
    """Finds what can be compared.

    Args:
        answers: Of at least one run.
        split: What was evaluated.
        patterns: Which tasks; all if empty.
        common_tasks: Leave out tasks that not all runs have with equal labels, instead of refusing.

    Raises:
        InputError: The images are others, the tasks or labels are and `common_tasks` is false, or no task is left.
    """
    first, names = answers[0], list(dict.fromkeys(name for each in answers for name in each.tasks))
    if patterns:
        names = [names[i] for i in match_names(names, patterns, "--tasks")]
    why: dict[str, str] = {}
    for other in answers[1:]:
        check_test_set(first, other, split)
    for name in names:
        absent = [each.name for each in answers if name not in each.tasks]
        differing = [] if absent else [each.name for each in answers if not same_task(first, each, name)]
        if absent:
            why[name] = f"not in {shortened(absent)}"
        elif differing:
            why[name] = f"other labels in {shortened(differing)} than in {first.name}"
    if why and not common_tasks:
        raise InputError(
            f"The runs differ in {len(why)} of {len(names)} tasks: {shortened(list_reasons(why), 3)}. "
            "`--common-tasks` compares those that all have with equal labels."
        )
    tasks = [first.tasks[name] for name in names if name not in why]
    if not tasks:
        raise InputError(f"No task is left to compare: {shortened(list_reasons(why), 3)}.")
    return AlignedRuns(answers=list(answers), tasks=tasks, left_out=list_reasons(why))


def list_reasons(why: Mapping[str, str]) -> list[str]:
    return [f"{name}: {reason}" for name, reason in why.items()]


def check_test_set(first: Answers, other: Answers, split: str) -> None:
    if other.test_set != first.test_set or not np.array_equal(other.samples, first.samples):
        raise InputError(
            f"The split {split} of {other.name} has other images than that of {first.name}: only runs on the same test set can "
            "be compared. Evaluate both on the same shard set (matl-evaluate --run … --split …)."
        )


def same_task(first: Answers, other: Answers, name: str) -> bool:
    """Returns whether both runs have the task with the same classes and labels."""
    return other is first or (
        first.tasks[name].classes == other.tasks[name].classes
        and np.array_equal(first.labels[first.rows[name]], other.labels[other.rows[name]])
    )
