"""Batches of decoded images, made by a WebDataset pipeline: planned samples → decode → batch, in worker processes.

A rank gets what `plan` says for its number and the world's; nothing here talks to other ranks, and nothing may be
wrapped by Accelerate, which would split the batches a second time.
"""

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import webdataset as wds
from torch.utils.data import get_worker_info

from matl_scale.data.augment import Augment
from matl_scale.data.manifest import Manifest
from matl_scale.data.plan import TrainPlan, plan_evaluation
from matl_scale.data.reader import SampleReader, decode_image
from matl_scale.errors import InputError


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The shard set and how it is read."""

    path: str = "data/digits"
    """Folder of the shard set (see matl-data)."""
    tasks: list[str] | str = "*"
    """Which tasks to train: a name pattern, or a list of them."""
    batch_size: int = 64
    """Samples per rank and micro-step."""
    workers: int = 2
    """Loader processes per rank; 0 loads in the training process."""
    augment: Augment = "none"
    """`none`, `flip`, `crop-flip` (reflect-padded by an eighth) or `randaugment`; drawn per image."""
    image_size: int = 0
    """Side length in pixels to which images are scaled and centre-cropped; 0 takes the stored size."""
    shuffle_shards: int = 64
    """Number of shards whose samples are mixed while reading."""

    def __post_init__(self) -> None:
        if self.batch_size < 2:
            raise InputError(f"`data.batch_size` should be at least 2, for batch norm. Got {self.batch_size}.")
        if self.workers < 0 or self.image_size < 0 or self.shuffle_shards < 1:
            raise InputError(
                "`data.workers` and `data.image_size` should be at least 0, `data.shuffle_shards` at least 1."
            )

    @property
    def patterns(self) -> list[str]:
        return [self.tasks] if isinstance(self.tasks, str) else list(self.tasks)


@dataclass(frozen=True, kw_only=True)
class ImageBatch:
    """One batch.

    Attributes:
        rows: Row numbers in the label matrix, shape `(batch,)`.
        images: uint8, shape `(batch, 3, size, size)`.
        index: Its place in the endless training sequence; -1 in evaluation.
    """

    rows: np.ndarray
    images: torch.Tensor
    index: int = -1


def build_plan(manifest: Manifest, split: str, config: DataConfig, seed: int) -> TrainPlan:
    """Builds the training plan of a split.

    Raises:
        InputError: The split is missing, or smaller than one batch.
    """
    rows = manifest.rows(split)
    shards = manifest.shard_of_rows()[rows]
    shard_rows = [rows[shards == shard].astype(np.int32) for shard in np.unique(shards)]
    plan = TrainPlan(seed=seed, batch_size=config.batch_size, shard_rows=shard_rows, window=config.shuffle_shards)
    if plan.batches_per_epoch == 0:
        raise InputError(
            f"`data.batch_size` = {config.batch_size} is more than the {plan.num_samples} samples of split `{split}` "
            f"of {manifest.root}."
        )
    return plan


def choose_image_size(manifest: Manifest, config: DataConfig) -> int:
    """Returns the side length in pixels at which images are read.

    Raises:
        InputError: The stored sizes differ and `data.image_size` does not say which to take.
    """
    size = config.image_size or manifest.image_size()
    if not size:
        raise InputError(
            f"`data.image_size` should be set: the images of {manifest.root} are not all squares of one size."
        )
    return size


class TrainBatches:
    """Source stage of the training pipeline: yields planned batches as lists of undecoded samples."""

    def __init__(self, plan: TrainPlan, reader: SampleReader, rank: int, world_size: int, first: int) -> None:
        self.plan, self.reader = plan, reader
        self.rank, self.world_size, self.first = rank, world_size, first

    def __call__(self) -> Iterator[tuple[int, list[dict[str, Any]]]]:
        worker, num_workers = worker_of()
        planned = self.plan.batches_of(
            rank=self.rank, world_size=self.world_size, worker=worker, num_workers=num_workers, first=self.first
        )
        for index, rows in planned:
            yield index, [self.reader.read(int(row)) for row in rows]


class EvaluationBatches:
    """Source stage of the evaluation pipeline: every row of a split once over all ranks."""

    def __init__(self, rows: np.ndarray, reader: SampleReader, batch_size: int, rank: int, world_size: int) -> None:
        self.rows, self.reader, self.batch_size = rows, reader, batch_size
        self.rank, self.world_size = rank, world_size

    def __call__(self) -> Iterator[tuple[int, list[dict[str, Any]]]]:
        worker, num_workers = worker_of()
        planned = plan_evaluation(
            self.rows,
            self.batch_size,
            rank=self.rank,
            world_size=self.world_size,
            worker=worker,
            num_workers=num_workers,
        )
        for rows in planned:
            yield -1, [self.reader.read(int(row)) for row in rows]


class DecodeBatch:
    """Decodes the samples of a batch and stacks them."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, batch: tuple[int, list[dict[str, Any]]]) -> ImageBatch:
        index, samples = batch
        images = torch.empty(len(samples), 3, self.size, self.size, dtype=torch.uint8)
        for i, sample in enumerate(samples):
            try:
                images[i] = decode_image(sample["image"], self.size)
            except Exception as error:  # Pillow's codecs raise many kinds for damaged data
                raise InputError(
                    f"Sample {sample['__key__']} of {sample['__url__']} cannot be decoded: {error}. "
                    "The shard is damaged; prepare the shard set again."
                ) from error
        return ImageBatch(rows=np.array([sample["row"] for sample in samples]), images=images, index=index)


def worker_of() -> tuple[int, int]:
    info = get_worker_info()
    return (0, 1) if info is None else (info.id, info.num_workers)


def build_loader(
    source: TrainBatches | EvaluationBatches, image_size: int, workers: int
) -> Generator[ImageBatch, None, None]:
    """Yields the batches of one rank; the worker processes start with the first and end with the generator."""
    pipeline = wds.DataPipeline(source, wds.map(DecodeBatch(image_size)))
    loader = wds.WebLoader(pipeline, batch_size=None, num_workers=workers, prefetch_factor=4 if workers else None)
    try:
        yield from loader
    except InputError as error:
        # a worker's error arrives as its whole trace
        raise InputError(str(error).rstrip().rpartition("InputError: ")[2]) from None
