"""Visual Decathlon (Rebuffi, Bilen, Vedaldi, NeurIPS 2017, arXiv 1705.08045): ten data sets, each a task of its own.

Annotations are COCO's JSON, `annotations/NAME_train.json` and `NAME_val.json`, with file names like `data/NAME/train/….jpg`.
An image has a label only for the task of its data set. The labels of the test images were never published.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_prep.dataset import Dataset, from_arrays
from data_prep.sources.files import locate
from matl_scale.data.images.folder_images import FolderImages
from matl_scale.data.shards.layout import MISSING, label_dtype
from matl_scale.errors import InputError
from matl_scale.tasks import Task

NAMES = (
    "aircraft", "cifar100", "daimlerpedcls", "dtd", "gtsrb", "imagenet12", "omniglot", "svhn", "ucf101", "vgg-flowers",
)  # fmt: skip
SPLITS = ("train", "val")
ANNOTATION_FOLDERS = ("annotations", "decathlon-1.0/annotations", "decathlon-1.0-devkit/decathlon-1.0/annotations")
IMAGE_FOLDERS = ("data", ".", "decathlon-1.0/data", "decathlon-1.0-data")


class Annotations(NamedTuple):
    """One split of one data set."""

    files: list[str]  # image files below the folder of all images
    categories: list[int]  # the category id of each image
    names: dict[int, str]  # names of the categories, by id


def build(root: Path) -> Dataset:
    """Returns the training and validation images of the data sets whose annotations and images are there."""
    annotations = next((root / folder for folder in ANNOTATION_FOLDERS if (root / folder).is_dir()), root)
    present = [name for name in NAMES if (annotations / f"{name}_train.json").is_file()]
    if not present:
        raise InputError(f"{root} holds no annotations/NAME_train.json for a NAME of {', '.join(NAMES)}.")
    images = locate(root, present[0], IMAGE_FOLDERS).parent
    tasks, files, splits, columns, targets = list[Task](), list[str](), list[str](), list[int](), list[int]()
    for column, name in enumerate(present):
        train, val = (read_annotations(annotations / f"{name}_{split}.json") for split in SPLITS)
        classes = dict(sorted({**val.names, **train.names}.items()))
        index_of = {category: index for index, category in enumerate(classes)}
        tasks.append(Task(name=name, classes=unique_names(classes), source="decathlon"))
        for split, part in zip(SPLITS, (train, val), strict=True):
            files += part.files
            splits += [split] * len(part.files)
            columns += [column] * len(part.files)
            targets += [index_of[category] for category in part.categories]
    labels = np.full((len(files), len(tasks)), MISSING, dtype=label_dtype(tasks))
    labels[np.arange(len(files)), columns] = targets
    return from_arrays(tasks=tasks, names=files, labels=labels, splits=splits, images=FolderImages(root=str(images)))


def read_annotations(path: Path) -> Annotations:
    """Reads the images of a COCO file that have an annotation, one category each."""
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        file_of = {image["id"]: str(image["file_name"]).removeprefix("data/") for image in content["images"]}
        pairs = {(entry["image_id"], int(entry["category_id"])) for entry in content["annotations"]}
        category_of = dict(sorted(pairs))
        names = {int(category["id"]): str(category["name"]) for category in content["categories"]}
        files = [file_of[image] for image in category_of]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise InputError(f"{path} cannot be read as COCO's JSON: {error!r}.") from error
    if len(pairs) > len(category_of):
        raise InputError(
            f"{path}: every image should have one category. {len(pairs) - len(category_of)} have another one too."
        )
    if unknown := set(category_of.values()) - set(names):
        raise InputError(f"{path}: annotations name categories that are not listed: {sorted(unknown)[:5]}.")
    if any(file.startswith("/") or ".." in file.split("/") for file in files):
        raise InputError(f"{path}: file names should stay below the folder of the images.")
    return Annotations(files, list(category_of.values()), names)


def unique_names(classes: dict[int, str]) -> tuple[str, ...]:
    """Returns the names of the classes, followed by the id if a name occurs twice."""
    counts = Counter(classes.values())
    return tuple(name if counts[name] == 1 else f"{name} ({category})" for category, name in classes.items())
