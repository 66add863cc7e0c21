"""Images that occur more than once, by content."""

from collections.abc import Sequence

import numpy as np

from matl_scale.data.shards.layout import split_rank

BLOCK_ROWS = 65_536


def rank_splits(names: Sequence[str]) -> np.ndarray:
    """Returns whose copy stays, per split, lowest first: evaluation splits before train, so that test sets stay whole."""
    order = sorted(range(len(names)), key=lambda i: split_rank(names[i]))
    ranks = np.empty(len(names), dtype=np.int64)
    ranks[order] = np.arange(len(names))
    last = len(names)
    return np.array(
        [last if name == "train" else rank for name, rank in zip(names, ranks, strict=True)], dtype=np.uint8
    )


def find_duplicates(digests: np.ndarray, ranks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Finds copies.

    Args:
        digests: Of the images' bytes, shape `(num_images,)`, dtype V16.
        ranks: Among copies, the one of the lowest rank stays, then the first; shape `(num_images,)`.

    Returns:
        The rows of the copies, ascending, and for each the row that stays.
    """
    if len(digests) < 2:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    halves = np.ascontiguousarray(digests).view(np.uint64).reshape(-1, 2)
    suspects = find_repeated(halves[:, 0])
    order = suspects[np.lexsort((suspects, ranks[suspects], halves[suspects, 1], halves[suspects, 0]))]
    begins = np.ones(len(order), dtype=bool)
    begins[1:] = (halves[order[1:]] != halves[order[:-1]]).any(axis=1)
    kept = order[np.maximum.accumulate(np.where(begins, np.arange(len(order)), 0))]
    copies, kept = order[~begins], kept[~begins]
    ascending = np.argsort(copies)
    return copies[ascending], kept[ascending]


def find_repeated(values: np.ndarray) -> np.ndarray:
    """Returns the places, ascending, of values that occur more than once; takes one copy of them in memory."""
    ordered = np.sort(values)
    repeated = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    del ordered
    found = [np.zeros(0, dtype=np.int64)]
    for start in range(0, len(values), BLOCK_ROWS):
        block = values[start : start + BLOCK_ROWS]
        found.append(start + np.flatnonzero(np.isin(block, repeated)))
    return np.concatenate(found)
