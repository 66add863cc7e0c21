"""`predictions-SPLIT.parquet`: the predictions for every sample of a split, by which runs are compared sample by sample.

One row per sample. Labels, predictions (in the column `answers`) and confidences are lists with one value per task; the file's
metadata holds split, step and tasks.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from matl_scale.errors import InputError
from matl_scale.storage.files import write_atomic
from matl_scale.tasks import Task

FORMAT_VERSION = 1
METADATA_KEY = b"matl_scale"
COLUMNS = ("sample", "labels", "answers", "confidences")
UNREADABLE = (OSError, ValueError, KeyError, TypeError)  # raised by a damaged file, or one of another kind


@dataclass(frozen=True, kw_only=True)
class PredictionsInfo:
    """What predictions are of."""

    split: str  # the predicted split
    step: int  # steps that the network had been trained
    tasks: tuple[Task, ...]  # a task for each column of the matrices
    test_set: str  # hash of the split's tars. Equal hashes mean the same images under the same keys.


@dataclass(frozen=True, kw_only=True)
class PredictionBlock:
    """The predictions for some samples."""

    samples: np.ndarray  # keys of the samples, shape `(num_samples,)`
    labels: np.ndarray  # class indices, −1 = no label, shape `(num_samples, num_tasks)`
    predicted: np.ndarray  # indices of the most probable classes, −1 where there is no label; same shape
    confidences: np.ndarray  # probabilities of these classes, float16, NaN where there is no label; same shape


@dataclass(frozen=True, kw_only=True)
class Predictions(PredictionBlock):
    """The predictions for all samples of a split, in ascending order of their keys."""

    info: PredictionsInfo


def write_predictions(path: Path, info: PredictionsInfo, blocks: Iterable[PredictionBlock]) -> None:
    """Writes the file, block by block. It appears under its name when it is complete."""
    about = {"format_version": FORMAT_VERSION, **asdict(info)}
    width = len(info.tasks)
    classes = pa.list_(pa.int16(), width)
    types = (pa.int64(), classes, classes, pa.list_(pa.float16(), width))
    schema = pa.schema(list(zip(COLUMNS, types, strict=True)), metadata={METADATA_KEY: json.dumps(about)})

    def write(partial: Path) -> None:
        with pq.ParquetWriter(partial, schema, compression="zstd") as writer:
            for block in blocks:
                matrices = (block.labels.astype(np.int16), block.predicted.astype(np.int16), block.confidences)
                lists = [pa.FixedSizeListArray.from_arrays(pa.array(m.reshape(-1)), width) for m in matrices]
                writer.write_table(pa.table([pa.array(block.samples), *lists], schema=schema))

    write_atomic(path, write)


def read_predictions(path: Path) -> Predictions:
    """Reads the file; raises `InputError` if it is not there, or not one of these."""
    if not path.is_file():
        raise InputError(f"{path} is not there: evaluate the run on that split (matl-evaluate --run … --split …).")
    try:
        file = pq.ParquetFile(path)
        info, table = parse_info(file.schema_arrow), file.read()
        samples = table["sample"].to_numpy()
        order = np.argsort(samples, kind="stable")
        shape = (len(samples), len(info.tasks))
        labels, predicted, confidences = (
            table[name].combine_chunks().flatten().to_numpy(zero_copy_only=False).reshape(shape)[order]
            for name in COLUMNS[1:]
        )
    except UNREADABLE as error:
        raise explain_unreadable(path, error) from error
    return Predictions(samples=samples[order], labels=labels, predicted=predicted, confidences=confidences, info=info)


def read_predictions_info(path: Path) -> PredictionsInfo:
    """Reads the metadata of a file, but not its predictions; raises `InputError` if it is not one of these files."""
    try:
        return parse_info(pq.read_schema(path))
    except UNREADABLE as error:
        raise explain_unreadable(path, error) from error


def parse_info(schema: pa.Schema) -> PredictionsInfo:
    about = json.loads((schema.metadata or {})[METADATA_KEY])
    if about["format_version"] != FORMAT_VERSION:
        raise ValueError(f"format {about['format_version']}, not {FORMAT_VERSION}")
    tasks = tuple(
        Task(name=task["name"], classes=tuple(task["classes"]), source=task["source"]) for task in about["tasks"]
    )
    return PredictionsInfo(split=about["split"], step=about["step"], tasks=tasks, test_set=about["test_set"])


def explain_unreadable(path: Path, error: Exception) -> InputError:
    return InputError(
        f"{path} does not hold predictions of a run: {error!r}. Evaluate that run again, or move the file away."
    )
