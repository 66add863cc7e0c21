"""What is done with a finished evaluation of a running run, on its first rank: decisions are fitted, and results kept."""

from dataclasses import dataclass

from matl_scale.decisions.aim import Aim
from matl_scale.metrics.task_metrics import TaskMetrics
from matl_scale.runs.decided import fit_on, name_decisions, with_decided
from matl_scale.runs.layout import RunFolder
from matl_scale.runs.predictions import Predictions, write_predictions
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
        """Keeps an evaluation; returns its metrics together with those of the decisions."""
        fitted = fit_on(predictions, self.aims, self.prior_offsets)
        metrics = with_decided(metrics, fitted.measured)
        split = predictions.info.split
        # before the record, which says that the evaluation is complete
        if self.keep_predictions and is_last:
            write_predictions(self.folder.predictions_file(split), predictions)
        is_best = self.saver.save_best(
            state, metrics.summary(), lambda network: name_decisions(fitted, predictions, self.aims, network)
        )
        if is_best and self.keep_predictions:
            of_best = self.folder.best_predictions_file(split)
            if is_last:  # the file above is of this network
                of_best.unlink(missing_ok=True)
            else:
                write_predictions(of_best, predictions)
        return metrics
