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
    "decided_balanced_accuracy": "decided balanced accuracy",
    "decided_accuracy": "decided accuracy",
    "decided_precision": "decided precision",
    "decided_recall": "decided recall",
    "decided_f1": "decided F1",
    "ece": "ECE",
    "brier": "Brier score",
    "baseline_p": "p of the baseline",
    "smallest_class": "samples of the smallest class",
}
METRICS = tuple(METRIC_LABELS)
# those that need more than counts of each class and score: they are there if decisions were fitted
DECIDED_METRICS = (
    "decided_balanced_accuracy",
    "decided_accuracy",
    "decided_precision",
    "decided_recall",
    "decided_f1",
    "ece",
    "brier",
)
COUNTED_METRICS = tuple(name for name in METRICS if name not in DECIDED_METRICS)

# the metrics of figures over tasks and over time, in the order in which a reader meets them
MAIN_METRICS = (MAIN_METRIC, "auroc", "average_precision", "accuracy")
MAIN_METRIC_LABELS = {name: METRIC_LABELS[name] for name in MAIN_METRICS}
# of tables of the summaries, and of tables with a row per task
SUMMARY_COLUMNS = (MAIN_METRIC, "decided_balanced_accuracy", "auroc", "average_precision", "accuracy", "ece")
TASK_COLUMNS = (
    MAIN_METRIC,
    "decided_balanced_accuracy",
    "auroc",
    "average_precision",
    "accuracy",
    "majority_accuracy",
)

# the metrics of a task with two classes that are of one of them, its positive class, with what is to be said about that
POSITIVE_METRICS = (
    "precision",
    "recall",
    "f1",
    "auroc",
    "average_precision",
    "decided_precision",
    "decided_recall",
    "decided_f1",
)
POSITIVE_HINT = "of the positive class, in a task with two classes"
POSITIVE_NOTE = (
    "Precision, recall, F1, AUROC and average precision of a task with two classes are of class 1, the positive one."
)

# the summaries of a metric over tasks, with their labels
SUMMARIES = {"macro": "mean", "median": "median", "p10": "10th percentile", "worst": "worst"}
SUMMARISED_METRICS = (  # in the order of files
    "accuracy",
    MAIN_METRIC,
    "auroc",
    "average_precision",
    "decided_balanced_accuracy",
)
AVERAGED_METRICS = ("decided_f1", "ece", "brier")  # of which there is the mean only
MAY_BE_UNDEFINED = ("accuracy", MAIN_METRIC, "auroc", "average_precision", "precision")  # where a class is missing
RANKED_SUMMARIES = (  # higher is better
    *(f"{kind}_{metric}" for metric in SUMMARISED_METRICS for kind in SUMMARIES),
    "macro_decided_f1",
)

NOT_LEARNED = "not better than the baseline beyond chance"  # what tasks are called that `TaskMetrics.not_learned` marks

# the metrics that follow from which samples were predicted correctly, so that runs can be compared sample by sample
PairedMetric = Literal["balanced_accuracy", "accuracy"]
PAIRED_METRICS: tuple[PairedMetric, ...] = get_args(PairedMetric)
