"""Training from tars that webdataset reads from front to back: for remote stores where single reads are slow.

Every worker of every rank reads its own tars, in an order drawn per epoch, and mixes their samples in a buffer. The order
depends on the number of ranks and workers, and a resumed run begins with a new epoch. Samples that a tar should hold and does
not are reported as damaged.
"""

import random
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from webdataset.tariterators import group_by_keys, tar_file_expander

from matl_scale.data.loading.loader import EncodedBatch, current_worker
from matl_scale.data.loading.plan import SlotPlan, plan_group
from matl_scale.data.shards.manifest import Manifest
from matl_scale.data.shards.reader import Damage, SampleReader
from matl_scale.errors import InputError
from matl_scale.seeds import derive_seed


class StreamedSample(NamedTuple):
    """A sample of a tar: its encoded image, or what is wrong with it."""

    sample_id: int
    image: bytes | Damage


class StreamBatches:
    """Source stage of the training pipeline: fills the planned slots with the next samples of the tars.

    `split` has at least as many tars as all ranks have workers. The stream is shuffled among `buffer` samples.
    """

    def __init__(
        self, manifest: Manifest, split: str, plan: SlotPlan, reader: SampleReader, rank: int, buffer: int
    ) -> None:
        self.store, self.plan, self.reader, self.rank, self.buffer = manifest.root, plan, reader, rank, buffer
        self.shards: list[tuple[str, range]] = []  # each tar's file, and the ids of its samples
        start = 0
        for shard in manifest.shards.select(["file", "split", "samples"]).to_pylist():
            if shard["split"] == split:
                self.shards.append((shard["file"], range(start, start + shard["samples"])))
            start += shard["samples"]

    def __call__(self) -> Iterator[EncodedBatch]:
        worker, num_workers = current_worker()
        samples = self._samples(self.rank * num_workers + worker, self.plan.world_size * num_workers)
        for group in self.plan.groups(rank=self.rank, worker=worker, num_workers=num_workers):
            batch = [next(samples) for _ in range(self.plan.order.batch_size)]
            sample_ids = np.array([sample.sample_id for sample in batch])
            yield EncodedBatch(plan_group(group, sample_ids), [sample.image for sample in batch])

    def _samples(self, reader_index: int, num_readers: int) -> Iterator[StreamedSample]:
        """Yields the samples of one reader's tars, mixed, without end."""
        seed, step = self.plan.order.seed, self.plan.sampling_step
        generator = random.Random(derive_seed(seed, "stream", step, reader_index))
        waiting: list[StreamedSample] = []
        epoch = 0
        while True:
            order = np.random.default_rng(derive_seed(seed, "shards", step, epoch)).permutation(len(self.shards))
            for shard in order[reader_index::num_readers].tolist():
                for sample in self._read_shard(*self.shards[shard]):
                    waiting.append(sample)
                    if len(waiting) >= self.buffer:
                        drawn = generator.randrange(len(waiting))
                        waiting[drawn], waiting[-1] = waiting[-1], waiting[drawn]
                        yield waiting.pop()
            generator.shuffle(waiting)
            while waiting:
                yield waiting.pop()
            epoch += 1

    def _read_shard(self, file: str, sample_ids: range) -> Iterator[StreamedSample]:
        """Yields every sample of a tar once."""
        missing = dict.fromkeys(sample_ids)
        id_of = {self.reader.key(sample_id): sample_id for sample_id in missing}
        errors: list[Exception] = []

        def note(error: Exception) -> bool:
            errors.append(error)
            return True

        try:
            with self.store.open(file) as stream:
                members = tar_file_expander([{"url": file, "stream": stream}], handler=note)
                for sample in group_by_keys(members, handler=note):
                    sample_id, image = id_of.get(str(sample["__key__"])), image_of(sample)
                    if sample_id in missing and image is not None and len(image) == self.reader.size(sample_id):
                        del missing[sample_id]
                        yield StreamedSample(sample_id, image)
        except (OSError, InputError) as error:
            errors.append(error)
        reason = f"is not in the tar, or cannot be read ({errors[0] if errors else 'no error'})"
        for sample_id in missing:
            yield StreamedSample(sample_id, self.reader.damage(sample_id, reason))


def image_of(sample: dict[str, Any]) -> bytes | None:
    """Returns the image of a sample as webdataset groups it."""
    return next((data for name, data in sample.items() if not name.startswith("__") and name != "npy"), None)
