"""CIFAR-100 (Krizhevsky, 2009) as 20 superclass tasks of five classes, or as 100 one-vs-rest tasks.

A superclass task is labelled only on the images of its superclass and missing on all others, as in the published
multi-task results on this data.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow.parquet as pq

from data_prep.dataset import Dataset
from data_prep.encode import encode_png, one_vs_rest
from data_prep.images import read_parquet_images
from data_prep.splits import draw_splits
from matl_scale.data.shards import MISSING, InputError, Task

PARTS = ("train", "test")


@dataclass(frozen=True, kw_only=True)
class Part:
    """One official part: file names, fine and coarse class names, and the encoded images on demand."""

    names: list[str]
    fine: np.ndarray
    coarse: np.ndarray
    images: list[Path] | np.ndarray

    def read_images(self) -> Iterator[bytes]:
        if isinstance(self.images, list):
            return read_parquet_images(self.images)
        return map(encode_png, self.images)


def build(root: Path, tasks: Literal["superclass", "fine"], val_fraction: float, seed: int) -> Dataset:
    """Returns all 60,000 images; a seeded share of the training part becomes the split `val`."""
    parts = [read_parquet_part(root, part) if is_parquet(root) else read_pickled_part(root, part) for part in PARTS]
    splits = [np.full(len(part.names), name, dtype=object) for name, part in zip(PARTS, parts, strict=True)]
    if val_fraction:
        splits[0] = draw_splits(len(splits[0]), {"train": 1 - val_fraction, "val": val_fraction}, seed)
    fine, coarse = (np.concatenate([getattr(part, kind) for part in parts]) for kind in ("fine", "coarse"))
    declared, labels = superclass_tasks(fine, coarse) if tasks == "superclass" else fine_tasks(fine)
    return Dataset(
        tasks=declared,
        # the published file names are not unique: the row number is
        names=[
            f"cifar100/{name}/{row:05d}_{file}"
            for name, part in zip(PARTS, parts, strict=True)
            for row, file in enumerate(part.names)
        ],
        labels=labels,
        splits=np.concatenate(splits),
        read_images=lambda: (image for part in parts for image in part.read_images()),
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


def read_parquet_part(root: Path, part: str) -> Part:
    path = root / f"{part}.parquet"
    wanted = ["name", "image", "fine", "coarse"]
    if missing := set(wanted) - set(pq.read_schema(path).names):
        raise InputError(f"{path} should have the columns {', '.join(wanted)}. It lacks {sorted(missing)}.")
    table = pq.read_table(path, columns=["name", "fine", "coarse"])
    fine, coarse = (np.asarray(table[kind].to_pylist(), dtype=object) for kind in ("fine", "coarse"))
    return Part(names=table["name"].to_pylist(), fine=fine, coarse=coarse, images=[path])


def read_pickled_part(root: Path, part: str) -> Part:
    """Reads torchvision's layout (`cifar-100-python/`), after torchvision has checked or downloaded it."""
    import pickle

    from matl_scale.vision import torchvision

    try:
        torchvision.datasets.CIFAR100(root, train=part == "train", download=True)
    except (RuntimeError, OSError) as error:
        raise InputError(
            f"{root} has neither train.parquet and test.parquet nor CIFAR-100 in torchvision's layout, and it could "
            f"not be downloaded: {error}."
        ) from error
    # torchvision has compared these files with the published checksums, so unpickling them runs nothing foreign
    with (root / "cifar-100-python" / part).open("rb") as file:
        content = pickle.load(file, encoding="latin1")
    with (root / "cifar-100-python" / "meta").open("rb") as file:
        meta = pickle.load(file, encoding="latin1")
    return Part(
        names=content["filenames"],
        fine=np.asarray(meta["fine_label_names"], dtype=object)[content["fine_labels"]],
        coarse=np.asarray(meta["coarse_label_names"], dtype=object)[content["coarse_labels"]],
        images=np.asarray(content["data"]).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1),
    )
