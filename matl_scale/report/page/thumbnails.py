"""Thumbnails of a split's samples, as data URLs for the page."""

import numpy as np

from matl_scale.data.images.data_url import draw_as_url
from matl_scale.data.images.fit import Fit
from matl_scale.data.images.gate import BadImage
from matl_scale.data.shards.manifest import Manifest
from matl_scale.data.shards.reader import SampleReader
from matl_scale.errors import InputError
from matl_scale.runs.predictions import PredictionsInfo

SIDE_PX = 64


class Thumbnails:
    """Makes thumbnails of the samples that were evaluated, by their keys, fitted as the run's network sees them.

    Raises:
        InputError: The split has other images than those that were evaluated.
    """

    def __init__(self, manifest: Manifest, info: PredictionsInfo, fit: Fit) -> None:
        if manifest.hash_shards(info.split) != info.test_set:
            raise InputError(
                f"{manifest.root} has other images in split `{info.split}` than those that were evaluated."
            )
        sample_ids, self._reader, self._fit = manifest.sample_ids(info.split), SampleReader(manifest), fit
        keys = self._reader.keys(sample_ids)
        order = np.argsort(keys)
        self._keys, self._sample_ids = keys[order], sample_ids[order]

    def draw(self, key: int) -> tuple[str, str]:
        """Returns the data URL of a sample's thumbnail and an empty text, or an empty text and why there is no thumbnail."""
        index = int(np.searchsorted(self._keys, key))
        data = self._reader.read(self._sample_ids[index : index + 1])[0]
        if not isinstance(data, bytes):
            return "", str(data)
        try:
            return draw_as_url(data, SIDE_PX, self._fit), ""
        except BadImage as error:
            return "", str(error)
