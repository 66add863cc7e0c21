"""The metrics of all tasks after an evaluation, and their summaries over tasks. No torch here: reports use it too."""

from dataclasses import dataclass

import numpy as np

METRIC_NAMES = {
    "balanced_accuracy": "balanced accuracy",
    "auroc": "AUROC",
    "average_precision": "average precision",
    "accuracy": "accuracy",
}

METRICS = (
    "loss", "accuracy", "balanced_accuracy", "precision", "recall", "f1", "auroc", "average_precision",
    "majority_accuracy",
)  # fmt: skip
# metrics that a run's summary shows, and below which value a task is worse than a constant answer
SUMMARY_METRICS = ("accuracy", "balanced_accuracy", "auroc", "average_precision")
SUMMARIES = {
    "macro": "mean",
    "median": "median",
    "p10": "10th percentile",
    "worst": "worst",
}  # with what people call them
RANKED_SUMMARIES = tuple(
    f"{kind}_{metric}" for metric in SUMMARY_METRICS for kind in SUMMARIES
)  # the higher the better


@dataclass(frozen=True, kw_only=True)
class TaskMetrics:
    """Metrics of all tasks after one evaluation.

    Attributes:
        values: Per metric of `METRICS`, one value per task, NaN where it is undefined.
        counts: Labelled samples of each task.
    """

    values: dict[str, np.ndarray]
    counts: np.ndarray

    @property
    def below_baseline(self) -> np.ndarray:
        """Tasks, as a bool array, whose accuracy is below that of always answering the most frequent class."""
        return self.values["accuracy"] < self.values["majority_accuracy"]

    def worst(self, limit: int = 10, metric: str = "balanced_accuracy") -> list[int]:
        """Returns the tasks with the lowest values of a metric, worst first; undefined ones are left out."""
        values = self.values[metric]
        order = np.argsort(values, kind="stable")
        return [int(task_id) for task_id in order if np.isfinite(values[task_id])][:limit]

    def summary(self) -> dict[str, float]:
        """Returns the summaries over tasks, by name: mean, median, 10th percentile and worst of the main metrics."""
        result = {"macro_loss": mean(self.values["loss"])}
        for name in SUMMARY_METRICS:
            values = self.values[name][np.isfinite(self.values[name])]
            result[f"macro_{name}"] = mean(values)
            result[f"median_{name}"] = float(np.median(values)) if len(values) else float("nan")
            result[f"p10_{name}"] = float(np.percentile(values, 10)) if len(values) else float("nan")
            result[f"worst_{name}"] = float(values.min()) if len(values) else float("nan")
        result["tasks_below_baseline"] = float(self.below_baseline.sum())
        result["tasks_evaluated"] = float((self.counts > 0).sum())
        return result


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Divides, with NaN where `whole` is zero."""
    return np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0)


def mean(values: np.ndarray) -> float:
    """Returns the mean of the defined values, NaN if there are none."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else float("nan")


def defined(values: np.ndarray) -> np.ndarray:
    """Returns the values that are defined."""
    return values[np.isfinite(values)]


def summarise(values: np.ndarray) -> dict[str, float | None]:
    """Returns mean, median, 10th percentile and worst of the defined values; None if there are none."""
    known = defined(values)
    if not len(known):
        return dict.fromkeys(("mean", "median", "10th percentile", "worst"))
    return {
        "mean": float(known.mean()),
        "median": float(np.median(known)),
        "10th percentile": float(np.percentile(known, 10)),
        "worst": float(known.min()),
    }
