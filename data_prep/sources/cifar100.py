"""CIFAR-100 (Krizhevsky, 2009) as 20 superclass tasks of five classes, or as 100 one-vs-rest tasks.

Only the images of its superclass have a label for a superclass task, as in the published multi-task results on this data.
"""

from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pyarrow.parquet as pq

from data_prep.dataset import Dataset, binary_tasks, from_arrays, one_vs_rest
from data_prep.sources.files import cifar_pixels, unpickle_checked, with_torchvision
from matl_scale.data.images.array_images import ArrayImages
from matl_scale.data.images.interface import Images
from matl_scale.data.images.parquet_images import open_parquet_images
from matl_scale.data.shards.layout import MISSING
from matl_scale.errors import InputError
from matl_scale.tasks import Task

SPLITS = ("train", "test")
KINDS = ("fine", "coarse")


class SplitLabels(NamedTuple):
    """The images of a split: file names, and names of fine and coarse classes."""

    files: list[str]
    fine: np.ndarray
    coarse: np.ndarray


def build(root: Path, tasks: Literal["superclass", "fine"]) -> Dataset:
    """Returns all 60,000 images in their official splits, from Parquet (`name`, `image`, `fine`, `coarse`) or the archive."""
    is_parquet = all((root / f"{split}.parquet").is_file() for split in SPLITS)
    found, images = read_parquet(root) if is_parquet else read_archive(root)
    fine, coarse = (np.concatenate([getattr(part, kind) for part in found.values()]) for kind in KINDS)
    declared, labels = superclass_tasks(fine, coarse) if tasks == "superclass" else fine_tasks(fine)
    return from_arrays(
        tasks=declared,
        # the published file names are not unique, but with the index they are
        names=[
            f"cifar100/{split}/{i:05d}_{file}" for split, part in found.items() for i, file in enumerate(part.files)
        ],
        labels=labels,
        splits=[split for split, part in found.items() for _ in part.files],
        images=images,
    )


def superclass_tasks(fine: np.ndarray, coarse: np.ndarray) -> tuple[list[Task], np.ndarray]:
    tasks = []
    superclasses = sorted(set(coarse))
    labels = np.full((len(fine), len(superclasses)), MISSING, dtype=np.int8)
    for column, superclass in enumerate(superclasses):
        chosen = coarse == superclass
        classes, labels[chosen, column] = np.unique(fine[chosen].astype(str), return_inverse=True)
        tasks.append(Task(name=superclass, classes=tuple(map(str, classes)), source="cifar100"))
    return tasks, labels


def fine_tasks(fine: np.ndarray) -> tuple[list[Task], np.ndarray]:
    classes, indices = np.unique(fine.astype(str), return_inverse=True)
    return binary_tasks(map(str, classes), "cifar100"), one_vs_rest(indices, len(classes))


def read_parquet(root: Path) -> tuple[dict[str, SplitLabels], Images]:
    files = {split: root / f"{split}.parquet" for split in SPLITS}
    images = open_parquet_images(list(files.values()), str(root))
    found = {}
    for split, file in files.items():
        if missing := {"fine", "coarse"} - set(pq.read_schema(file).names):
            raise InputError(
                f"{file} should have the columns name, image, fine and coarse. It lacks {sorted(missing)}."
            )
        table = pq.read_table(file, columns=["name", "fine", "coarse"])
        fine, coarse = (np.asarray(table[kind].to_pylist(), dtype=object) for kind in KINDS)
        found[split] = SplitLabels(table["name"].to_pylist(), fine, coarse)
    return found, images


def read_archive(root: Path) -> tuple[dict[str, SplitLabels], Images]:
    """Reads torchvision's layout (`cifar-100-python/`), and downloads it if it is not there."""
    with_torchvision("CIFAR100", root)
    folder = root / "cifar-100-python"
    meta = unpickle_checked(folder / "meta")
    found, pixels = {}, []
    for split in SPLITS:
        content = unpickle_checked(folder / split)
        fine, coarse = (
            np.asarray(meta[f"{kind}_label_names"], dtype=object)[content[f"{kind}_labels"]] for kind in KINDS
        )
        found[split] = SplitLabels(content["filenames"], fine, coarse)
        pixels.append(cifar_pixels(np.asarray(content["data"])))
    return found, ArrayImages(root=str(folder), pixels=np.concatenate(pixels))
