"""Class indices from arrays: what the Python interface may be given as labels, and what that becomes.

NaN, None and masked cells are missing labels. Everything else has to be −1 (missing) or a class of its task: a value is checked
before it is narrowed to the type of the label matrix, so that none wraps around to another class.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from matl_scale.data.shards.layout import MISSING, label_dtype
from matl_scale.errors import InputError
from matl_scale.tasks import Task


def as_class_indices(
    labels: npt.ArrayLike, tasks: Sequence[Task], names: Sequence[str], first_row: int = 0
) -> np.ndarray:
    """Returns labels as class indices, shape `(num_images, num_tasks)`, of the label matrix's type; −1 = no label.

    Args:
        labels: Shape `(num_images, num_tasks)`: integers, booleans (false is class 0), or floats without fractions.
        tasks: The tasks, one per column.
        names: The images' names, one per row, for error messages.
        first_row: Index of the first row in the whole matrix, for error messages.

    Raises:
        InputError: The shape is wrong, or a value is no class of its task; the message names task, row, image and value.
    """
    shape = (len(names), len(tasks))
    values = fill_masked(labels)
    if values.shape != shape:
        raise InputError(
            f"`labels` should have the shape (images, tasks) = {shape}: a row per name, a column per task. Got {values.shape}."
        )
    if values.dtype == object:
        values = read_objects(values, tasks, names, first_row)
    if values.dtype.kind not in "biuf":
        raise InputError(f"`labels` should hold class indices: integers, booleans or floats. Got {values.dtype}.")
    is_missing = np.isnan(values) if values.dtype.kind == "f" else np.zeros(shape, dtype=bool)
    check_range(values, is_missing, tasks, names, first_row)
    indices = np.where(is_missing, MISSING, values) if is_missing.any() else values
    return np.ascontiguousarray(indices, dtype=label_dtype(tasks))


def fill_masked(labels: npt.ArrayLike) -> np.ndarray:
    """Returns labels as an array; masked cells of a masked array become NaN."""
    try:
        if isinstance(labels, np.ma.MaskedArray) and np.ma.is_masked(labels):
            return np.ma.filled(labels.astype(np.float64), np.nan)  # exact up to 2⁵³; no task has so many classes
        return np.asarray(labels)
    except (ValueError, TypeError, RuntimeError) as error:  # rows of unequal length, or a tensor with gradients
        raise InputError(
            f"`labels` should be an array of the shape (images, tasks). It cannot be read: {str(error).rstrip('.')}."
        ) from error


def read_objects(values: np.ndarray, tasks: Sequence[Task], names: Sequence[str], first_row: int) -> np.ndarray:
    """Turns cells that are Python objects, as in data frames with gaps, into floats; None and pandas' NA become NaN."""
    numbers = np.full(values.shape, np.nan)
    for (row, column), value in np.ndenumerate(values):
        if value is None or type(value).__name__ in ("NAType", "NaTType"):
            continue
        if not isinstance(value, (bool, int, float, np.bool_, np.integer, np.floating)):
            raise wrong_value(value, tasks[column], names[row], first_row + row)
        numbers[row, column] = value
    return numbers


def check_range(
    values: np.ndarray, is_missing: np.ndarray, tasks: Sequence[Task], names: Sequence[str], first_row: int
) -> None:
    """Raises `InputError` for the first value that is a fraction, or outside −1 … number of classes − 1."""
    most = np.array([task.num_classes for task in tasks])
    is_wrong = (values < MISSING) | (values >= most)
    if values.dtype.kind == "f":
        is_wrong |= (values != np.floor(values)) & ~is_missing
    if is_wrong.any():
        row, column = (int(index[0]) for index in np.nonzero(is_wrong))
        raise wrong_value(values[row, column], tasks[column], names[row], first_row + row)


def wrong_value(value: object, task: Task, name: str, row: int) -> InputError:
    shown = value.item() if isinstance(value, np.generic) else value
    return InputError(
        f"`labels`, task `{task.name}`, row {row} ({name}): a label should be a class index from 0 to {task.num_classes - 1}, "
        f"or −1, NaN or None where there is none. Got {shown!r}."
    )
