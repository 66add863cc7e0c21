"""The table that `matl-predict` writes: one row per image and task."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from matl_scale.tasks import Task

NAMES = pa.dictionary(pa.int32(), pa.string())


def build_schema(tasks: Sequence[Task], about: Mapping[str, Any]) -> pa.Schema:
    """Returns the schema. Its metadata identify the network, and name the classes in the order of `probabilities`."""
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


def build_table(
    names: Sequence[str], tasks: Sequence[Task], probabilities: Sequence[np.ndarray], schema: pa.Schema
) -> pa.Table:
    """Returns the predictions for some images: image by image, each with its tasks in order. `probabilities` are those of each
    task's classes, shape `(num_images, num_classes)`."""
    tables = []
    for task, values in zip(tasks, probabilities, strict=True):
        predicted = values.argmax(axis=1)
        offsets = np.arange(len(names) + 1, dtype=np.int32) * values.shape[1]
        columns = [
            pa.array(names, pa.string()),
            pa.DictionaryArray.from_arrays(np.zeros(len(names), dtype=np.int32), [task.name]),
            pa.DictionaryArray.from_arrays(predicted.astype(np.int32), list(task.classes)),
            pa.array(np.take_along_axis(values, predicted[:, None], axis=1)[:, 0]),
            pa.ListArray.from_arrays(offsets, values.reshape(-1)),
        ]
        tables.append(pa.table(columns, schema=schema))
    by_image = np.arange(len(names) * len(tasks)).reshape(len(tasks), len(names)).T.reshape(-1)
    return pa.concat_tables(tables).unify_dictionaries().combine_chunks().take(by_image)
