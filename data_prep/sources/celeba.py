"""CelebA (Liu, Luo, Wang, Tang, ICCV 2015): 202,599 aligned faces, 40 binary attributes, official train, val and test.

Read as published (text files), as torchvision lays it out, and as Kaggle has it (CSV, the images one folder deeper).
"""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_prep.dataset import Dataset, binary_tasks, from_arrays
from data_prep.sources.files import as_int, locate, read_fields
from matl_scale.data.images.folder_images import FolderImages
from matl_scale.errors import InputError

FOLDERS = (".", "Anno", "Eval", "Img", "celeba")  # as published, as torchvision lays it out, and as Kaggle has it
SPLITS = ("train", "val", "test")
IMAGES = "img_align_celeba"
VALUES = {"1": 1, "-1": 0}


def build(root: Path) -> Dataset:
    """Returns the images of `img_align_celeba` with `list_attr_celeba` and `list_eval_partition`, each `.txt` or `.csv`."""
    images = locate(root, IMAGES, FOLDERS)
    if (images / IMAGES).is_dir():
        images /= IMAGES
    path = locate(root, ("list_attr_celeba.txt", "list_attr_celeba.csv"), FOLDERS)
    attributes, lines = read_csv_attributes(path) if path.suffix == ".csv" else read_attributes(path)
    split_path = locate(root, ("list_eval_partition.txt", "list_eval_partition.csv"), FOLDERS)
    split_of = read_splits(split_path)
    names = [line[0] for line in lines]
    if unknown := [name for name in names if name not in split_of]:
        raise InputError(f"{split_path} has no line for {unknown[0]} and {len(unknown) - 1} more images of {path}.")
    if len(names) < len(split_of):  # a table that was cut off between two lines
        raise InputError(
            f"{path} should have a line for each of the {len(split_of)} images of {split_path}. Got {len(names)}."
        )
    try:
        labels = np.array([[VALUES[value] for value in line[1:]] for line in lines], dtype=np.int8)
    except KeyError as error:
        raise InputError(f"{path}: values should be 1 or -1. Got {error}.") from error
    return from_arrays(
        tasks=binary_tasks(attributes, "celeba"),
        names=names,
        labels=labels,
        splits=[split_of[name] for name in names],
        images=FolderImages(root=str(images)),
    )


def read_attributes(path: Path) -> tuple[list[str], list[list[str]]]:
    """Reads the published text file: a count, attribute names, and a line with name and values per image."""
    lines = read_fields(path, fewest=1)
    if len(lines) < 3:
        raise InputError(f"{path} should have a count, attribute names, and a line per image. Is the file complete?")
    count, attributes, lines = lines[0][0], lines[1], lines[2:]
    if count != str(len(lines)) or any(len(line) != len(attributes) + 1 for line in lines):
        raise InputError(f"{path} should have {count} images and {len(attributes)} values each. Is the file complete?")
    return attributes, lines


def read_csv_attributes(path: Path) -> tuple[list[str], list[list[str]]]:
    """Reads Kaggle's table: a header whose first column is the image's name, and a line per image. It has no count."""
    (_, *attributes), *lines = read_csv(path)
    if not attributes or any(len(line) != len(attributes) + 1 for line in lines):
        raise InputError(f"{path} should have {len(attributes)} values for each image. Is the file complete?")
    return attributes, lines


def read_splits(path: Path) -> dict[str, str]:
    """Returns the split of each image by name."""
    lines = read_csv(path)[1:] if path.suffix == ".csv" else read_fields(path, fewest=2)
    return {name: SPLITS[as_int(number, path, (0, 1, 2))] for name, number, *_ in lines}


def read_csv(path: Path) -> Sequence[list[str]]:
    """Reads a CSV file with at least one line below its header, and at least two fields in each; without empty lines."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = [[field.strip() for field in line] for line in csv.reader(file) if line]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read: {error}.") from error
    if len(lines) < 2 or min(map(len, lines)) < 2:
        raise InputError(f"{path} should have a header, and a name and values for each image. Is the file complete?")
    return lines
