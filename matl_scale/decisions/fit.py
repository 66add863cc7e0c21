"""Fits the decisions of all tasks on a split, and measures what decisions bring."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from matl_scale.decisions.aim import Aim
from matl_scale.decisions.binary import BinaryMeasures, BinaryRules, cross_fit_binary, fit_binary, measure_binary
from matl_scale.decisions.histogram import NUM_FOLDS, FoldHistograms, count_scores_of
from matl_scale.decisions.rule import DecisionRule
from matl_scale.decisions.samples import ScoredSamples
from matl_scale.decisions.several_classes import cross_fit_classes, fit_classes, measure_classes
from matl_scale.metrics.confusion import measure_confusions
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
    notes = explain_unfitted(samples)
    rules = [
        DecisionRule.unfitted(task.num_classes, prior_offsets.get(task.name), note)
        for task, note in zip(samples.tasks, notes, strict=True)
    ]
    measures = MeasureTable(len(samples.tasks))
    for task_ids in binary_groups(samples):
        is_fit = np.array([not rules[task_id].note for task_id in task_ids])
        measure_rules(samples, task_ids[~is_fit], rules, measures)
        fit_group(samples, task_ids[is_fit], aims, rules, measures)
    for task_id in other_tasks(samples):
        labels, logits, in_fold = samples.of_task(task_id)
        used = [rules[task_id]] * NUM_FOLDS
        if not rules[task_id].note:
            rules[task_id] = fit_classes(labels, logits, rules[task_id].prior_offsets, aims[task_id])
            used = cross_fit_classes(labels, logits, in_fold, aims[task_id], rules[task_id])
        measures.add_one(task_id, *measure_classes(labels, logits, in_fold, used))
    return FittedDecisions(rules=rules, measured=measures.values)


def fit_group(
    samples: ScoredSamples,
    task_ids: np.ndarray,
    aims: Sequence[Aim],
    rules: list[DecisionRule],
    measures: "MeasureTable",
) -> None:
    """Fits tasks of two classes: their rules take the place of the default, whose prior correction they keep."""
    if not len(task_ids):
        return
    own_aims, offsets = [aims[i] for i in task_ids], [rules[i].prior_offsets for i in task_ids]
    shift = np.array([own[1] - own[0] for own in offsets])
    histograms = histogram_of(samples, task_ids)
    found = fit_binary(histograms.counts.sum(axis=1), histograms.bins, shift, own_aims)
    measures.add_binary(task_ids, cross_fit_binary(histograms, shift, own_aims, found))
    notes = [explain_aim(aim, reached) for aim, reached in zip(own_aims, found.reached.tolist(), strict=True)]
    for task_id, rule in zip(task_ids.tolist(), found.single(offsets, notes), strict=True):
        rules[task_id] = rule


def measure_decisions(samples: ScoredSamples, rules: Sequence[DecisionRule]) -> dict[str, np.ndarray]:
    """Returns `decided_…` metrics, `ece` and `brier` of every task by its rule, each of shape `(num_tasks,)`.

    Values are NaN where they are undefined, and for tasks whose scores do not tell the probabilities of all classes.
    """
    measures = MeasureTable(len(samples.tasks))
    for task_ids in binary_groups(samples):
        measure_rules(samples, task_ids, rules, measures)
    for task_id in other_tasks(samples):
        labels, logits, folds = samples.of_task(task_id)
        measures.add_one(task_id, *measure_classes(labels, logits, folds, [rules[task_id]] * NUM_FOLDS))
    return measures.values


def measure_rules(
    samples: ScoredSamples, task_ids: np.ndarray, rules: Sequence[DecisionRule], measures: "MeasureTable"
) -> None:
    """Measures what rules do to all samples of tasks of two classes."""
    if len(task_ids):
        histograms, own = histogram_of(samples, task_ids), BinaryRules.of([rules[i] for i in task_ids])
        measures.add_binary(task_ids, measure_binary(histograms.counts.sum(axis=1), histograms.bins, own))


class MeasureTable:
    """The metrics of all tasks, filled in parts."""

    def __init__(self, num_tasks: int) -> None:
        names = (*(f"decided_{name}" for name in DECIDED), "ece", "brier")
        self.values = {name: np.full(num_tasks, np.nan) for name in names}

    def add(self, task_ids: np.ndarray, confusions: np.ndarray, ece: np.ndarray, brier: np.ndarray) -> None:
        """Adds tasks with equally many classes by their confusions (true × decided), shape
        `(num_tasks, num_classes, num_classes)`. Those without a sample have no metrics."""
        measured = measure_confusions(confusions)
        found = {f"decided_{name}": measured[name] for name in DECIDED} | {"ece": ece, "brier": brier}
        any_sample = confusions.any(axis=(1, 2))
        for name, column in found.items():
            self.values[name][task_ids[any_sample]] = column[any_sample]

    def add_one(self, task_id: int, confusion: np.ndarray, ece: float, brier: float) -> None:
        """Adds a task."""
        self.add(np.array([task_id]), confusion[None], np.array([ece]), np.array([brier]))

    def add_binary(self, task_ids: np.ndarray, measures: BinaryMeasures) -> None:
        """Adds tasks of two classes."""
        self.add(task_ids, measures.confusions, *measures.errors())


def binary_groups(samples: ScoredSamples) -> Iterator[np.ndarray]:
    """Yields the tasks of two classes, some at a time."""
    binary = np.array([i for i, task in enumerate(samples.tasks) if task.num_classes == 2], dtype=np.int64)
    for start in range(0, len(binary), TASKS_AT_ONCE):
        yield binary[start : start + TASKS_AT_ONCE]


def other_tasks(samples: ScoredSamples) -> list[int]:
    """Returns the tasks of more classes whose scores tell the probabilities of all of them."""
    return [i for i, task in enumerate(samples.tasks) if 2 < task.num_classes <= MAX_SCORED_CLASSES]


def histogram_of(samples: ScoredSamples, task_ids: np.ndarray) -> FoldHistograms:
    """Returns the samples of tasks of two classes by task, fold, class and bin."""
    columns = samples.layout.starts[task_ids]
    return count_scores_of(samples.labels[:, task_ids], samples.log_odds[:, columns], samples.folds)


def explain_unfitted(samples: ScoredSamples) -> list[str]:
    """Returns why a task keeps the default, for each of them; empty if it can be fitted."""
    labels, notes = samples.labels, [""] * len(samples.tasks)
    highest = labels.max(axis=0, initial=-1)
    lowest = np.where(labels < 0, highest, labels).min(axis=0, initial=np.iinfo(labels.dtype).max)
    for task_id in np.flatnonzero(lowest >= highest).tolist():
        task, only = samples.tasks[task_id], int(highest[task_id])
        notes[task_id] = "not fitted: no labelled sample"
        if only >= 0:
            notes[task_id] = f"not fitted: only class `{task.classes[only]}` occurs"
    for task_id, task in enumerate(samples.tasks):
        if task.num_classes > MAX_SCORED_CLASSES:
            notes[task_id] = f"not fitted: more than {MAX_SCORED_CLASSES} classes"
    return notes


def explain_aim(aim: Aim, reached: float) -> str:
    """Returns that no threshold reaches what should be held, if so."""
    if aim.value is None or reached >= aim.value * NEARLY:
        return ""
    return f"no threshold reaches {aim}; the nearest is estimated to have {reached:.3f}"
