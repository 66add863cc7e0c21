"""Batches of images without labels, read and decoded by worker processes, in order."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset

from matl_scale.data.images.decode import decode_image
from matl_scale.data.images.fit import Fit
from matl_scale.data.images.gate import BadImage
from matl_scale.data.images.interface import ListedImages
from matl_scale.data.loading.loader import current_worker
from matl_scale.errors import InputError, explain_os_error
from matl_scale.text import escape_name


@dataclass(frozen=True, kw_only=True)
class UnlabelledBatch:
    """A batch of decoded images, uint8, shape `(len(names), 3, size, size)`."""

    names: list[str]  # as text, with bytes that are none escaped
    images: torch.Tensor
    damaged: list[tuple[str, str]]  # name and reason of each image that cannot be used
    problem: str = ""  # why reading cannot continue; empty if it can


class UnlabelledImages(IterableDataset[UnlabelledBatch]):
    """Decodes images batch by batch, as squares of `size` pixels (see `fit_square`). Each of n workers decodes every n-th
    batch."""

    def __init__(self, images: ListedImages, batch_size: int, size: int, fit: Fit, max_pixels: int, first: int) -> None:
        self.images, self.batch_size, self.size, self.fit, self.max_pixels = images, batch_size, size, fit, max_pixels
        self.first = first  # number of the first batch

    def __iter__(self) -> Iterator[UnlabelledBatch]:
        try:
            yield from self._batches()
        except InputError as error:  # raised in a worker it would arrive wrapped in a stack trace
            yield self._fail(str(error))
        except OSError as error:
            reason = explain_os_error(error)
            if reason is None:
                raise
            yield self._fail(reason)

    def _fail(self, problem: str) -> UnlabelledBatch:
        empty = torch.empty(0, 3, self.size, self.size, dtype=torch.uint8)
        return UnlabelledBatch(names=[], images=empty, damaged=[], problem=problem)

    def _batches(self) -> Iterator[UnlabelledBatch]:
        worker, num_workers = current_worker()
        number = 0
        for names, sources in self.images.names():
            for start in range(0, len(names), self.batch_size):
                if number >= self.first and (number - self.first) % num_workers == worker:
                    chunk = slice(start, start + self.batch_size)
                    yield self._decode(names[chunk], sources[chunk])
                number += 1

    def _decode(self, names: list[str], sources: np.ndarray) -> UnlabelledBatch:
        decoded, pixels, damaged = [], [], []
        for name, data in zip(names, self.images.read(names, sources), strict=True):
            try:
                pixels.append(decode_image(data, self.size, self.max_pixels, self.fit).transpose(2, 0, 1))
                decoded.append(escape_name(name))
            except BadImage as error:
                damaged.append((escape_name(name), str(error)))
        stacked = np.stack(pixels) if pixels else np.empty((0, 3, self.size, self.size), dtype=np.uint8)
        return UnlabelledBatch(names=decoded, images=torch.from_numpy(stacked), damaged=damaged)


def load_unlabelled(
    images: ListedImages, batch_size: int, size: int, fit: Fit, workers: int, max_pixels: int, first: int = 0
) -> Iterator[UnlabelledBatch]:
    """Yields the batches in order, beginning with number `first`. Images of more than `max_pixels` pixels count as damaged.

    Raises:
        InputError: A file exists but cannot be read.
    """
    data = UnlabelledImages(images, batch_size, size, fit, max_pixels, first)
    loader: DataLoader[UnlabelledBatch] = DataLoader(data, batch_size=None, num_workers=workers)
    for batch in loader:
        if batch.problem:
            raise InputError(batch.problem)
        yield batch
