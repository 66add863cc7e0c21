"""Training from tars that are read front to back by webdataset: for remote stores where single reads are slow.

Every worker of every rank has tars of its own, in an order drawn per epoch; samples are mixed in a buffer. The order depends
on ranks and workers, and a resumed run begins with a new epoch. Samples that a tar should hold and does not are damage.
"""

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
from webdataset.tariterators import group_by_keys, tar_file_expander

from matl_scale.data.loading.loader import EncodedBatch, worker_of
from matl_scale.data.loading.plan import PlannedBatch, SlotPlan
from matl_scale.data.shards.manifest import Manifest
from matl_scale.data.shards.reader import Damage, SampleReader
from matl_scale.errors import InputError
from matl_scale.seeds import derive_seed


class StreamBatches:
    """Source stage of the training pipeline: batches of whatever the tars bring, for the planned tasks.

    Args:
        manifest: The shard set.
        split: To be read; it has at least as many tars as there are workers on all ranks.
        plan: Which tasks come in the slots of a rank.
        reader: Of the same set.
        rank: Of this process.
        buffer: Samples among which the stream is shuffled.
    """

    def __init__(
        self, manifest: Manifest, split: str, plan: SlotPlan, reader: SampleReader, rank: int, buffer: int
    ) -> None:
        self.store, self.plan, self.reader, self.rank, self.buffer = manifest.root, plan, reader, rank, buffer
        ends = np.cumsum(manifest.shard_sizes)
        names = manifest.shards["split"].to_pylist()
        files = manifest.shards["file"].to_pylist()
        self.shards = [
            (files[i], int(ends[i] - manifest.shard_sizes[i]), int(ends[i]))
            for i in range(len(files))
            if names[i] == split
        ]

    def __call__(self) -> Iterator[EncodedBatch]:
        worker, num_workers = worker_of()
        samples = self._samples(self.rank * num_workers + worker, self.plan.world_size * num_workers)
        for index, task, _ in self.plan.slots(rank=self.rank, worker=worker, num_workers=num_workers):
            taken = [next(samples) for _ in range(self.plan.order.batch_size)]
            rows = np.array([row for row, _ in taken])
            yield EncodedBatch(PlannedBatch(index, task, rows), [image for _, image in taken])

    def _samples(self, number: int, readers: int) -> Iterator[tuple[int, bytes | Damage]]:
        """Yields the rows and images of one reader's tars, mixed, without end."""
        seed = self.plan.order.seed
        generator = random.Random(derive_seed(seed, "stream", self.plan.turn, number))
        waiting: list[tuple[int, bytes | Damage]] = []
        epoch = 0
        while True:
            shards = np.random.default_rng(derive_seed(seed, "shards", self.plan.turn, epoch)).permutation(
                len(self.shards)
            )
            for shard in shards[number::readers].tolist():
                for sample in self._read_shard(*self.shards[shard]):
                    waiting.append(sample)
                    if len(waiting) >= self.buffer:
                        place = generator.randrange(len(waiting))
                        waiting[place], waiting[-1] = waiting[-1], waiting[place]
                        yield waiting.pop()
            generator.shuffle(waiting)
            while waiting:
                yield waiting.pop()
            epoch += 1

    def _read_shard(self, file: str, first: int, end: int) -> Iterator[tuple[int, bytes | Damage]]:
        """Yields every row of a tar once: its image, or what is wrong."""
        missing = dict.fromkeys(range(first, end))
        errors: list[Exception] = []

        def note(error: Exception) -> bool:
            errors.append(error)
            return True

        row_of = {self.reader.key(row): row for row in missing}
        try:
            with self.store.open(file) as stream:
                members = tar_file_expander([{"url": file, "stream": stream}], handler=note)
                for sample in group_by_keys(members, handler=note):
                    row = row_of.get(str(sample["__key__"]))
                    if (
                        row in missing
                        and (image := image_of(sample)) is not None
                        and len(image) == self.reader.size(row)
                    ):
                        del missing[row]
                        yield row, image
        except (OSError, InputError) as error:
            errors.append(error)
        for row in missing:
            yield (
                row,
                self.reader.damage(
                    row, f"is not in the tar, or cannot be read ({errors[0] if errors else 'no error'})"
                ),
            )


def image_of(sample: dict[str, Any]) -> bytes | None:
    """Returns the image's bytes of a sample as webdataset groups it."""
    return next((data for name, data in sample.items() if not name.startswith("__") and name != "npy"), None)
