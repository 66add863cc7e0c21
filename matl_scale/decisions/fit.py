"""Fits the decisions of all tasks on a split, and measures what decisions bring."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from matl_scale.decisions.aim import Aim
from matl_scale.decisions.binary import BinaryMeasures, BinaryRules, cross_fit_binary, fit_binary, measure_binary
from matl_scale.decisions.histogram import NUM_FOLDS, count_scores_of
from matl_scale.decisions.rule import DecisionRule
from matl_scale.decisions.samples import ScoredSamples
from matl_scale.decisions.several_classes import cross_fit_classes, fit_classes, measure_classes
from matl_scale.metrics.confusion import measure_confusion
from matl_scale.metrics.scores import MAX_SCORED_CLASSES

DECIDED = ("balanced_accuracy", "accuracy", "precision", "recall", "f1")  # measured of decisions, as `decided_…`
TASKS_AT_ONCE = 64  # whose histograms are in memory together
NEARLY = 0.995  # of a value to hold, from where it counts as reached


@dataclass(frozen=True, kw_only=True)
class FittedDecisions:
    """The rules of all tasks, in their order, and what they bring, measured on samples that a rule was not fitted on."""

    rules: list[DecisionRule]
    measured: dict[str, np.ndarray]  # metrics, shape `(num_tasks,)`, see `measure_decisions`


def fit_decisions(
    samples: ScoredSamples, aims: Sequence[Aim], prior_offsets: Mapping[str, Sequence[float]]
) -> FittedDecisions:
    """Fits a rule for every task; `prior_offsets` are those of tasks that need a correction, by name.

    A task keeps the default where the split has fewer than two of its classes; its rule says so. Metrics are cross-fitted: each
    of five parts of the samples is measured by rules that were fitted on the other four.
    """
    rules = [
        DecisionRule.unfitted(task.num_classes, prior_offsets.get(task.name), explain_unfitted(samples, task_id))
        for task_id, task in enumerate(samples.tasks)
    ]
    measures = MeasureTable(len(samples.tasks))
    for task_ids in binary_groups(samples):
        folds, offsets = histogram_of(samples, task_ids), [rules[task_id].prior_offsets for task_id in task_ids]
        fitted = np.array([not rules[task_id].note for task_id in task_ids])
        shift = np.array([own[1] - own[0] for own in offsets])
        default = BinaryRules.unfitted(shift[~fitted])
        measures.add_binary(task_ids[~fitted], measure_binary(folds[~fitted].sum(axis=1), default))
        if not fitted.any():
            continue
        own_aims = [aims[task_id] for task_id in task_ids[fitted]]
        found = fit_binary(folds[fitted].sum(axis=1), shift[fitted], own_aims)
        measures.add_binary(task_ids[fitted], cross_fit_binary(folds[fitted], shift[fitted], own_aims, found))
        for index, task_id in enumerate(task_ids[fitted]):
            note = explain_aim(aims[task_id], found.reached[index])
            rules[task_id] = found.rule(index, rules[task_id].prior_offsets, note)
    for task_id in other_tasks(samples):
        labels, logits, in_fold = samples.of_task(task_id)
        used = [rules[task_id]] * NUM_FOLDS
        if not rules[task_id].note:
            rules[task_id] = fit_classes(labels, logits, rules[task_id].prior_offsets, aims[task_id])
            used = cross_fit_classes(labels, logits, in_fold, aims[task_id], rules[task_id])
        measures.add(task_id, *measure_classes(labels, logits, in_fold, used))
    return FittedDecisions(rules=rules, measured=measures.values)


def measure_decisions(samples: ScoredSamples, rules: Sequence[DecisionRule]) -> dict[str, np.ndarray]:
    """Returns `decided_…` metrics, `ece` and `brier` of every task by its rule, each of shape `(num_tasks,)`.

    Values are NaN where they are undefined, and for tasks whose scores do not tell the probabilities of all classes.
    """
    measures = MeasureTable(len(samples.tasks))
    for task_ids in binary_groups(samples):
        counts = histogram_of(samples, task_ids).sum(axis=1)
        measures.add_binary(task_ids, measure_binary(counts, BinaryRules.of([rules[i] for i in task_ids])))
    for task_id in other_tasks(samples):
        labels, logits, folds = samples.of_task(task_id)
        measures.add(task_id, *measure_classes(labels, logits, folds, [rules[task_id]] * NUM_FOLDS))
    return measures.values


class MeasureTable:
    """The metrics of all tasks, filled task by task."""

    def __init__(self, num_tasks: int) -> None:
        names = (*(f"decided_{name}" for name in DECIDED), "ece", "brier")
        self.values = {name: np.full(num_tasks, np.nan) for name in names}

    def add(self, task_id: int, confusion: np.ndarray, ece: float, brier: float) -> None:
        """Adds a task by its confusion matrix (true × decided)."""
        if not confusion.sum():
            return
        measured = measure_confusion(confusion)
        for name, value in (
            {f"decided_{name}": measured[name] for name in DECIDED} | {"ece": ece, "brier": brier}
        ).items():
            self.values[name][task_id] = value

    def add_binary(self, task_ids: np.ndarray, measures: BinaryMeasures) -> None:
        """Adds tasks of two classes."""
        for task_id, confusion, ece, brier in zip(task_ids, measures.confusions, *measures.errors(), strict=True):
            self.add(int(task_id), confusion, float(ece), float(brier))


def binary_groups(samples: ScoredSamples) -> Iterator[np.ndarray]:
    """Yields the tasks of two classes, some at a time."""
    binary = np.array([i for i, task in enumerate(samples.tasks) if task.num_classes == 2], dtype=np.int64)
    for start in range(0, len(binary), TASKS_AT_ONCE):
        yield binary[start : start + TASKS_AT_ONCE]


def other_tasks(samples: ScoredSamples) -> list[int]:
    """Returns the tasks of more classes whose scores tell the probabilities of all of them."""
    return [i for i, task in enumerate(samples.tasks) if 2 < task.num_classes <= MAX_SCORED_CLASSES]


def histogram_of(samples: ScoredSamples, task_ids: np.ndarray) -> np.ndarray:
    """Returns the samples of tasks of two classes by task, fold, class and bin."""
    columns = samples.layout.starts[task_ids]
    return count_scores_of(samples.labels[:, task_ids], samples.log_odds[:, columns], samples.folds)


def explain_unfitted(samples: ScoredSamples, task_id: int) -> str:
    """Returns why a task keeps the default; empty if it can be fitted."""
    task = samples.tasks[task_id]
    if task.num_classes > MAX_SCORED_CLASSES:
        return f"not fitted: more than {MAX_SCORED_CLASSES} classes"
    own = samples.labels[:, task_id]
    present = np.flatnonzero(np.bincount(own[own >= 0]))
    if not len(present):
        return "not fitted: no labelled sample"
    return f"not fitted: only class `{task.classes[present[0]]}` occurs" if len(present) == 1 else ""


def explain_aim(aim: Aim, reached: float) -> str:
    """Returns that no threshold reaches what should be held, if so."""
    if aim.value is None or reached >= aim.value * NEARLY:
        return ""
    return f"no threshold reaches {aim}; the nearest is estimated to have {reached:.3f}"
