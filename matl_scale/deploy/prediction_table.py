"""The table that `matl-predict` writes: one row per image and task."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from matl_scale.tasks import Task

NAMES = pa.dictionary(pa.int32(), pa.string())


def build_schema(tasks: Sequence[Task], about: Mapping[str, Any]) -> pa.Schema:
    """Returns the schema; its metadata says which network answered, and the class names in the order of `probabilities`."""
    classes = {task.name: list(task.classes) for task in tasks}
    return pa.schema(
        [
            ("image", pa.string()),
            ("task", NAMES),
            ("prediction", NAMES),
            ("probability", pa.float32()),
            ("probabilities", pa.list_(pa.float32())),
        ],
        metadata={"matl_scale": json.dumps({**about, "classes": classes})},
    )


def build_rows(
    names: Sequence[str], tasks: Sequence[Task], probabilities: Sequence[np.ndarray], schema: pa.Schema
) -> pa.Table:
    """Returns the rows of some images: image after image, its tasks in order.

    Args:
        names: Of the images.
        tasks: One per element of `probabilities`.
        probabilities: Of each task's classes, shape `(num_images, num_classes)`.
        schema: From `build_schema`.
    """
    parts = []
    for task, values in zip(tasks, probabilities, strict=True):
        answers = values.argmax(axis=1)
        offsets = np.arange(len(names) + 1, dtype=np.int32) * values.shape[1]
        columns = [
            pa.array(names, pa.string()),
            pa.DictionaryArray.from_arrays(np.zeros(len(names), dtype=np.int32), [task.name]),
            pa.DictionaryArray.from_arrays(answers.astype(np.int32), list(task.classes)),
            pa.array(np.take_along_axis(values, answers[:, None], axis=1)[:, 0]),
            pa.ListArray.from_arrays(offsets, values.reshape(-1)),
        ]
        parts.append(pa.table(columns, schema=schema))
    by_image = np.arange(len(names) * len(tasks)).reshape(len(tasks), len(names)).T.reshape(-1)
    return pa.concat_tables(parts).unify_dictionaries().combine_chunks().take(by_image)
