"""Suite `data`, reading: shards beside webdataset's own loader on the same tars, and beside the bare decoder."""

import itertools
import tempfile
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import webdataset as wds

from data_prep.dataset import from_arrays
from data_prep.planning.make_plan import Options
from data_prep.shard_set import write_shard_set
from matl_scale.benchmark.figure import Conditions, Figure, Workload, timed
from matl_scale.benchmark.inputs import CELEBA_SIZE, SmoothJpegs, binary_tasks
from matl_scale.data.images.array_images import ArrayImages
from matl_scale.data.images.decode import decode_image
from matl_scale.data.images.interface import Images
from matl_scale.data.loading.augment import build_augmentation
from matl_scale.data.loading.loader import EvaluationBatches, build_loader
from matl_scale.data.loading.plan import RouteOrder
from matl_scale.data.loading.resized_crop import ResizedCrops
from matl_scale.data.shards.labels import Labels
from matl_scale.data.shards.manifest import Manifest
from matl_scale.data.shards.reader import SampleReader
from matl_scale.models.network import MEAN, STD, normalise
from matl_scale.routes import Routes
from matl_scale.vision import transforms

BATCH = 64
NUM_TASKS = 40
NUM_PNGS, NUM_PORTRAITS, NUM_PHOTOS = 20_000, 6000, 600
PHOTO_SIZE = (500, 375)  # width and height in pixels, of most of ImageNet
CROPS = ResizedCrops(seed=0, min_area=0.08)


class LazyShards:
    """A shard set of `count` images that is written when it is first used; `size` is in pixels."""

    def __init__(self, images: Callable[[], Images], count: int, size: int) -> None:
        self._images, self.count, self.size = images, count, size

    @cached_property
    def manifest(self) -> Manifest:
        self._folder = tempfile.TemporaryDirectory()  # deleted with this object
        dataset = from_arrays(
            tasks=binary_tasks(NUM_TASKS),
            names=[f"{i}.img" for i in range(self.count)],
            labels=np.random.default_rng(0).integers(0, 2, (self.count, NUM_TASKS)).astype(np.int8),
            splits=["train"] * self.count,
            images=self._images(),
        )
        manifest = write_shard_set(lambda _: dataset, Path(self._folder.name) / "set", Options(shard_mb=4))
        assert manifest is not None
        return manifest

    @property
    def urls(self) -> list[str]:
        return [str(self.manifest.root.local_file(name)) for name in self.manifest.shards["file"].to_pylist()]

    def source(self) -> EvaluationBatches:
        """Returns a source that reads every sample once, in random order as training does."""
        sample_ids = np.random.default_rng(0).permutation(self.count)
        return EvaluationBatches(sample_ids, SampleReader(self.manifest), BATCH, 0, 1)

    @cached_property
    def encoded(self) -> list[bytes]:
        """All encoded images, in memory."""
        found = SampleReader(self.manifest).read(np.arange(self.count))
        return [image for image in found if isinstance(image, bytes)]


def small_pngs() -> Images:
    pixels = np.random.default_rng(0).integers(0, 256, (NUM_PNGS, 32, 32, 3), dtype=np.uint8)
    return ArrayImages(root="memory", pixels=pixels)


def portraits() -> Images:
    coarse = np.random.default_rng(0).integers(0, 256, (NUM_PORTRAITS, 16, 16, 3), dtype=np.uint8)
    return SmoothJpegs(coarse, CELEBA_SIZE)


def photos() -> Images:
    """Returns images with as many details that they take about 95 kB, as photos of that size do."""
    coarse = np.random.default_rng(0).integers(0, 256, (NUM_PHOTOS, 94, 125, 3), dtype=np.uint8)
    return SmoothJpegs(coarse, PHOTO_SIZE)


def consume(items: Iterable[object]) -> None:
    for _ in items:
        pass


def raw_bytes(shards: LazyShards, workers: int) -> tuple[Workload, Workload]:
    def theirs() -> None:
        data = wds.WebDataset(shards.urls, shardshuffle=False).batched(BATCH, collation_fn=list)
        consume(wds.WebLoader(data, batch_size=None, num_workers=workers))

    def ours() -> None:
        pipeline = wds.DataPipeline(shards.source())
        consume(wds.WebLoader(pipeline, batch_size=None, num_workers=workers))

    return theirs, ours


def decoded(shards: LazyShards) -> tuple[Workload, Workload]:
    images, size = shards.encoded, shards.size

    def bare() -> None:
        consume(decode_image(data, size) for data in images)

    return bare, lambda: consume(build_loader(shards.source(), size, 0))


def augmented(shards: LazyShards, workers: int) -> tuple[Workload, Workload]:
    size = shards.size
    extension = str(shards.manifest.sample_columns("extension").column(0)[0].as_py())  # webdataset's name of the images
    augment = build_augmentation(["crop", "flip"])
    per_sample = transforms.Compose(
        [
            transforms.PILToTensor(),
            transforms.Resize(size, antialias=True),
            transforms.CenterCrop(size),
            transforms.RandomCrop(size, padding=max(1, size // 8), padding_mode="reflect"),
            transforms.RandomHorizontalFlip(),
        ]
    )

    def stack(samples: Sequence[dict[str, Any]]) -> torch.Tensor:
        return torch.stack([sample[extension] for sample in samples])

    def theirs() -> None:
        data = wds.WebDataset(shards.urls, shardshuffle=False).decode("pil").map_dict(**{extension: per_sample})
        for images in wds.WebLoader(data.batched(BATCH, collation_fn=stack), batch_size=None, num_workers=workers):
            normalise(images)

    def ours() -> None:
        for number, batch in enumerate(build_loader(shards.source(), size, workers)):
            normalise(augment(batch.images, number))

    return theirs, ours


def cropped(shards: LazyShards) -> tuple[Workload, Workload]:
    images, size = shards.encoded, shards.size
    augment = build_augmentation(["flip"])

    def bare() -> None:
        draws = CROPS.draw(0, len(images))
        consume(CROPS.decode(data, [own], size) for data, own in zip(images, draws, strict=True))

    def ours() -> None:
        for number, batch in enumerate(build_loader(shards.source(), size, 0, crops=CROPS)):
            augment(batch.images, number)

    return bare, ours


def cropped_per_sample(shards: LazyShards, workers: int) -> tuple[Workload, Workload]:
    size, augment = shards.size, build_augmentation(["flip"])
    per_sample = transforms.Compose(
        [
            transforms.RandomResizedCrop(size, antialias=True),
            transforms.RandomHorizontalFlip(),
            transforms.ToImage(),
            transforms.ToDtype(torch.float32, scale=True),
            transforms.Normalize(MEAN, STD),
        ]
    )

    def stack(samples: Sequence[dict[str, Any]]) -> torch.Tensor:
        return torch.stack([sample["jpg"] for sample in samples])

    def theirs() -> None:
        data = wds.WebDataset(shards.urls, shardshuffle=False).decode("pil").map_dict(jpg=per_sample)
        consume(wds.WebLoader(data.batched(BATCH, collation_fn=stack), batch_size=None, num_workers=workers))

    def ours() -> None:
        for number, batch in enumerate(build_loader(shards.source(), size, workers, crops=CROPS)):
            normalise(augment(batch.images, number))

    return theirs, ours


def planned(shards: LazyShards) -> tuple[Workload, Workload]:
    labels = np.random.default_rng(0).integers(-1, 2, (1_000_000, 312), dtype=np.int8)
    routes = Routes.one_per_task([str(task) for task in range(labels.shape[1])])
    order = RouteOrder(0, BATCH, Labels.of_matrix(np.asfortranarray(labels)), routes)
    images, counter = shards.encoded[:BATCH], itertools.count()

    def plan() -> None:
        number = next(counter)
        order.batch(number % 312, number // 312)

    return plan, lambda: consume(decode_image(data, shards.size) for data in images)


def figures(conditions: Conditions) -> list[Figure]:  # noqa: ARG001 - nothing here runs on a device
    pngs, jpegs = LazyShards(small_pngs, NUM_PNGS, 32), LazyShards(portraits, NUM_PORTRAITS, 64)
    found: list[Figure] = []

    def add(name: str, meaning: str, build: Callable[..., tuple[Workload, Workload]], *arguments: object) -> None:
        found.append(Figure(name, meaning, timed(lambda _: build(*arguments))))

    for name, shards in (("png32", pngs), ("jpeg178", jpegs)):
        for workers in (0, 2):
            meaning = f"webdataset's loader ÷ ours, bytes of all samples, {workers} workers, ≥ 3"
            add(f"read_bytes_{name}_w{workers}_vs_webdataset", meaning, raw_bytes, shards, workers)
        meaning = "bare decoder on bytes in memory ÷ our batches from shards, one process, ≥ 0.9"
        add(f"read_decoded_{name}_vs_decoder", meaning, decoded, shards)
        meaning = "webdataset's loader ÷ ours, decoded, scaled, cropped, flipped, normalised; 2 workers"
        add(f"read_augmented_{name}_vs_webdataset", meaning, augmented, shards, 2)
    large = LazyShards(photos, NUM_PHOTOS, 224)
    meaning = (
        "bare decoder of random resized crops, 500 × 375 → 224 pixels, ÷ our batches with flips, one process, ≥ 0.9"
    )
    add("read_resized_crop_jpeg500_vs_decoder", meaning, cropped, large)
    for workers in (0, 2):
        meaning = f"webdataset with torchvision's resized crop, flip and normalisation per sample ÷ ours; {workers} workers, ≥ 3"
        add(f"read_resized_crop_jpeg500_w{workers}_vs_webdataset", meaning, cropped_per_sample, large, workers)
    meaning = "planning a batch of 64 among a million rows × 312 tasks ÷ decoding it (JPEG)"
    add("plan_batch_1m_t312_share", meaning, planned, jpegs)
    return found
