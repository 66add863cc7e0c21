"""From the predictions of an evaluation to decisions, and to metrics of decisions."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from matl_scale.decisions.aim import Aim, parse_aim
from matl_scale.decisions.fit import FittedDecisions, fit_decisions, measure_decisions
from matl_scale.decisions.rule import DecisionRule
from matl_scale.decisions.samples import ScoredSamples
from matl_scale.decisions.table import Decisions, DecisionsInfo
from matl_scale.errors import InputError
from matl_scale.metrics.task_metrics import TaskMetrics
from matl_scale.runs.layout import RunFolder
from matl_scale.runs.predictions import Predictions, read_predictions, read_predictions_info


def fit_on(
    predictions: Predictions, aims: Sequence[Aim], prior_offsets: Mapping[str, Sequence[float]]
) -> FittedDecisions:
    """Fits the decisions of all tasks on the predictions of a split."""
    return fit_decisions(score_samples(predictions), aims, prior_offsets)


def measure_with(predictions: Predictions, decisions: Decisions) -> dict[str, np.ndarray]:
    """Returns metrics of decisions (see `measure_decisions`) for predictions of the same tasks.

    On the samples that the decisions were fitted on, they are cross-fitted: nothing is measured where it was fitted.
    """
    if decisions.info.test_set == predictions.info.test_set:
        aims = choose_again(decisions)
        offsets = {name: rule.prior_offsets.tolist() for name, rule in decisions.rules.items()}
        return fit_on(predictions, aims, offsets).measured
    return measure_decisions(score_samples(predictions), list(decisions.rules.values()))


def name_decisions(fitted: FittedDecisions, predictions: Predictions, aims: Sequence[Aim], network: str) -> Decisions:
    """Returns fitted decisions as those of a network, given by the SHA-256 of its tensors, with what they bring."""
    tasks, info = predictions.info.tasks, predictions.info
    unfitted = [DecisionRule.unfitted(task.num_classes) for task in tasks]
    as_trained = measure_decisions(score_samples(predictions), unfitted)
    return Decisions(
        info=DecisionsInfo(network=network, step=info.step, split=info.split, test_set=info.test_set),
        rules={task.name: rule for task, rule in zip(tasks, fitted.rules, strict=True)},
        aims={task.name: str(aim) for task, aim in zip(tasks, aims, strict=True)},
        measured=fitted.measured | {f"{name}_as_trained": as_trained[name] for name in ("ece", "brier")},
    )


def with_decided(metrics: TaskMetrics, measured: Mapping[str, np.ndarray]) -> TaskMetrics:
    """Returns the metrics of an evaluation together with those of its decisions.

    A task with more classes than have scores is decided for the most probable class, so that its metrics are those that were
    counted.
    """
    same = np.isnan(measured["ece"])  # nothing was measured
    decided = {
        name: np.where(same, metrics.column(name.removeprefix("decided_")), column)
        for name, column in measured.items()
        if name.startswith("decided_")
    }
    return metrics.with_values({**measured, **decided})


def find_kept_predictions(folder: Path, split: str, network: str) -> Predictions:
    """Returns what a network, given by the SHA-256 of its tensors, predicted for a split, with log-odds.

    Raises:
        InputError: The run has not kept them.
    """
    files = RunFolder(folder)
    remedy = f"Evaluate it: matl-evaluate --run {folder} --split {split}."
    for path in (files.predictions_file(split), files.best_predictions_file(split)):
        if path.is_file() and read_predictions_info(path).network == network:
            return read_predictions(path)
    raise InputError(f"{folder} has kept no predictions of this network for split `{split}`. {remedy}")


def score_samples(predictions: Predictions) -> ScoredSamples:
    assert predictions.log_odds is not None
    return ScoredSamples.build(predictions.info.tasks, predictions.samples, predictions.labels, predictions.log_odds)


def choose_again(decisions: Decisions) -> list[Aim]:
    """Returns the aims for which decisions were fitted."""
    return [parse_aim(aim, "aim") for aim in decisions.aims.values()]
