"""CelebA (Liu, Luo, Wang, Tang, ICCV 2015): 202,599 aligned faces, 40 binary attributes, official train, val and test."""

from pathlib import Path

import numpy as np

from data_prep.dataset import Dataset, binary_tasks, from_arrays
from data_prep.sources.files import as_int, locate, read_fields
from matl_scale.data.images.folder_images import FolderImages
from matl_scale.errors import InputError

FOLDERS = (".", "Anno", "Eval", "Img", "celeba")  # as published, and as torchvision lays it out
SPLITS = ("train", "val", "test")


def build(root: Path) -> Dataset:
    """Returns the images of `img_align_celeba` with `list_attr_celeba.txt` and `list_eval_partition.txt`."""
    images = locate(root, "img_align_celeba", FOLDERS)
    path = locate(root, "list_attr_celeba.txt", FOLDERS)
    lines = read_fields(path, fewest=1)
    if len(lines) < 3:
        raise InputError(f"{path} should have a count, attribute names, and a line per image. Is the file complete?")
    count, attributes, lines = lines[0][0], lines[1], lines[2:]
    if count != str(len(lines)) or any(len(line) != len(attributes) + 1 for line in lines):
        raise InputError(f"{path} should have {count} images and {len(attributes)} values each. Is the file complete?")
    split_path = locate(root, "list_eval_partition.txt", FOLDERS)
    split_of = {
        name: SPLITS[as_int(number, split_path, (0, 1, 2))] for name, number, *_ in read_fields(split_path, fewest=2)
    }
    names = [line[0] for line in lines]
    if unknown := [name for name in names if name not in split_of]:
        raise InputError(f"{split_path} has no line for {unknown[0]} and {len(unknown) - 1} more images of {path}.")
    values = {"1": 1, "-1": 0}
    try:
        labels = np.array([[values[value] for value in line[1:]] for line in lines], dtype=np.int8)
    except KeyError as error:
        raise InputError(f"{path}: values should be 1 or -1. Got {error}.") from error
    return from_arrays(
        tasks=binary_tasks(attributes, "celeba"),
        names=names,
        labels=labels,
        splits=[split_of[name] for name in names],
        images=FolderImages(root=str(images)),
    )
