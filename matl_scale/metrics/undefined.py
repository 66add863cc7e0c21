"""Why a metric of a task has no value."""

import numpy as np

from matl_scale.tasks import Task

NO_LABEL = "no labelled sample"
ONE_CLASS = "only one class occurs"  # where it is not known which
NEVER_PREDICTED = "the positive class is never predicted"


def why_undefined(task: Task, class_counts: np.ndarray) -> str:
    """Returns why the balanced accuracy of a task is undefined; an empty text if it is defined.

    Args:
        task: The task.
        class_counts: Labelled samples of each class, shape `(num_classes,)`.
    """
    present = np.flatnonzero(class_counts)
    if not len(present):
        return NO_LABEL
    return f"only class `{task.classes[present[0]]}` occurs" if len(present) == 1 else ""
