"""Looks for wrong labels in the predictions that a run has stored.

Only splits are looked at that the network was not trained on. Each split has thresholds and a calibration of its own, because the
predictions of different splits may be those of different networks.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from scipy.special import log_expit, softmax

from matl_scale.data.shards.layout import MISSING
from matl_scale.data.shards.manifest import Manifest
from matl_scale.decisions.calibration import calibrate_classes
from matl_scale.errors import InputError
from matl_scale.metrics.baseline import baseline_p_values, beats_baseline
from matl_scale.report.shard_set import open_shard_set
from matl_scale.report.suspects.confident_learning import find_label_errors
from matl_scale.report.suspects.suspect_list import SearchedTask, Suspect, SuspectList
from matl_scale.runs.history import RunHistory
from matl_scale.runs.predictions import Predictions, PredictionsInfo
from matl_scale.tasks import match_names

TRAINED_SPLIT = "train"  # no other is trained on
LARGEST_OLD = 1 - 2.0**-12  # what half precision, in which older versions stored probabilities, rounds to 1


@dataclass(frozen=True, kw_only=True)
class SearchedSplit:
    """What was found in the labels of one task on one split."""

    task: str
    split: str
    num_labels: int  # how many were looked at
    suspects: list[Suspect]  # the most likely first
    joint: np.ndarray  # the confident joint, shape `(num_classes, num_classes)`


@dataclass(frozen=True, kw_only=True)
class NotSearched:
    """Why the labels of one task on one split cannot be searched."""

    task: str
    reason: str


def search_run(run: RunHistory, split: str | None = None, patterns: Sequence[str] = ()) -> SuspectList:
    """Looks for wrong labels of the tasks that match the patterns, or of all, on one split, or on all that the run has
    predictions of and was not trained on.

    Tasks that the network has not learned are left out: what it contradicts there says nothing about the labels.

    Raises:
        InputError: There are no such predictions, or a pattern matches no task.
    """
    all_predictions = read_held_out(run, split)
    names = list(dict.fromkeys(task.name for each in all_predictions for task in each.info.tasks))
    chosen = [names[i] for i in match_names(names, patterns or None, "--tasks")]
    results = [search_split(each, name) for name in chosen for each in all_predictions if name in columns_of(each.info)]
    searched, failed = drop_not_learned(results)
    parts: dict[str, list[SearchedSplit]] = {}
    for part in searched:
        parts.setdefault(part.task, []).append(part)
    reasons: dict[str, list[str]] = {}
    for each in failed:
        reasons.setdefault(each.task, []).append(each.reason)
    found = SuspectList(
        splits=[each.info for each in all_predictions],
        tasks=[join(parts[name]) for name in chosen if name in parts],
        left_out=[f"{name}: {', '.join(reasons[name])}" for name in chosen if name in reasons],
    )
    return name_images(run, found)


def drop_not_learned(
    results: Sequence[SearchedSplit | NotSearched],
) -> tuple[list[SearchedSplit], list[NotSearched]]:
    """Returns what was searched, and what was not or to no purpose: where the classes that samples likely have go together with
    their labels no more than chance would make them."""
    searched = [result for result in results if isinstance(result, SearchedSplit)]
    learned = beats_baseline(baseline_p_values([result.joint for result in searched]))
    kept = [result for result, is_learned in zip(searched, learned, strict=True) if is_learned]
    failed = [result for result in results if isinstance(result, NotSearched)]
    for result, is_learned in zip(searched, learned, strict=True):
        if not is_learned:
            reason = f"the network is not better than chance on {result.split}"
            failed.append(NotSearched(task=result.task, reason=reason))
    return kept, failed


def read_held_out(run: RunHistory, split: str | None) -> list[Predictions]:
    """Reads the predictions to look at: of one split, or of all that the run was evaluated on but not trained on.

    Raises:
        InputError: There are none, or the split is the one that the run was trained on.
    """
    if split is not None:
        check_held_out(run, [run.choose_split(split)])
        return [run.predictions(split)]
    check_held_out(run, list(run.steps))
    stored = [name for name in run.steps if name != TRAINED_SPLIT and run.files.predictions_file(name).is_file()]
    if not stored:
        wanted = next(name for name in run.steps if name != TRAINED_SPLIT)
        raise InputError(
            f"--suspects needs predictions of split `{wanted}`, which {run.folder} does not have. Make them: matl-evaluate --run "
            f"{run.folder} --split {wanted}."
        )
    return [run.predictions(name) for name in stored]


def check_held_out(run: RunHistory, splits: Sequence[str]) -> None:
    """Raises `InputError` if all of the splits are what the run was trained on."""
    if set(splits) == {TRAINED_SPLIT}:
        raise InputError(
            f"--suspects should look at a split that {run.folder} was not trained on: a network repeats the labels that it was "
            f"trained on. Evaluate another split: matl-evaluate --run {run.folder} --split val."
        )


def columns_of(info: PredictionsInfo) -> dict[str, int]:
    return {task.name: column for column, task in enumerate(info.tasks)}


def search_split(predictions: Predictions, name: str) -> SearchedSplit | NotSearched:
    """Looks for wrong labels of one task on one split. Missing labels are no candidates."""
    column, split = columns_of(predictions.info)[name], predictions.info.split
    scores = log_probabilities(predictions, column)
    if scores is None:
        return NotSearched(task=name, reason=f"the predictions of {split} have one of its classes per sample only")
    labels = predictions.labels[:, column]
    rows = np.flatnonzero((labels != MISSING) & np.isfinite(scores).all(axis=1))
    given = labels[rows].astype(np.int64)
    if len(np.unique(given)) < 2:
        return NotSearched(task=name, reason=f"fewer than two classes occur on {split}")
    probabilities = calibrate(given, scores[rows])
    errors = find_label_errors(given, probabilities)
    classes, samples = predictions.info.tasks[column].classes, predictions.samples[rows]
    suspects = [
        Suspect(
            task=name,
            split=split,
            sample=int(samples[row]),
            given=classes[given[row]],
            suggested=classes[suggested],
            given_probability=float(probabilities[row, given[row]]),
            suggested_probability=float(probabilities[row, suggested]),
        )
        for row, suggested in zip(errors.rows.tolist(), errors.suggested.tolist(), strict=True)
    ]
    return SearchedSplit(task=name, split=split, num_labels=len(rows), suspects=suspects, joint=errors.joint)


def calibrate(labels: np.ndarray, log_probabilities: np.ndarray) -> np.ndarray:
    """Returns probabilities that are calibrated on the very labels that are looked at, shape `(num_samples, num_classes)`, so
    that those of different tasks can be compared. Wrong labels among these make them less sure, as they should.

    Without it, a task that was trained on balanced classes fills the top of the list with labels that are right. With it, neither
    such a shift of the log-odds nor a factor on them changes anything.
    """
    scale, *biases = calibrate_classes(log_probabilities, labels).tolist()
    calibrated: np.ndarray = softmax(scale * log_probabilities + np.array(biases), axis=1)
    return calibrated


def log_probabilities(predictions: Predictions, column: int) -> np.ndarray | None:
    """Returns the log-probabilities of a task's classes, shape `(num_samples, num_classes)`; None if one class per sample is all
    that was stored: of a task with very many classes, or with more than two in a file of an older version."""
    num_classes = predictions.info.tasks[column].num_classes
    scores = predictions.scores_of(column)
    if scores is None:
        scores = positive_log_odds(predictions, column)
    scores = scores.astype(np.float64)
    if num_classes == 2:
        scores = np.concatenate([-scores, scores], axis=1)
    return log_expit(scores) if scores.shape[1] == num_classes else None


def positive_log_odds(predictions: Predictions, column: int) -> np.ndarray:
    """Returns the log-odds of class 1 of a task of two classes from the probability of the predicted one, which older versions
    stored in half precision; shape `(num_samples, 1)`."""
    confidences = np.minimum(predictions.confidences[:, column].astype(np.float64), LARGEST_OLD)
    log_odds = np.log(confidences) - np.log1p(-confidences)
    return np.where(predictions.predicted[:, column] == 1, log_odds, -log_odds)[:, None]


def join(parts: Sequence[SearchedSplit]) -> SearchedTask:
    """Returns what was found of one task on several splits."""
    suspects = sorted(
        (suspect for part in parts for suspect in part.suspects), key=lambda suspect: suspect.given_probability
    )
    return SearchedTask(name=parts[0].task, num_labels=sum(part.num_labels for part in parts), suspects=suspects)


def name_images(run: RunHistory, found: SuspectList) -> SuspectList:
    """Returns the list with the names of the images, or with why they are not known."""
    try:
        manifest = open_shard_set(run)
        names = {info.split: read_names(manifest, info) for info in found.splits}
    except (InputError, OSError, pa.ArrowException) as error:
        return replace(found, no_images=str(error))
    tasks = [
        replace(task, suspects=[replace(each, image=names[each.split][each.sample]) for each in task.suspects])
        for task in found.tasks
    ]
    return replace(found, tasks=tasks)


def read_names(manifest: Manifest, info: PredictionsInfo) -> dict[int, str]:
    """Returns the name of every image of a split by its key.

    Raises:
        InputError: The split has other images than those that were evaluated.
    """
    if manifest.hash_shards(info.split) != info.test_set:
        raise InputError(
            f"{manifest.root} has other images in split `{info.split}` than those that were evaluated. Evaluate the run again."
        )
    table = manifest.sample_columns("key", "path").take(pa.array(manifest.sample_ids(info.split)))
    keys: list[int] = table["key"].cast(pa.int64()).to_pylist()
    return dict(zip(keys, table["path"].to_pylist(), strict=True))
