"""How strongly the labels of tasks are associated, for all pairs of tasks."""

from collections.abc import Sequence

import numpy as np

from matl_scale.data.shards.layout import MISSING
from matl_scale.data.shards.manifest import Manifest
from matl_scale.tasks import Task

MAX_SAMPLES = 50_000
BLOCK_SAMPLES = 4096


def cramers_v(labels: np.ndarray, tasks: Sequence[Task]) -> np.ndarray:
    """Computes Cramér's V of every pair of tasks over the samples with both labels: from 0, independent, to 1, where one label
    determines the other.

    For two binary tasks it is the absolute value of their correlation. Source: H. Cramér, Mathematical Methods of Statistics,
    1946, 21.9. Labels have the shape `(num_samples, num_tasks)`, −1 = no label; the result `(num_tasks, num_tasks)`, NaN
    where no sample has both labels, or all of them have the same class of one task.
    """
    ends = np.cumsum([task.num_classes for task in tasks])
    starts = ends - [task.num_classes for task in tasks]
    together = np.zeros((ends[-1], ends[-1]))
    for first in range(0, len(labels), BLOCK_SAMPLES):
        block = labels[first : first + BLOCK_SAMPLES]
        ones = np.zeros((len(block), ends[-1]), dtype=np.float32)
        samples, columns = np.nonzero(block != MISSING)
        ones[samples, starts[columns] + block[samples, columns]] = 1
        together += ones.T @ ones
    binary = np.array([task.num_classes == 2 for task in tasks])
    result = np.full((len(tasks), len(tasks)), np.nan)
    result[np.ix_(binary, binary)] = binary_pairs(together, starts[binary])
    for i in range(len(tasks)):
        for j in range(i + 1):
            if not (binary[i] and binary[j]):
                result[i, j] = result[j, i] = one_pair(together[starts[i] : ends[i], starts[j] : ends[j]])
    return result


def binary_pairs(together: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Computes Cramér's V of all pairs of binary tasks at once: a thousand tasks make half a million pairs.

    `together` counts the samples with two classes at once, shape `(num_classes, num_classes)` over all tasks; `starts` has
    the index of each task's first class.
    """
    both = [[together[np.ix_(starts + i, starts + j)] for j in (0, 1)] for i in (0, 1)]
    rows, columns = both[0][0] + both[0][1], both[0][0] + both[1][0]
    other_rows, other_columns = both[1][0] + both[1][1], both[0][1] + both[1][1]
    spread = rows * other_rows * columns * other_columns
    difference = np.abs(both[0][0] * both[1][1] - both[0][1] * both[1][0])
    association: np.ndarray = np.divide(difference, np.sqrt(spread), out=np.full_like(spread, np.nan), where=spread > 0)
    return association


def one_pair(counts: np.ndarray) -> float:
    """Computes Cramér's V of one contingency table, shape `(num_classes, num_other_classes)`."""
    counts = counts[counts.sum(axis=1) > 0][:, counts.sum(axis=0) > 0]
    if min(counts.shape) < 2:
        return float("nan")
    total = counts.sum()
    expected = counts.sum(axis=1, keepdims=True) * counts.sum(axis=0, keepdims=True) / total
    chi_squared = float(((counts - expected) ** 2 / expected).sum())
    return float(np.sqrt(chi_squared / total / (min(counts.shape) - 1)))


def strongest_pairs(values: np.ndarray, names: Sequence[str], limit: int) -> list[tuple[str, str, float]]:
    """Returns the pairs of tasks with the strongest association, strongest first."""
    rows, columns = np.tril_indices(len(names), -1)
    strength = np.nan_to_num(values[rows, columns], nan=-1.0)
    order = np.argsort(-strength, kind="stable")[:limit].tolist()
    return [(names[int(rows[i])], names[int(columns[i])], float(strength[i])) for i in order if strength[i] >= 0]


def associate(manifest: Manifest) -> np.ndarray:
    """Computes Cramér's V of every pair of tasks of a shard set; in large sets, on evenly spaced samples."""
    count = min(manifest.num_samples, MAX_SAMPLES)
    sample_ids = np.unique(np.linspace(0, manifest.num_samples - 1, count).astype(np.int64))
    return cramers_v(manifest.labels()[sample_ids], manifest.tasks)
