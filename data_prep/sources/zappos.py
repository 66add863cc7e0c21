"""UT-Zappos50K (Yu, Grauman, CVPR 2014): 50,025 shoes with the attributes that the shop lists.

A column with one value per shoe is a task with these values as classes. If shoes have several values at once
(`Zipper;Elastic`), each value is a binary task whose labels are missing where the column is empty, as in the published
`meta-data-bin.csv`.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv

from data_prep.dataset import Dataset, from_arrays
from data_prep.sources.files import locate
from matl_scale.data.images.folder_images import FolderImages
from matl_scale.data.shards.layout import MISSING
from matl_scale.errors import InputError, shortened
from matl_scale.tasks import Task

FOLDERS = ("ut-zap50k-data", ".", "ut-zap50k-images-square", "ut-zap50k-images")
IMAGE_FOLDERS = ("ut-zap50k-images-square", "ut-zap50k-images")


def build(root: Path) -> Dataset:
    """Returns the images of `meta-data.csv`, all in the split `train`: there is no official one."""
    path = locate(root, "meta-data.csv", FOLDERS)
    try:
        options = pyarrow.csv.ConvertOptions(strings_can_be_null=False)
        table = pyarrow.csv.read_csv(path, convert_options=options)
        columns = {name: [str(value or "").strip() for value in table[name].to_pylist()] for name in table.column_names}
        shoes = columns.pop("CID")
    except (pa.ArrowException, KeyError) as error:
        raise InputError(f"{path} should be CSV with the column CID: {error}.") from error
    images = next((root / name for name in IMAGE_FOLDERS if (root / name).is_dir()), root)
    # 100627-72 is .../100627.72.jpg, in folders by category and brand
    file_of = {file.name: file.relative_to(images).as_posix() for file in sorted(images.rglob("*.jpg"))}
    files = [shoe.replace("-", ".") + ".jpg" for shoe in shoes]
    if missing := [file for file in files if file not in file_of]:
        raise InputError(f"{images} lacks {len(missing)} of {len(files)} images of {path}: {shortened(missing, 5)}.")
    declared = [task for name, values in columns.items() for task in column_tasks(name, values)]
    return from_arrays(
        tasks=[task for task, _ in declared],
        names=[file_of[file] for file in files],
        labels=np.stack([labels for _, labels in declared], axis=1),
        splits=["train"] * len(files),
        images=FolderImages(root=str(images)),
    )


def column_tasks(name: str, values: list[str]) -> list[tuple[Task, np.ndarray]]:
    """Declares the tasks of a column, each with its labels, shape `(num_images,)`."""
    sets = [[word.strip() for word in value.split(";") if word.strip()] for value in values]
    classes = sorted({word for words in sets for word in words})
    if len(classes) < 2:
        return []
    if max(map(len, sets)) == 1:
        index_of = {value: index for index, value in enumerate(classes)}
        labels = np.array([index_of[words[0]] if words else MISSING for words in sets])
        return [(Task(name=name, classes=tuple(classes), source="zappos"), labels)]
    return [
        (
            Task(name=f"{name}.{value}", classes=("no", "yes"), source="zappos"),
            np.array([int(value in words) if words else MISSING for words in sets]),
        )
        for value in classes
    ]
