"""Label matrices with dense and sparse tasks, and the same labels in every kind of store."""

import numpy as np

from matl_scale.data.shards.labels import Labels
from matl_scale.data.shards.sample_runs import SampleRuns
from matl_scale.data.shards.stored_columns import ColumnsInMemory


def draw_matrix(num_samples: int, seed: int = 0) -> tuple[np.ndarray, list[int]]:
    """Draws a label matrix, int32, with tasks of few and of many labels and classes. Returns it and the tasks' class counts."""
    generator = np.random.default_rng(seed)
    kinds = [(classes, share) for classes in (1, 2, 3, 70, 129, 40_000) for share in (1.0, 0.4, 0.02, 0.0)]
    columns = [
        np.where(generator.random(num_samples) < share, generator.integers(0, classes, num_samples), -1)
        for classes, share in kinds
    ]
    matrix = np.asfortranarray(np.stack(columns, axis=1).astype(np.int32))
    return matrix, [classes for classes, _ in kinds]


def stored(matrix: np.ndarray) -> Labels:
    """Returns the labels of a matrix in the stores that the cache would choose."""
    stores = ColumnsInMemory()
    for column in matrix.T:
        stores.add(column)
    found, store_of, column_of = stores.finish()
    return Labels(
        stores=found,
        store_of=store_of,
        column_of=column_of,
        samples=SampleRuns.all_of(len(matrix)),
        dtype=matrix.dtype,
    )
