"""Run folders for tests of the report: metrics, predictions and config as a run leaves them, from given predictions."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import yaml

from helpers.made_up_scores import make_scores
from matl_scale.metrics.counters import TaskCounters
from matl_scale.metrics.task_metrics import TaskMetrics
from matl_scale.runs.layout import RunFolder
from matl_scale.runs.predictions import Predictions, PredictionsInfo, write_predictions
from matl_scale.runs.records import LocalLog
from matl_scale.tasks import Task


def binary_tasks(*names: str) -> list[Task]:
    return [Task(name=name, classes=("no", "yes")) for name in names]


def draw_labels(num_samples: int, tasks: Sequence[Task], seed: int = 0, missing: float = 0.2) -> np.ndarray:
    """Returns labels with some missing, shape `(num_samples, num_tasks)`."""
    generator = np.random.default_rng(seed)
    labels = np.stack([generator.integers(0, task.num_classes, num_samples) for task in tasks], axis=1)
    labels[generator.random(labels.shape) < missing] = -1
    return labels


def draw_predictions(labels: np.ndarray, tasks: Sequence[Task], skill: float | np.ndarray, seed: int) -> np.ndarray:
    """Returns predictions that are correct with probability `skill`, a number or one per task; −1 where there is no label."""
    generator = np.random.default_rng(seed)
    shifts = np.stack([generator.integers(1, task.num_classes, len(labels)) for task in tasks], axis=1)
    counts = np.array([task.num_classes for task in tasks])
    predicted = np.where(generator.random(labels.shape) < skill, labels, (labels + shifts) % counts)
    return np.where(labels < 0, -1, predicted)


def measure(tasks: Sequence[Task], labels: np.ndarray, predicted: np.ndarray) -> TaskMetrics:
    """Returns what an evaluation would have measured."""
    counters = TaskCounters([task.num_classes for task in tasks])
    for i, task in enumerate(tasks):
        known = labels[:, i] >= 0
        logits = torch.nn.functional.one_hot(
            torch.from_numpy(predicted[known][:, [i]].astype(np.int64)), task.num_classes
        )
        counters.update(torch.tensor([i]), logits.float(), torch.from_numpy(labels[known][:, [i]].astype(np.int64)))
    return counters.compute()


def write_run(
    folder: Path,
    tasks: Sequence[Task],
    labels: np.ndarray,
    predicted: np.ndarray,
    *,
    split: str = "test",
    step: int = 100,
    test_set: str = "images",
    config: Mapping[str, Mapping[str, object]] | None = None,
) -> TaskMetrics:
    """Writes one evaluation into a run's folder, with predictions, draws and config."""
    folder.mkdir(parents=True, exist_ok=True)
    metrics, names = measure(tasks, labels, predicted), [task.name for task in tasks]
    log = LocalLog(folder)
    log.log_per_task(step, split, names, metrics)
    draws = np.arange(len(names)) * step
    log.log_draws(step, names, draws, 32 * draws)
    scores = make_scores(tasks, np.where(labels < 0, -1, predicted), np.full(labels.shape, 0.75))
    info = PredictionsInfo(split=split, step=step, tasks=tuple(tasks), test_set=test_set)
    found = Predictions(samples=np.arange(len(labels)), labels=labels, predicted=predicted, log_odds=scores, info=info)
    write_predictions(RunFolder(folder).predictions_file(split), found)
    sections = {"run": {"name": folder.name, "dir": str(folder.parent), "seed": 0}, "eval": {"split": split}}
    for section, values in (config or {}).items():
        sections[section] = {**sections.get(section, {}), **values}
    (folder / "config.yaml").write_text(yaml.safe_dump(sections, sort_keys=False))
    return metrics


TASKS = [*binary_tasks("better", "worse", "same"), Task(name="kind", classes=("x", "y", "z"))]
SKILL_A = np.array([0.7, 0.95, 0.8, 0.6])
SKILL_B = np.array([0.95, 0.7, 0.8, 0.6])
LABELS = draw_labels(300, TASKS)
Write = Callable[..., Path]


def write_single_runs(write: Write) -> Path:
    """Writes a shared run, and single-task runs of which `better` is worse than it, `worse` better, and `same` alike."""
    for seed in (5, 6):
        write(f"alone-better-{seed}", 0.75, seed, tasks=TASKS[:1], labels=LABELS[:, :1])
    write("alone-worse", 0.98, 7, tasks=TASKS[1:2], labels=LABELS[:, 1:2], sigma=1.0)
    write("alone-same", 0.8, 8, tasks=TASKS[2:3], labels=LABELS[:, 2:3])
    write("alone-elsewhere", 0.8, 9, tasks=TASKS[3:], labels=LABELS[:, 3:], test_set="others")
    write("two-tasks", 0.8, 9, tasks=TASKS[2:], labels=LABELS[:, 2:])
    return write("shared", np.array([0.95, 0.75, 0.8, 0.6]), 1)
