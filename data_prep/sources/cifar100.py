"""CIFAR-100 (Krizhevsky, 2009) as 20 superclass tasks of five classes, or as 100 one-vs-rest tasks.

A superclass task is labelled only on the images of its superclass and missing on all others, as in the published
multi-task results on this data.
"""

from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow.parquet as pq

from data_prep.dataset import Dataset, from_arrays, one_vs_rest
from data_prep.sources.download import unpickle_checked, with_torchvision
from matl_scale.data.images.interface import Images
from matl_scale.data.images.sources import ArrayImages, open_parquet_images
from matl_scale.data.shards.layout import MISSING
from matl_scale.errors import InputError
from matl_scale.tasks import Task

PARTS = ("train", "test")
Part = tuple[list[str], np.ndarray, np.ndarray]  # file names, fine and coarse class names


def build(root: Path, tasks: Literal["superclass", "fine"]) -> Dataset:
    """Returns all 60,000 images in their official splits, from Parquet (`name`, `image`, `fine`, `coarse`) or the archive."""
    parts, images = read_parquet(root) if is_parquet(root) else read_archive(root)
    fine, coarse = (np.concatenate([part[i] for part in parts]) for i in (1, 2))
    declared, labels = superclass_tasks(fine, coarse) if tasks == "superclass" else fine_tasks(fine)
    return from_arrays(
        tasks=declared,
        # the published file names are not unique: the row number is
        names=[
            f"cifar100/{name}/{row:05d}_{file}"
            for name, part in zip(PARTS, parts, strict=True)
            for row, file in enumerate(part[0])
        ],
        labels=labels,
        splits=[name for name, part in zip(PARTS, parts, strict=True) for _ in part[0]],
        images=images,
    )


def superclass_tasks(fine: np.ndarray, coarse: np.ndarray) -> tuple[list[Task], np.ndarray]:
    tasks = []
    superclasses = sorted(set(coarse))
    labels = np.full((len(fine), len(superclasses)), MISSING, dtype=np.int8)
    for column, superclass in enumerate(superclasses):
        rows = coarse == superclass
        classes, labels[rows, column] = np.unique(fine[rows].astype(str), return_inverse=True)
        tasks.append(Task(name=superclass, classes=tuple(map(str, classes)), source="cifar100"))
    return tasks, labels


def fine_tasks(fine: np.ndarray) -> tuple[list[Task], np.ndarray]:
    classes, indices = np.unique(fine.astype(str), return_inverse=True)
    tasks = [Task(name=str(name), classes=("no", "yes"), source="cifar100") for name in classes]
    return tasks, one_vs_rest(indices, len(classes))


def is_parquet(root: Path) -> bool:
    return all((root / f"{part}.parquet").is_file() for part in PARTS)


def read_parquet(root: Path) -> tuple[list[Part], Images]:
    files = [root / f"{part}.parquet" for part in PARTS]
    images = open_parquet_images(files, str(root))
    parts = []
    for file in files:
        if missing := {"fine", "coarse"} - set(pq.read_schema(file).names):
            raise InputError(
                f"{file} should have the columns name, image, fine and coarse. It lacks {sorted(missing)}."
            )
        table = pq.read_table(file, columns=["name", "fine", "coarse"])
        fine, coarse = (np.asarray(table[kind].to_pylist(), dtype=object) for kind in ("fine", "coarse"))
        parts.append((table["name"].to_pylist(), fine, coarse))
    return parts, images


def read_archive(root: Path) -> tuple[list[Part], Images]:
    """Reads torchvision's layout (`cifar-100-python/`), downloaded if it is not there."""
    with_torchvision("CIFAR100", root)
    folder = root / "cifar-100-python"
    meta = unpickle_checked(folder / "meta")
    parts, pixels = [], []
    for part in PARTS:
        content = unpickle_checked(folder / part)
        fine, coarse = (
            np.asarray(meta[f"{kind}_label_names"], dtype=object)[content[f"{kind}_labels"]]
            for kind in ("fine", "coarse")
        )
        parts.append((content["filenames"], fine, coarse))
        pixels.append(np.asarray(content["data"]).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    return parts, ArrayImages(place=str(folder), pixels=np.concatenate(pixels))
