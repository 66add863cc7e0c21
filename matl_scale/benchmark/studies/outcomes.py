"""What a study reads from the folder of a trained and evaluated run."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from matl_scale.decisions.aim import parse_aim
from matl_scale.decisions.fit import fit_decisions, measure_decisions
from matl_scale.decisions.rule import DecisionRule
from matl_scale.decisions.samples import ScoredSamples
from matl_scale.metrics.task_metrics import mean
from matl_scale.runs.checkpoints.network import open_network
from matl_scale.runs.history import RunHistory

Measured = dict[str, np.ndarray]  # `decided_…`, `ece` and `brier` of every task, shape `(num_tasks,)`


def per_task(folder: Path, metric: str, split: str = "test") -> np.ndarray:
    """Returns a metric of the last evaluation of a split, shape `(num_tasks,)`, NaN where it is undefined."""
    return RunHistory(folder).latest(split).metrics.values[metric]


def macro(folder: Path, metric: str, split: str = "test") -> float:
    """Returns the mean of a metric over the tasks where it is defined."""
    return mean(per_task(folder, metric, split))


def read_samples_of(folder: Path, split: str) -> ScoredSamples:
    """Returns what the best network answered for the samples of a split, as the run's predictions keep it."""
    kept, best = RunHistory(folder).predictions(split), open_network(folder, "best")
    assert kept.info.step == best.step, (
        "predictions are of the last evaluation: a study evaluates once, after the last step"
    )
    assert kept.log_odds is not None, "studies evaluate anew, and predictions have had scores since format 2"
    return ScoredSamples.build(kept.info.tasks, kept.samples, kept.labels, kept.log_odds)


def decide_by(folder: Path, aim: str, prior_offsets: dict[str, list[float]]) -> Measured:
    """Fits decisions for an aim on val, from the kept predictions, and measures them on test."""
    val = read_samples_of(folder, "val")
    fitted = fit_decisions(val, [parse_aim(aim, "aim")] * len(val.tasks), prior_offsets)
    return measure_decisions(read_samples_of(folder, "test"), fitted.rules)


def decide_unfitted(folder: Path, prior_offsets: dict[str, list[float]]) -> Measured:
    """Measures on test the answers of the network as it was trained, but for the prior correction of tasks that have offsets."""
    test = read_samples_of(folder, "test")
    rules = [DecisionRule.unfitted(task.num_classes, prior_offsets.get(task.name)) for task in test.tasks]
    return measure_decisions(test, rules)


def num_higher(values: np.ndarray, references: Sequence[float] | np.ndarray) -> float:
    """Returns how many values are above their references."""
    return float((values > references).sum())
