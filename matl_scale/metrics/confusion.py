"""Metrics that follow from a confusion matrix. No torch."""

import numpy as np

from matl_scale.metrics.task_metrics import mean, ratio


def measure_confusion(confusion: np.ndarray) -> dict[str, float]:
    """Returns accuracy, balanced accuracy, precision, recall and F1 for counts by true × predicted class.

    `confusion` has shape `(num_classes, num_classes)`. A task of two classes reports precision, recall and F1 of its class 1, one
    of more the means over the classes that occur. NaN where undefined.
    """
    num_classes, total = len(confusion), confusion.sum()
    support, predicted, hits = confusion.sum(axis=1), confusion.sum(axis=0), confusion.diagonal()
    recall, precision = ratio(hits, support), ratio(hits, predicted)
    f1 = ratio(2 * hits, support + predicted)
    present = support > 0
    chosen = np.array([False, True]) if num_classes == 2 else present
    return {
        "accuracy": float(hits.sum() / total) if total else float("nan"),
        "balanced_accuracy": mean(recall[present]) if present.sum() > 1 else float("nan"),
        "precision": mean(precision[chosen]),
        "recall": mean(recall[chosen]),
        "f1": mean(f1[chosen & (present | (num_classes > 2))]),
    }
