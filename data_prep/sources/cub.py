"""Caltech-UCSD Birds-200-2011 (Wah et al., CNS-TR-2011-001): 11,788 birds, 312 binary attributes as seen by annotators.

Annotators said how certain they were; what they guessed or could not see is no label.
"""

from pathlib import Path

import numpy as np

from data_prep.dataset import Dataset, binary_tasks, from_arrays
from data_prep.sources.files import locate, read_fields
from matl_scale.data.images.folder_images import FolderImages
from matl_scale.data.shards.layout import MISSING
from matl_scale.errors import InputError

FOLDERS = ("CUB_200_2011", ".")
# the list of attributes lies beside the folder in the archive
ATTRIBUTE_FOLDERS = ("CUB_200_2011/attributes", "attributes", ".", "..")


def build(root: Path, min_certainty: int) -> Dataset:
    """Returns the images in their official train and test splits. Labels below `min_certainty` are missing: 1 not visible,
    2 guessing, 3 probably, 4 definitely.
    """
    images = read_fields(locate(root, "images.txt", FOLDERS), fewest=2)
    is_train = {image: flag for image, flag, *_ in read_fields(locate(root, "train_test_split.txt", FOLDERS), fewest=2)}
    attributes = read_fields(locate(root, "attributes.txt", ATTRIBUTE_FOLDERS), fewest=2)
    index_of = {image: i for i, (image, *_) in enumerate(images)}
    if unknown := [image for image in index_of if image not in is_train]:
        raise InputError(
            f"{root}: train_test_split.txt has no line for image {unknown[0]} and {len(unknown) - 1} more."
        )
    column_of = {attribute: column for column, (attribute, *_) in enumerate(attributes)}
    labels = np.full((len(images), len(attributes)), MISSING, dtype=np.int8)
    path = locate(root, "image_attribute_labels.txt", ATTRIBUTE_FOLDERS)
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                # some lines of the published file have extra fields; the first four are right
                image, attribute, present, certainty = line.split()[:4]
                if int(certainty) >= min_certainty:
                    labels[index_of[image], column_of[attribute]] = ("0", "1").index(present)
            except (ValueError, KeyError) as error:
                raise InputError(
                    f"{path}, line {number} should be image, attribute, 0 or 1, certainty. Got {line!r}."
                ) from error
    return from_arrays(
        tasks=binary_tasks((name for _, name, *_ in attributes), "cub"),
        names=[name for _, name, *_ in images],
        labels=labels,
        splits=["train" if is_train[image] == "1" else "test" for image, *_ in images],
        images=FolderImages(root=str(locate(root, "images", FOLDERS))),
    )
