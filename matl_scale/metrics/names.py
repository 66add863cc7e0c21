"""Metrics and summaries over tasks: their keys in files, their labels for readers, and the order of both."""

from typing import Literal, get_args

MAIN_METRIC = "balanced_accuracy"  # the one that tasks are ranked by

# every metric of a task, in the order of files and records, with its label
METRIC_LABELS = {
    "loss": "loss",
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
    "auroc": "AUROC",
    "average_precision": "average precision",
    "majority_accuracy": "majority accuracy",
}
METRICS = tuple(METRIC_LABELS)

# the metrics that are summarised over tasks, in the order in which a reader meets them
MAIN_METRICS = (MAIN_METRIC, "auroc", "average_precision", "accuracy")
MAIN_METRIC_LABELS = {name: METRIC_LABELS[name] for name in MAIN_METRICS}
TASK_COLUMNS = (*MAIN_METRICS, "majority_accuracy")  # of tables with a row per task

# the metrics of a task with two classes that are of one of them, its positive class, with what is to be said about that
POSITIVE_METRICS = ("precision", "recall", "f1", "auroc", "average_precision")
POSITIVE_HINT = "of the positive class, in a task with two classes"
POSITIVE_NOTE = (
    "Precision, recall, F1, AUROC and average precision of a task with two classes are of class 1, the positive one."
)

# the summaries of a metric over tasks, with their labels
SUMMARIES = {"macro": "mean", "median": "median", "p10": "10th percentile", "worst": "worst"}
SUMMARISED_METRICS = tuple(name for name in METRICS if name in MAIN_METRICS)  # in the order of files
MAY_BE_UNDEFINED = (*SUMMARISED_METRICS, "precision")  # where a class, or a prediction of it, is missing
RANKED_SUMMARIES = tuple(f"{kind}_{metric}" for metric in SUMMARISED_METRICS for kind in SUMMARIES)  # higher is better

NOT_BETTER = "not better than the constant answer"  # what tasks are called that `TaskMetrics.not_better` marks

# the metrics that follow from which samples were predicted correctly, so that runs can be compared sample by sample
PairedMetric = Literal["balanced_accuracy", "accuracy"]
PAIRED_METRICS: tuple[PairedMetric, ...] = get_args(PairedMetric)
