"""Batches of features that were computed before, instead of decoded images. The plan of what is read when is the same."""

from typing import NamedTuple

import numpy as np
import torch

from matl_scale.data.shards.features import StoredFeatures
from matl_scale.data.shards.manifest import Manifest
from matl_scale.data.shards.reader import Damage, SampleReader


class FeatureRows(NamedTuple):
    """The features of the samples of a batch."""

    values: torch.Tensor  # float16, shape `(batch, num_features)`; zeros where an image was damaged
    damage: tuple[Damage, ...]


class FeatureReader(SampleReader):
    """Random access to the features of a shard set's images; what it says of samples is said of the images."""

    def __init__(self, manifest: Manifest, features: StoredFeatures) -> None:
        super().__init__(manifest)
        self.features = features
        self._damaged = np.fromiter(features.damaged, dtype=np.int64, count=len(features.damaged))

    @property
    def num_features(self) -> int:
        return int(self.features.values.shape[1])

    def read_features(self, sample_ids: np.ndarray) -> FeatureRows:
        """Returns the features of some samples, in order."""
        values = torch.from_numpy(np.asarray(self.features.values)[sample_ids])
        damaged = sample_ids[np.isin(sample_ids, self._damaged)].tolist() if len(self._damaged) else []
        return FeatureRows(values, tuple(self.damage(i, self.features.damaged[i]) for i in damaged))
