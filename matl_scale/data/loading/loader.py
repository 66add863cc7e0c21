"""Batches of decoded images, made by a WebDataset pipeline: planned samples → decode → batch, in worker processes.

A rank gets what the plan says for its index and the number of ranks. Nothing here communicates with other ranks, and nothing
may be wrapped by Accelerate, which would split the batches a second time.
"""

import os
import signal
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple, Protocol

import numpy as np
import torch
import webdataset as wds
from torch.utils.data import get_worker_info

from matl_scale.automatic import chosen
from matl_scale.data.images.decode import decode_image
from matl_scale.data.images.fit import CROP, Fit
from matl_scale.data.images.gate import BadImage
from matl_scale.data.loading.augment import RESIZED_CROP, choose_steps
from matl_scale.data.loading.config import DataConfig
from matl_scale.data.loading.feature_batches import FeatureReader, FeatureRows
from matl_scale.data.loading.plan import PlannedBatch, SlotPlan, plan_evaluation
from matl_scale.data.loading.resized_crop import ResizedCrops
from matl_scale.data.shards.reader import Damage, SampleReader


class EncodedBatch(NamedTuple):
    """What a source yields: one planned batch or several of the same samples, and for each sample its encoded image or what is
    wrong with it; or the features of all of them."""

    planned: list[PlannedBatch]
    images: list[bytes | Damage] | FeatureRows


class Source(Protocol):
    """The first stage of a pipeline."""

    reader: SampleReader

    def __call__(self) -> Iterator[EncodedBatch]: ...


@dataclass(frozen=True, kw_only=True)
class ImageBatch(PlannedBatch):
    """A planned batch with its decoded images."""

    # uint8, shape `(batch, 3, size, size)`, or features, float16, shape `(batch, num_features)`; zeros where a sample is damaged
    images: torch.Tensor
    valid: np.ndarray  # whether each sample is intact, shape `(batch,)`
    damage: tuple[Damage, ...] = ()  # the damaged samples

    def pin_memory(self) -> "ImageBatch":
        """Returns the batch with its images in pinned memory, from where they can be copied to a GPU while it computes."""
        return replace(self, images=self.images.pin_memory())


class PlannedBatches:
    """Source stage that reads what `plan` returns for one of several loader processes: `plan(worker=…, num_workers=…)`, lists of
    batches of the same samples."""

    def __init__(self, plan: Callable[..., Iterable[list[PlannedBatch]]], reader: SampleReader) -> None:
        self.plan, self.reader = plan, reader

    def __call__(self) -> Iterator[EncodedBatch]:
        worker, num_workers = current_worker()
        read = self.reader.read_features if isinstance(self.reader, FeatureReader) else self.reader.read
        for planned in self.plan(worker=worker, num_workers=num_workers):
            yield EncodedBatch(planned, read(planned[0].sample_ids))


class TrainBatches(PlannedBatches):
    """Source stage of the training pipeline: reads what is planned for one rank."""

    def __init__(self, plan: SlotPlan, reader: SampleReader, rank: int) -> None:
        super().__init__(partial(plan.batches, rank=rank), reader)


class EvaluationBatches(PlannedBatches):
    """Source stage of the evaluation pipeline: every sample of a split once over all ranks."""

    def __init__(
        self, sample_ids: np.ndarray, reader: SampleReader, batch_size: int, rank: int, world_size: int
    ) -> None:
        super().__init__(partial(plan_evaluation, sample_ids, batch_size, rank=rank, world_size=world_size), reader)


class DecodeBatch:
    """Decodes samples once and stacks them for each of the batches that have them: squares of `size` pixels per side, of the
    whole images (see `fit_square`) or of the parts that `crops` draws for each batch."""

    def __init__(self, reader: SampleReader, size: int, fit: Fit = CROP, crops: ResizedCrops | None = None) -> None:
        self.reader, self.size, self.fit, self.crops = reader, size, fit, crops

    def __call__(self, batch: EncodedBatch) -> list[ImageBatch]:
        planned, encoded = batch.planned, batch.images
        assert not isinstance(encoded, FeatureRows), "features need no decoding"
        sample_ids = planned[0].sample_ids
        # whole images are the same in all batches
        pixels = np.zeros((len(planned) if self.crops else 1, len(encoded), 3, self.size, self.size), dtype=np.uint8)
        draws = [] if self.crops is None else [self.crops.draw(each.index, len(encoded)) for each in planned]
        damage = []
        for i, image in enumerate(encoded):
            if isinstance(image, bytes):
                try:
                    if self.crops is None:
                        pixels[0, i] = decode_image(image, self.size, fit=self.fit).transpose(2, 0, 1)
                    else:
                        for number, part in enumerate(
                            self.crops.decode(image, [drawn[i] for drawn in draws], self.size)
                        ):
                            pixels[number, i] = part
                    continue
                except BadImage as error:
                    image = self.reader.damage(int(sample_ids[i]), str(error))
            damage.append(image)
        stacked = [torch.from_numpy(part) for part in pixels]
        return build_batches(planned, stacked if self.crops else stacked * len(planned), damage)


def stack_features(batch: EncodedBatch) -> list[ImageBatch]:
    """Returns the batches that have some samples, with their features."""
    assert isinstance(batch.images, FeatureRows), "images have to be decoded"
    return build_batches(batch.planned, [batch.images.values] * len(batch.planned), batch.images.damage)


def build_batches(
    planned: Sequence[PlannedBatch], images: Sequence[torch.Tensor], damage: Sequence[Damage]
) -> list[ImageBatch]:
    """Returns planned batches of the same samples with the images of each."""
    damaged = [entry.sample_id for entry in damage]
    valid = ~np.isin(planned[0].sample_ids, damaged)
    return [
        ImageBatch(**vars(each), images=own, valid=valid, damage=tuple(damage))
        for each, own in zip(planned, images, strict=True)
    ]


def current_worker() -> tuple[int, int]:
    """Returns the index of this loader process, and the number of them."""
    info = get_worker_info()
    return (0, 1) if info is None else (info.id, info.num_workers)


def build_loader(
    source: Source,
    image_size: int,
    workers: int,
    pin_memory: bool = False,
    fit: Fit = CROP,
    crops: ResizedCrops | None = None,
) -> Generator[ImageBatch, None, None]:
    """Yields the batches of one rank, with images of `image_size` pixels per side as `DecodeBatch` makes them, or with the
    features that the source reads; in pinned memory for a GPU.

    The worker processes start with the first batch and end with the generator.
    """
    has_features = isinstance(source.reader, FeatureReader)
    stage = stack_features if has_features else DecodeBatch(source.reader, image_size, fit, crops)
    workers = 0 if has_features else workers  # to send them to the rank takes longer than to read them
    pipeline = wds.DataPipeline(source, wds.map(stage))
    for batches in wds.WebLoader(
        pipeline,
        batch_size=None,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        pin_memory=pin_memory,
        worker_init_fn=partial(leave_signals_to_the_rank, rank=os.getpid()),
    ):
        yield from batches


def build_train_loader(
    source: Source, config: DataConfig, image_size: int, seed: int, pin_memory: bool
) -> Generator[ImageBatch, None, None]:
    """Yields the training batches of one rank, with random resized crops if `data.augment` has them."""
    crops = ResizedCrops(seed=seed, min_area=config.crop_area) if RESIZED_CROP in choose_steps(config.augment) else None
    return build_loader(source, image_size, chosen(config.workers), pin_memory, config.fit, crops)


def leave_signals_to_the_rank(_: int, rank: int) -> None:
    """Lets only its rank, given by its process id, end a loader process; the rank need not be the parent.

    Launchers, job systems and Ctrl-C send signals to all processes, but the rank finishes its step first and needs its
    batches for that.
    """
    for number in (signal.SIGINT, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=end_with_rank, args=(rank,), daemon=True).start()


def end_with_rank(rank: int) -> None:
    """Ends this process when its rank asks for it."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != rank:
        pass
    os._exit(0)
