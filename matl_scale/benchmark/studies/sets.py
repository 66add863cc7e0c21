"""Five small sets of many tasks, unlike each other: on them the rules behind `auto` are measured."""

import io
from collections.abc import Callable, Mapping

import numpy as np
from PIL import Image

from data_prep.dataset import Dataset, from_arrays
from data_prep.sources import cifar100, digits, fashion_mnist
from matl_scale.benchmark.studies.samples import Samples, draw_samples, read_samples
from matl_scale.benchmark.studies.workbench import Workbench
from matl_scale.data.images.array_images import ArrayImages
from matl_scale.data.shards.layout import MISSING
from matl_scale.tasks import Task

SIDE = 32  # pixels of the images of four sources
NUM_TRAIN, NUM_VAL, NUM_TEST = 10_000, 2_000, 4_000  # of each of the four, at most
Build = Callable[[Workbench], Dataset]


def fashion(bench: Workbench) -> Dataset:
    return with_val(fashion_mnist.build(bench.data["fashion_mnist"]))


def superclasses(bench: Workbench) -> Dataset:
    return with_val(cifar100.build(bench.data["cifar100"], "superclass"))


def fine_classes(bench: Workbench) -> Dataset:
    return with_val(cifar100.build(bench.data["cifar100"], "fine"))


def with_val(dataset: Dataset) -> Dataset:
    """Returns a data set with all its images, and 5,000 of train as val."""
    return draw_samples(dataset, 10**9, 5_000, 10**9, seed=0).as_dataset()


def four_sources(bench: Workbench) -> Dataset:
    """Returns four tasks with images of their own, like a small Visual Decathlon: the ten digits, the ten classes of
    Fashion-MNIST, and, on one half each of CIFAR-100, its 20 coarse and its 100 fine classes."""
    garments = read_samples(fashion_mnist.build(bench.data["fashion_mnist"]))
    fine = read_samples(cifar100.build(bench.data["cifar100"], "fine"))
    groups = read_samples(cifar100.build(bench.data["cifar100"], "superclass"))
    numbers = read_samples(digits.build(0))
    singles = [name for name in (task.name for task in numbers.dataset.tasks) if len(name.split("_")) == 3]
    columns = [i for i, task in enumerate(numbers.dataset.tasks) if task.name in singles]
    sources = [
        (numbers, "digit", numbers.labels[:, columns].argmax(axis=1), slice(None)),
        (garments, "garment", garments.labels.argmax(axis=1), slice(None)),
        (fine, "fine", fine.labels.argmax(axis=1), slice(0, None, 2)),
        (groups, "coarse", (groups.labels != MISSING).argmax(axis=1), slice(1, None, 2)),
    ]
    names, splits, pixels, classes, tasks = list[str](), list[str](), [], [], list[Task]()
    for number, (samples, task, indices, part) in enumerate(sources):
        rows = choose_rows(samples, np.arange(len(samples.names))[part], number)
        names += [f"{task}/{samples.names[row]}" for row in rows]
        splits += samples.splits[rows].tolist()
        pixels.append(read_pixels(samples, rows))
        classes.append(indices[rows])
        tasks.append(Task(name=task, classes=tuple(f"class_{i}" for i in range(int(indices.max()) + 1))))
    labels = np.full((len(names), len(tasks)), MISSING, dtype=np.int8)
    starts = np.cumsum([0, *map(len, classes)])
    for column, (start, found) in enumerate(zip(starts, classes, strict=False)):
        labels[start : start + len(found), column] = found
    return from_arrays(
        tasks=tasks,
        names=names,
        labels=labels,
        splits=splits,
        images=ArrayImages(root="four sources", pixels=np.concatenate(pixels)),
    )


def choose_rows(samples: Samples, rows: np.ndarray, seed: int) -> np.ndarray:
    """Returns some of the rows, in order: so many of each split, val out of train where there is none. Changes the splits."""
    generator = np.random.default_rng(seed)
    rows = generator.permutation(rows)
    if "val" not in samples.splits:
        pool = rows[samples.splits[rows] == "train"]
        samples.splits[pool[: min(NUM_VAL, len(pool) // 5)]] = "val"
    limits = {"train": NUM_TRAIN, "val": NUM_VAL, "test": NUM_TEST}
    return np.sort(np.concatenate([rows[samples.splits[rows] == split][:most] for split, most in limits.items()]))


def read_pixels(samples: Samples, rows: np.ndarray) -> np.ndarray:
    """Returns the images of some rows, uint8, shape `(num_rows, SIDE, SIDE, 3)`."""
    encoded = samples.dataset.images.read(samples.names[rows].tolist(), samples.indices[rows])
    images = (Image.open(io.BytesIO(image)).convert("RGB").resize((SIDE, SIDE)) for image in encoded)
    return np.stack([np.asarray(image) for image in images])


SETS: Mapping[str, Build] = {
    "digits-175": lambda _: digits.build(0),
    "fashion-10": fashion,
    "cifar-20": superclasses,
    "cifar-100": fine_classes,
    "four-sources": four_sources,
}
