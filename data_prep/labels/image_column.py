"""Finds the column with the images' names where the one that was asked for is missing, to suggest it."""

import pyarrow as pa

from data_prep.labels.label_file import LabelFile
from matl_scale.errors import InputError

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
    try:
        file.check_column(name)
    except InputError as error:
        hint = describe_way_out(file)
        raise InputError(f"{error} {hint}" if hint else str(error)) from error


def describe_way_out(file: LabelFile) -> str:
    """Says which column probably holds the images' names, or that there is no header; empty if nothing can be seen."""
    if any(map(is_image_name, file.columns)):
        return "Its first line looks like a row: put a line with the columns' names above it."
    try:
        suggested = find_image_column(file)
    except InputError:  # rows that do not fit the first line, below a comment for example
        return ""
    return f"Use --image-column {suggested}, if images are named there." if suggested else ""


def find_image_column(file: LabelFile) -> str | None:
    """Returns the only column whose first cells all look like names of image files, or else the first with a usual name."""
    names = [name for name in file.columns if name and file.columns.count(name) == 1]
    first = next(iter(file.batches(names)), None)
    if first is not None:
        found = [name for i, name in enumerate(names) if holds_file_names(first.column(i))]
        if len(found) == 1:
            return found[0]
    return next((name for word in USUAL_NAMES for name in names if name.lower() == word), None)


def holds_file_names(column: pa.Array) -> bool:
    """Returns whether the first cells, of which there is one at least, end as image files do."""
    cells = [str(cell) for cell in column.slice(0, 20).to_pylist() if cell is not None]
    return bool(cells) and all(map(is_image_name, cells))


def is_image_name(text: str) -> bool:
    """Returns whether a text ends as image files do."""
    _, dot, ending = text.strip().lower().rpartition(".")
    return bool(dot) and ending in IMAGE_ENDINGS
