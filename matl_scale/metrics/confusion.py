"""Metrics that follow from confusion matrices, of many tasks at once. No torch."""

import numpy as np

from matl_scale.metrics.task_metrics import mean_of_chosen, ratio


def measure_confusions(confusions: np.ndarray) -> dict[str, np.ndarray]:
    """Returns accuracy, balanced accuracy, precision, recall and F1 for counts by true × predicted class.

    A task of two classes reports precision, recall and F1 of its class 1, one of more the means over the classes that occur. NaN
    where undefined.

    Args:
        confusions: Of tasks with equally many classes, shape `(num_tasks, num_classes, num_classes)`.

    Returns:
        By name, shape `(num_tasks,)`.
    """
    is_binary = confusions.shape[1] == 2
    support, predicted = confusions.sum(axis=2), confusions.sum(axis=1)
    hits = confusions.diagonal(axis1=1, axis2=2)
    recall, precision = ratio(hits, support), ratio(hits, predicted)
    f1 = ratio(2 * hits, support + predicted)
    present = support > 0
    chosen = np.broadcast_to(np.array([False, True]), present.shape) if is_binary else present
    balanced = mean_of_chosen(recall, present)
    return {
        "accuracy": ratio(hits.sum(axis=1), support.sum(axis=1)),
        "balanced_accuracy": np.where(present.sum(axis=1) > 1, balanced, np.nan),
        "precision": mean_of_chosen(precision, chosen),
        "recall": mean_of_chosen(recall, chosen),
        "f1": mean_of_chosen(f1, chosen & present),
    }
