"""Reads a run folder: the history per task, the latest evaluation, records, config and predictions."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import yaml

from matl_scale.decisions.table import Decisions, read_decisions
from matl_scale.errors import InputError, nearest, shortened
from matl_scale.metrics.names import METRICS
from matl_scale.metrics.task_metrics import TaskMetrics, worst_first
from matl_scale.runs.about import read_about
from matl_scale.runs.growing_table import GrowingTable
from matl_scale.runs.layout import CONFIG_FILE, DECISIONS_FILE, RunFolder
from matl_scale.runs.positive_classes import read_positive_classes
from matl_scale.runs.predictions import Predictions, read_predictions
from matl_scale.runs.records import read_records
from matl_scale.runs.routes import read_routes


@dataclass(frozen=True, kw_only=True)
class TaskTable:
    """One evaluation."""

    split: str  # the evaluated split
    step: int  # steps that the network had been trained
    tasks: list[str]  # task names, in the run's order
    metrics: TaskMetrics  # metrics of these tasks
    draws: np.ndarray | None  # slots of each task's route up to then, shape `(num_tasks,)`; None if they are not known
    labels_seen: np.ndarray | None  # labels that each task was trained on up to then; None if they are not known


@dataclass(frozen=True, kw_only=True)
class TaskHistory:
    """One metric of every task at every evaluation of a split: the matrix tasks × evaluations."""

    split: str  # the evaluated split
    metric: str
    steps: list[int]  # the step of each evaluation, ascending
    tasks: list[str]  # task names
    values: np.ndarray  # shape `(num_tasks, num_steps)`, NaN where the metric is undefined

    @property
    def lowest(self) -> float:
        """The lowest defined value; 0 if there is none."""
        return float(np.nanmin(self.values)) if np.isfinite(self.values).any() else 0.0

    def worst_first(self) -> "TaskHistory":
        """Returns the history with its tasks sorted by their last value, lowest first, undefined ones last."""
        order = worst_first(self.values[:, -1])
        return replace(self, tasks=[self.tasks[i] for i in order], values=self.values[order])

    def until(self, step: int) -> "TaskHistory":
        """Returns the history without the evaluations of later steps."""
        count = bisect_right(self.steps, step)
        return replace(self, steps=self.steps[:count], values=self.values[:, :count])

    def of_tasks(self, tasks: list[str]) -> "TaskHistory":
        """Returns the history of some tasks, in the order given; a task without a history is undefined at every step."""
        row_of = {name: i for i, name in enumerate(self.tasks)}
        undefined = np.full(len(self.steps), np.nan)
        values = [self.values[row_of[name]] if name in row_of else undefined for name in tasks]
        return replace(self, tasks=tasks, values=np.array(values).reshape(len(tasks), len(self.steps)))


class RunHistory:
    """One run, read from its folder.

    Raises:
        InputError: It is not a run, or it was never evaluated.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.files = folder, RunFolder(folder)
        remedy = (
            f"Train until `eval.every`, or evaluate a checkpoint: matl-evaluate --run {folder} --checkpoint newest."
        )
        evaluations = GrowingTable(self.files.per_task_file)
        if not evaluations.exists():
            if not self.files.config_file.is_file():
                raise InputError(f"{folder} is not a run: it has no {CONFIG_FILE}.")
            raise InputError(f"{folder} was never evaluated: it has no {self.files.per_task_file.name}. {remedy}")
        self.table: pa.Table = evaluations.read()
        if not self.table.num_rows:
            raise InputError(f"{folder} has no evaluation: it went back to a step before its first one. {remedy}")

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    @cached_property
    def config(self) -> dict[str, dict[str, Any]]:
        """The run's config, in sections."""
        return dict(yaml.safe_load(self.files.config_file.read_text(encoding="utf-8")))

    def setting(self, section: str, key: str) -> Any:
        """Returns a value of the run's config; None if it has no such key, as in an earlier version, or cannot be read: a report
        does without a config."""
        try:
            return self.config[section][key]
        except (OSError, UnicodeDecodeError, yaml.YAMLError, LookupError, TypeError, ValueError):
            return None

    @cached_property
    def min_count(self) -> int:
        """`eval.min_count` of the run's config; 0 if that does not say it."""
        value = self.setting("eval", "min_count")
        return value if isinstance(value, int) else 0

    @cached_property
    def about(self) -> dict[str, Any]:
        """`params`, `data` and `environment` of the run; empty if it has no such file."""
        return read_about(self.folder)

    @cached_property
    def steps(self) -> dict[str, list[int]]:
        """The steps at which each split was evaluated, ascending."""
        pairs = self.table.group_by(["split", "step"]).aggregate([]).sort_by("step").to_pylist()
        found: dict[str, list[int]] = {}
        for pair in pairs:
            found.setdefault(pair["split"], []).append(pair["step"])
        return found

    @cached_property
    def routes(self) -> dict[str, list[str]]:
        """The tasks of each route by its name, in the order of the masks. A run of an earlier version, which has no
        routes.parquet, has a route for every task.

        Raises:
            InputError: routes.parquet cannot be read, or lacks a task of the run.
        """
        path, tasks = self.files.routes_file, names_in_order(self.table, "task")
        if not path.is_file():
            return {name: [name] for name in tasks}
        routes = read_routes(path)
        known = {name for served in routes.values() for name in served}
        if left_out := [name for name in tasks if name not in known]:
            raise InputError(
                f"{path} should have every task of the run. It lacks {shortened(left_out)}. The run writes it again when it is "
                "restarted."
            )
        return routes

    @cached_property
    def route_of(self) -> dict[str, str]:
        """The route of each task, by names."""
        return {task: route for route, tasks in self.routes.items() for task in tasks}

    @cached_property
    def positives(self) -> dict[str, str]:
        """The positive class of each task of two classes, by the task's name, as far as the run tells the classes."""
        return read_positive_classes(self.folder)

    @cached_property
    def decisions(self) -> Decisions | None:
        """The decisions that were fitted for the run's best network; None if there are none that can be read."""
        found = sorted(self.files.best_folder.glob(f"step-*/{DECISIONS_FILE}"))
        try:
            return read_decisions(found[-1]) if found else None
        except InputError:
            return None  # what uses the network says so

    @property
    def shares_routes(self) -> bool:
        """Whether some route serves several tasks."""
        return len(self.routes) < len(self.route_of)

    @cached_property
    def records(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl."""
        return read_records(self.folder)

    def choose_split(self, wanted: str | None = None) -> str:
        """Returns the wanted split, else test if it was evaluated, else the split evaluated most often.

        Raises:
            InputError: The run was not evaluated on it.
        """
        if wanted is None:
            return "test" if "test" in self.steps else max(self.steps, key=lambda split: len(self.steps[split]))
        if wanted not in self.steps:
            raise InputError(
                f"{self.folder} was not evaluated on split `{wanted}`, only on {', '.join(self.steps)}: matl-evaluate --run "
                f"{self.folder} --split {wanted}." + nearest(wanted, self.steps)
            )
        return wanted

    def latest(self, split: str) -> TaskTable:
        """Returns the last evaluation of a split."""
        # rows are appended: the last evaluation may be of an earlier step
        return self.evaluation(split, self._evaluations(split)["step"][-1].as_py())

    def evaluation(self, split: str, step: int) -> TaskTable:
        """Returns the evaluation of a split at a step, at which there was one (`steps`)."""
        table = self._evaluations(split).filter(pc.field("step") == step)
        tasks, task_of = number_names(table["task"])
        found, metric_of = number_names(table["metric"])
        columns, counts = np.full((len(found), len(tasks)), np.nan), np.zeros(len(tasks), dtype=np.int64)
        columns[metric_of, task_of] = table["value"].to_numpy()
        counts[task_of] = table["count"].to_numpy()
        values = {name: columns[found.index(name)] for name in METRICS if name in found}
        return TaskTable(
            split=split,
            step=step,
            tasks=tasks,
            metrics=TaskMetrics(values=values, counts=counts, min_count=self.min_count),
            draws=self._counts("draws", tasks, step),
            labels_seen=self._counts("labels", tasks, step),
        )

    def over_time(self, split: str, metric: str) -> TaskHistory:
        """Returns one metric of every task at every evaluation of a split."""
        table = self._evaluations(split).filter(pc.field("metric") == metric)
        steps, (tasks, task_of) = self.steps[split], number_names(table["task"])
        values = np.full((len(tasks), len(steps)), np.nan)
        values[task_of, np.searchsorted(steps, table["step"].to_numpy())] = table["value"].to_numpy()
        return TaskHistory(split=split, metric=metric, steps=steps, tasks=tasks, values=values)

    def predictions(self, split: str) -> Predictions:
        """Returns the predictions of the last evaluation of a split; raises `InputError` if they were not saved."""
        return read_predictions(self.files.predictions_file(split))

    def _evaluations(self, split: str) -> pa.Table:
        return self.table.filter(pc.field("split") == split)

    def _counts(self, column: str, tasks: Sequence[str], step: int) -> np.ndarray | None:
        """Returns what draws.parquet counts for each task up to a step; None if it does not say."""
        table = GrowingTable(self.files.draws_file).read()
        if column not in table.column_names:
            return None
        table = table.filter(pc.field("step") <= step)
        if not table.num_rows:
            return None
        last = table.filter(pc.field("step") == pc.max(table["step"]))
        counts = dict(zip(last["task"].to_pylist(), last[column].to_pylist(), strict=True))
        return np.array([counts.get(name) or 0 for name in tasks])


def number_names(column: pa.ChunkedArray) -> tuple[list[str], np.ndarray]:
    """Returns the distinct names of a column, in the order of their first rows, and the index of each row's name among them."""
    encoded = column.combine_chunks().dictionary_encode()
    return encoded.dictionary.to_pylist(), encoded.indices.to_numpy()


def names_in_order(table: pa.Table, column: str) -> list[str]:
    """Returns the distinct values of a column, in the order of their first rows."""
    return list(table[column].unique().to_pylist())
