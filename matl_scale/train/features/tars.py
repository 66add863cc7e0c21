"""The images of several tars, in one stream of batches, and the features of each tar as they come in."""

from collections.abc import Sequence

import numpy as np

from matl_scale.data.loading.loader import ImageBatch
from matl_scale.data.loading.plan import PlannedBatch
from matl_scale.data.shards.features import DTYPE
from matl_scale.errors import RunError


def plan_tars(
    tars: Sequence[np.ndarray], batch_size: int, *, worker: int, num_workers: int
) -> list[list[PlannedBatch]]:
    """Returns the batches that one of several loader processes reads, each in a list of its own. A batch is of one tar; `tars`
    are the sample ids of each."""
    batches = [ids[start : start + batch_size] for ids in tars for start in range(0, len(ids), batch_size)]
    return [[PlannedBatch(sample_ids=ids)] for ids in batches[worker::num_workers]]


class TarFeatures:
    """The features of the images in a tar, as far as they were computed.

    Attributes:
        sample_ids: Of all its images, in order.
        values: Their features, shape `(num_images, num_features)`; zero without any.
        reasons: Why an image has none; empty for one that has.
        num_missing: How many images are still to come.
    """

    def __init__(self, sample_ids: np.ndarray, num_features: int) -> None:
        self.sample_ids, self.num_missing = sample_ids, len(sample_ids)
        self.values = np.zeros((len(sample_ids), num_features), dtype=DTYPE)
        self.reasons = [""] * len(sample_ids)

    def add(self, batch: ImageBatch, features: np.ndarray) -> None:
        """Adds the features of a batch; raises `RunError` if some of its images could not be read."""
        first = int(self.sample_ids[0])
        self.values[batch.sample_ids - first] = np.where(batch.valid[:, None], features, 0)
        for entry in batch.damage:
            if entry.is_unread:
                raise RunError(f"{entry}. Run the same command again to go on.")
            self.reasons[entry.sample_id - first] = entry.reason
        self.num_missing -= len(batch.sample_ids)
