"""What is done with a finished evaluation of a running run, on its first rank: decisions are fitted, and results kept."""

import math
from dataclasses import dataclass, replace

from matl_scale.decisions.aim import Aim
from matl_scale.metrics.task_metrics import TaskMetrics
from matl_scale.runs.decided import fit_on, name_decisions, with_decided
from matl_scale.runs.layout import RunFolder
from matl_scale.runs.predictions import Predictions, write_predictions
from matl_scale.train.keep_predictions import keep_predictions
from matl_scale.train.resume.saving import Saver
from matl_scale.train.state import TrainState


@dataclass(frozen=True, kw_only=True)
class EvaluationKeeper:
    """Fits decisions after every evaluation, and keeps the best network with them."""

    folder: RunFolder
    saver: Saver
    aims: list[Aim]  # of each task
    prior_offsets: dict[str, list[float]]  # of tasks that need a prior correction
    keep_predictions: bool  # whether predictions are written: of the last evaluation, and of the best network

    def keep(self, state: TrainState, metrics: TaskMetrics, predictions: Predictions, is_last: bool) -> TaskMetrics:
        """Keeps an evaluation; returns its metrics together with those of the decisions. It is the last one if `is_last` says so,
        or because of `train.patience`."""
        fitted = fit_on(predictions, self.aims, self.prior_offsets)
        metrics = with_decided(metrics, fitted.measured)
        network = self.saver.save_best(
            state, metrics.summary(), lambda sha256: name_decisions(fitted, predictions, self.aims, sha256)
        )
        if self.keep_predictions:
            self._write(predictions, network, is_last or self._ends_early(state, metrics))
        return metrics

    def _ends_early(self, state: TrainState, metrics: TaskMetrics) -> bool:
        if not state.has_patience:
            return False
        return state.patience.is_over(state.patience.waited_with(self.summary_of(metrics)))

    def summary_of(self, metrics: TaskMetrics) -> float:
        """Returns the summary that the best network is chosen by."""
        return metrics.summary().get(self.saver.best_metric, math.nan)

    def _write(self, predictions: Predictions, network: str, is_last: bool) -> None:
        """Writes predictions of the last evaluation, and of the best network if they are not the same.

        `network` is the SHA-256 of the network that predicted if it is the best, else empty.
        """
        predictions = replace(predictions, info=replace(predictions.info, network=network))
        if is_last:
            keep_predictions(self.folder, predictions)
        elif network:
            write_predictions(self.folder.best_predictions_file(predictions.info.split), predictions)
