"""Finds the column with the images' names where the one that was asked for is missing, to suggest it."""

import pyarrow as pa

from data_prep.labels.label_file import LabelFile
from matl_scale.errors import InputError, shortened

IMAGE_ENDINGS = ("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff")
USUAL_NAMES = (
    "image",
    "image_id",
    "image_name",
    "image_path",
    "img",
    "file",
    "file_name",
    "filename",
    "filepath",
    "path",
    "id",
)


def check_image_column(file: LabelFile, name: str) -> None:
    """Raises `InputError` if a label file has no such column; the message suggests the one whose cells are file names."""
    if file.find_column(name) is not None:
        return
    if (suggested := find_image_column(file)) is None:
        file.check_column(name)
    listed = shortened(filter(None, file.columns), 20)
    raise InputError(
        f"{file.path} has no column `{name}`. It has: {listed}. Is the column of images --image-column {suggested}?"
    )


def find_image_column(file: LabelFile) -> str | None:
    """Returns the only column whose first cells all look like names of image files, or else the first with a usual name."""
    for batch in file.batches(file.columns):
        found: list[str] = [
            name for name in file.columns if holds_file_names(batch.column(batch.schema.get_field_index(name)))
        ]
        if len(found) == 1:
            return found[0]
        break
    usual = [name for word in USUAL_NAMES for name in names if name.strip().lower() == word]
    return usual[0] if usual else None


def holds_file_names(column: pa.Array) -> bool:
    """Returns whether the first cells, of which there is one at least, end as image files do."""
    cells = [str(cell).strip().lower() for cell in column.slice(0, 20).to_pylist() if cell is not None]
    return bool(cells) and all(cell.rpartition(".")[2] in IMAGE_ENDINGS and "." in cell for cell in cells)
