"""`predictions-SPLIT.parquet`: the predictions for every sample of a split, by which runs are compared sample by sample.

One row per sample. Labels and predictions (in the column `answers`) are lists with one value per task, `log_odds` are lists of
scores (see `metrics/scores.py`); the file's metadata holds split, step and tasks. Files of format 1 have the probability of the
predicted class instead of scores.
"""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from matl_scale.errors import InputError
from matl_scale.metrics.scores import ScoreLayout, find_confidences
from matl_scale.storage.files import write_atomic
from matl_scale.tasks import Task

FORMAT_VERSION = 2
READABLE_VERSIONS = (1, 2)
METADATA_KEY = b"matl_scale"
COLUMNS = ("sample", "labels", "answers", "log_odds")
ROWS = 16_384  # of a row group
OLD_CONFIDENCES = "confidences"  # the column of format 1
UNREADABLE = (OSError, ValueError, KeyError, TypeError)  # raised by a damaged file, or one of another kind


@dataclass(frozen=True, kw_only=True)
class PredictionsInfo:
    """What predictions are of."""

    split: str  # the predicted split
    step: int  # steps that the network had been trained
    tasks: tuple[Task, ...]  # a task for each column of the matrices
    test_set: str  # hash of the split's tars. Equal hashes mean the same images under the same keys.
    network: str = ""  # SHA-256 of the network's tensors; empty if a run did not keep it as its best

    @property
    def num_classes(self) -> list[int]:
        """The number of classes of each task."""
        return [task.num_classes for task in self.tasks]

    @cached_property
    def layout(self) -> ScoreLayout:
        """The columns of each task's scores."""
        return ScoreLayout.build(self.num_classes)


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """The predictions for all samples of a split, in ascending order of their keys."""

    samples: np.ndarray  # keys of the samples, shape `(num_samples,)`
    labels: np.ndarray  # class indices, −1 = no label, shape `(num_samples, num_tasks)`
    predicted: np.ndarray  # indices of the most probable classes, −1 where there is no label; same shape
    # scores, float16, NaN where there is no label, shape `(num_samples, num_scores)`; None in files of format 1
    log_odds: np.ndarray | None
    info: PredictionsInfo
    old_confidences: np.ndarray | None = None  # the confidences of a file of format 1

    @cached_property
    def confidences(self) -> np.ndarray:
        """The probabilities of the predicted classes as trained, NaN where there is no label; of the shape of `predicted`."""
        if self.log_odds is None:
            assert self.old_confidences is not None
            return self.old_confidences
        return find_confidences(self.log_odds, self.predicted, self.info.layout)

    def scores_of(self, column: int) -> np.ndarray | None:
        """Returns the scores of a task, shape `(num_samples, its scores)`; None if the file has none."""
        return None if self.log_odds is None else self.log_odds[:, self.info.layout.columns_of(column)]


def write_predictions(path: Path, predictions: Predictions) -> None:
    """Writes the file. It appears under its name when it is complete."""
    info = predictions.info
    assert predictions.log_odds is not None
    classes = (each.astype(np.int16, copy=False) for each in (predictions.labels, predictions.predicted))
    matrices = (*classes, predictions.log_odds)
    lists = [pa.FixedSizeListArray.from_arrays(pa.array(m.reshape(-1)), m.shape[1]) for m in matrices]
    table = pa.table([pa.array(predictions.samples, pa.int64()), *lists], names=list(COLUMNS))
    tasks = [{"name": task.name, "classes": task.classes, "source": task.source} for task in info.tasks]
    about = {"format_version": FORMAT_VERSION, "split": info.split, "step": info.step, "tasks": tasks}
    about |= {"test_set": info.test_set, "network": info.network}
    table = table.replace_schema_metadata({METADATA_KEY: json.dumps(about)})
    write_atomic(path, lambda partial: pq.write_table(table, partial, compression="zstd", row_group_size=ROWS))


def read_predictions(path: Path) -> Predictions:
    """Reads the file; raises `InputError` if it is not there, or not one of these."""
    if not path.is_file():
        raise InputError(f"{path} is not there: evaluate the run on that split (matl-evaluate --run … --split …).")
    try:
        file = pq.ParquetFile(path)
        info, table = parse_info(file.schema_arrow), file.read()
        samples = table["sample"].to_numpy()
        order = np.argsort(samples, kind="stable")
        is_old, num_tasks = OLD_CONFIDENCES in table.column_names, len(info.tasks)
        third = (OLD_CONFIDENCES, num_tasks) if is_old else (COLUMNS[3], info.layout.width)
        labels, predicted, last = (
            table[name].combine_chunks().flatten().to_numpy(zero_copy_only=False).reshape(len(samples), width)[order]
            for name, width in ((COLUMNS[1], num_tasks), (COLUMNS[2], num_tasks), third)
        )
    except UNREADABLE as error:
        raise explain_unreadable(path, error) from error
    return Predictions(
        samples=samples[order],
        labels=labels,
        predicted=predicted,
        log_odds=None if is_old else last,
        info=info,
        old_confidences=last.astype(np.float32) if is_old else None,
    )


def read_predictions_info(path: Path) -> PredictionsInfo:
    """Reads the metadata of a file, but not its predictions; raises `InputError` if it is not one of these files."""
    try:
        return parse_info(pq.read_schema(path))
    except UNREADABLE as error:
        raise explain_unreadable(path, error) from error


def parse_info(schema: pa.Schema) -> PredictionsInfo:
    about = json.loads((schema.metadata or {})[METADATA_KEY])
    if about["format_version"] not in READABLE_VERSIONS:
        raise ValueError(f"format {about['format_version']}, not one of {READABLE_VERSIONS}")
    tasks = tuple(
        Task(name=task["name"], classes=tuple(task["classes"]), source=task["source"]) for task in about["tasks"]
    )
    return PredictionsInfo(
        split=about["split"],
        step=about["step"],
        tasks=tasks,
        test_set=about["test_set"],
        network=about.get("network", ""),
    )


def explain_unreadable(path: Path, error: Exception) -> InputError:
    return InputError(
        f"{path} does not hold predictions of a run: {error!r}. Evaluate that run again, or move the file away."
    )
