"""Which runs and tasks can be compared: those with predictions for the same images and, for a task, the same labels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from matl_scale.data.shards.layout import MISSING
from matl_scale.errors import InputError, shortened
from matl_scale.report.comparison.results import Question
from matl_scale.runs.history import RunHistory
from matl_scale.tasks import Task, match_names


@dataclass(frozen=True, kw_only=True)
class Outcomes:
    """Which samples of a split one run predicted correctly."""

    name: str
    step: int  # steps that the network had been trained
    test_set: str  # hash of the images
    samples: np.ndarray  # keys, shape `(num_samples,)`
    tasks: Mapping[str, Task]  # by name, in the run's order
    labels: Mapping[str, np.ndarray]  # by task: class indices, −1 = no label, shape `(num_samples,)`
    correct: Mapping[str, np.ndarray]  # by task: bool, meaningless without a label, same shape

    @property
    def label(self) -> str:
        return f"{self.name} (step {self.step})"


@dataclass(frozen=True, kw_only=True)
class AlignedRuns:
    """Runs that can be compared sample by sample."""

    outcomes: list[Outcomes]  # one per run
    tasks: list[Task]  # those that all runs have with equal labels
    left_out: list[str]  # the other tasks, as `name: why`

    def labels(self, task: str) -> np.ndarray:
        """Returns the class indices of a task's labelled samples, shape `(num_labelled,)`."""
        labels = self.outcomes[0].labels[task]
        known: np.ndarray = labels[labels != MISSING]
        return known

    def correct(self, task: str, runs: Sequence[int]) -> np.ndarray:
        """Returns which labelled samples of a task were predicted correctly, shape `(num_runs, num_labelled)`."""
        labelled = self.outcomes[0].labels[task] != MISSING
        return np.stack([self.outcomes[i].correct[task][labelled] for i in runs])


def read_outcomes(run: RunHistory, split: str, name: str | None = None) -> Outcomes:
    """Reads a run's predictions, transposed: task by task instead of sample by sample."""
    predictions = run.predictions(split)
    info, correct = predictions.info, predictions.predicted == predictions.labels
    names = [task.name for task in info.tasks]
    return Outcomes(
        name=run.name if name is None else name,
        step=info.step,
        test_set=info.test_set,
        samples=predictions.samples,
        tasks=dict(zip(names, info.tasks, strict=True)),
        labels=dict(zip(names, np.ascontiguousarray(predictions.labels.T), strict=True)),
        correct=dict(zip(names, np.ascontiguousarray(correct.T), strict=True)),
    )


def align(outcomes: Sequence[Outcomes], question: Question) -> AlignedRuns:
    """Finds what can be compared of at least one run.

    Raises:
        InputError: The images differ, tasks or labels differ and `common_tasks` is false, or no task is left.
    """
    first, names = outcomes[0], list(dict.fromkeys(name for each in outcomes for name in each.tasks))
    names = select_names(names, question.patterns)
    for other in outcomes[1:]:
        check_test_set(first, other, question.split)
    why: dict[str, str] = {}
    for name in names:
        absent = [each.name for each in outcomes if name not in each.tasks]
        differing = [] if absent else [each.name for each in outcomes if not same_task(first, each, name)]
        if absent:
            why[name] = f"not in {shortened(absent)}"
        elif differing:
            why[name] = f"other labels in {shortened(differing)} than in {first.name}"
    left_out = [f"{name}: {reason}" for name, reason in why.items()]
    if left_out and not question.common_tasks:
        raise InputError(
            f"The runs differ in {len(left_out)} of {len(names)} tasks: {shortened(left_out, 3)}. "
            "`--common-tasks` compares those that all have with equal labels."
        )
    tasks = [first.tasks[name] for name in names if name not in why]
    if not tasks:
        raise InputError(f"No task is left to compare: {shortened(left_out, 3)}.")
    return AlignedRuns(outcomes=list(outcomes), tasks=tasks, left_out=left_out)


def select_names(names: list[str], patterns: Sequence[str]) -> list[str]:
    """Returns the names that the patterns of `--tasks` match; all if there are none."""
    return [names[i] for i in match_names(names, patterns, "--tasks")] if patterns else names


def check_test_set(first: Outcomes, other: Outcomes, split: str) -> None:
    if other.test_set != first.test_set or not np.array_equal(other.samples, first.samples):
        raise InputError(
            f"The split {split} of {other.name} has other images than that of {first.name}: only runs on the same test set can "
            "be compared. Evaluate both on the same shard set (matl-evaluate --run … --split …)."
        )


def same_task(first: Outcomes, other: Outcomes, task: str) -> bool:
    """Returns whether both runs have the task with the same classes and labels."""
    return other is first or (
        first.tasks[task].classes == other.tasks[task].classes
        and np.array_equal(first.labels[task], other.labels[task])
    )
