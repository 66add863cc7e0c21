"""The table that `matl-predict` writes: one row per image and task. Probabilities and decisions follow the decision rules."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from matl_scale.deploy.task_rules import TaskRules, apply_rule
from matl_scale.tasks import Task

NAMES = pa.dictionary(pa.int32(), pa.string())


def build_schema(tasks: Sequence[Task], rules: TaskRules, about: Mapping[str, Any]) -> pa.Schema:
    """Returns the schema. Its metadata identify the network, name the classes in the order of `probabilities`, and say what is
    decided for, from which probability on, and on which split that was fitted."""
    names, columns = [task.name for task in tasks], rules.columns()
    classes = {task.name: list(task.classes) for task in tasks}
    of_binary = {name: limit for name, limit in zip(names, columns["threshold"], strict=True) if limit is not None}
    decisions = {
        "fitted_on": rules.fitted_on,
        "aims": dict(zip(names, columns["aim"], strict=True)),
        "thresholds": of_binary,
        "notes": {name: note for name, note in zip(names, columns["note"], strict=True) if note},
    }
    return pa.schema(
        [
            ("image", pa.string()),
            ("task", NAMES),
            ("prediction", NAMES),
            ("probability", pa.float32()),
            ("decision", NAMES),
            ("probabilities", pa.list_(pa.float32())),
        ],
        metadata={"matl_scale": json.dumps({**about, "classes": classes, "decisions": decisions})},
    )


def build_table(
    names: Sequence[str], tasks: Sequence[Task], rules: TaskRules, logits: Sequence[np.ndarray], schema: pa.Schema
) -> pa.Table:
    """Returns the predictions for some images: image by image, each with its tasks in order. `logits` are float32, for each task
    of shape `(num_images, num_classes)`."""
    tables = []
    for task, rule, values in zip(tasks, rules.rules, logits, strict=True):
        probabilities = apply_rule(rule, values, "probabilities")
        predicted, decided = probabilities.argmax(axis=1), apply_rule(rule, values, "decisions")
        offsets = np.arange(len(names) + 1, dtype=np.int32) * values.shape[1]
        columns = [
            pa.array(names, pa.string()),
            pa.DictionaryArray.from_arrays(np.zeros(len(names), dtype=np.int32), [task.name]),
            pa.DictionaryArray.from_arrays(predicted.astype(np.int32), list(task.classes)),
            pa.array(probabilities.max(axis=1).astype(np.float32)),
            pa.DictionaryArray.from_arrays(decided.astype(np.int32), list(task.classes)),
            pa.ListArray.from_arrays(offsets, probabilities.astype(np.float32).reshape(-1)),
        ]
        tables.append(pa.table(columns, schema=schema))
    by_image = np.arange(len(names) * len(tasks)).reshape(len(tasks), len(names)).T.reshape(-1)
    return pa.concat_tables(tables).unify_dictionaries().combine_chunks().take(by_image)
