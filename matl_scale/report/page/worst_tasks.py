"""The worst tasks with their most confident mistakes, and the images of these if the shard set is still there."""

from dataclasses import dataclass

import numpy as np

from matl_scale.data.shards.layout import MISSING
from matl_scale.errors import InputError
from matl_scale.metrics.names import MAIN_METRIC, METRIC_LABELS
from matl_scale.report.facts import RunFacts
from matl_scale.report.page.table import format_number
from matl_scale.report.page.thumbnails import Thumbnails
from matl_scale.report.shard_set import find_fit, open_shard_set
from matl_scale.runs.predictions import Predictions

MAX_TASKS = 10
MAX_MISTAKES = 8


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """A sample that was predicted wrongly."""

    key: int
    truth: str  # the name of its class
    predicted: str  # the name of the predicted class
    confidence: float  # the probability of the predicted class
    image: str = ""  # a data URL of the thumbnail; empty if there is none
    problem: str = ""  # why there is no thumbnail; empty if nothing went wrong


@dataclass(frozen=True, kw_only=True)
class WorstTask:
    """One task: its name, how bad it is in a few words, and its most confident mistakes."""

    name: str
    summary: str
    mistakes: list[Mistake]


@dataclass(frozen=True, kw_only=True)
class WorstTasks:
    """What the template shows of the worst tasks, and a sentence on what is missing, if anything."""

    tasks: list[WorstTask]
    missing: str = ""


def find_worst_tasks(facts: RunFacts) -> WorstTasks:
    """Returns the worst tasks of a run with their most confident mistakes."""
    predictions = facts.predictions
    if predictions is None:
        return WorstTasks(tasks=[], missing=f"No samples: {facts.no_predictions}")
    try:
        thumbnails, missing = Thumbnails(open_shard_set(facts.run), predictions.info, find_fit(facts.run)), ""
    except (InputError, OSError) as error:
        thumbnails, missing = None, f"No images: {error}"
    column_of = {task.name: i for i, task in enumerate(predictions.info.tasks)}
    worst = [i for i in facts.latest.metrics.worst(MAX_TASKS) if facts.latest.tasks[i] in column_of]
    tasks = []
    for i in worst:
        column = column_of[facts.latest.tasks[i]]
        wrong, num_labelled = find_wrong(predictions, column)
        value = format_number(facts.latest.metrics.values[MAIN_METRIC][i])
        summary = f"{METRIC_LABELS[MAIN_METRIC]} {value}; {len(wrong):,} of {num_labelled:,} samples wrong"
        mistakes = [describe_mistake(predictions, row, column, thumbnails) for row in wrong[:MAX_MISTAKES]]
        tasks.append(WorstTask(name=facts.latest.tasks[i], summary=summary, mistakes=mistakes))
    return WorstTasks(tasks=tasks, missing=missing)


def find_wrong(predictions: Predictions, column: int) -> tuple[list[int], int]:
    """Returns the rows of a task's wrong predictions, the most confident first, and the number of its labelled samples."""
    labels, predicted = predictions.labels[:, column], predictions.predicted[:, column]
    confidences = predictions.confidences[:, column].astype(np.float32)
    wrong = np.flatnonzero((labels != MISSING) & (predicted != MISSING) & (labels != predicted))
    most_confident_first: list[int] = wrong[np.argsort(-confidences[wrong], kind="stable")].tolist()
    return most_confident_first, int((labels != MISSING).sum())


def describe_mistake(predictions: Predictions, row: int, column: int, thumbnails: Thumbnails | None) -> Mistake:
    """Describes one wrong prediction, that of a sample (row) for a task (column)."""
    key, classes = int(predictions.samples[row]), predictions.info.tasks[column].classes
    image, problem = thumbnails.draw(key) if thumbnails else ("", "")
    return Mistake(
        key=key,
        truth=classes[predictions.labels[row, column]],
        predicted=classes[predictions.predicted[row, column]],
        confidence=float(predictions.confidences[row, column]),
        image=image,
        problem=problem,
    )
