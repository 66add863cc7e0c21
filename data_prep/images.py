"""Images as a folder or as Parquet (`name`, `image`), matched with the rows of a label file. Bytes stay as they are."""

import io
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from data_prep.dataset import Dataset, check_unique
from data_prep.labels import LabelFile
from matl_scale.data.shards import InputError, shortened

EXTENSIONS = {
    "JPEG": "jpg",
    "MPO": "jpg",
    "PNG": "png",
    "WEBP": "webp",
    "BMP": "bmp",
    "GIF": "gif",
    "TIFF": "tif",
    "PPM": "ppm",
}
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")


@dataclass(frozen=True, kw_only=True)
class ImageSource:
    """Named images. `read(wanted)` yields the bytes of the names in `wanted`, in the order of `names`."""

    place: Path
    names: Sequence[str]
    files: Sequence[Path]

    def read(self, wanted: set[str]) -> Iterator[bytes]:
        if self.files and self.files[0].suffix == ".parquet":
            yield from read_parquet_images(self.files, wanted)
            return
        for name, file in zip(self.names, self.files, strict=True):
            if name in wanted:
                yield file.read_bytes()


def open_images(place: Path) -> ImageSource:
    """Finds the images of a folder (recursively), a Parquet file, or a folder of Parquet files.

    Raises:
        InputError: There are none, a Parquet file lacks a column, or a name occurs twice.
    """
    if place.is_file() and place.suffix == ".parquet":
        return open_parquet([place], place)
    if not place.is_dir():
        raise InputError(f"--images should be a folder or a Parquet file. {place} is neither.")
    files = sorted(path for path in place.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())
    if files:
        return ImageSource(place=place, names=[path.relative_to(place).as_posix() for path in files], files=files)
    if parquet := sorted(place.glob("*.parquet")):
        return open_parquet(parquet, place)
    raise InputError(f"{place} holds no image ({', '.join(IMAGE_SUFFIXES)}) and no Parquet file.")


def open_parquet(files: list[Path], place: Path) -> ImageSource:
    names: list[str] = []
    for file in files:
        try:
            columns = pq.read_schema(file).names
            if missing := {"name", "image"} - set(columns):
                raise InputError(f"{file} should have the columns `name` and `image`. It lacks {sorted(missing)}.")
            table = pq.read_table(file, columns=["name"])
        except (pa.ArrowInvalid, OSError) as error:
            raise InputError(f"{file} cannot be read as Parquet: {error}.") from error
        if table["name"].null_count:
            raise InputError(f"{file}: every row should have a `name`. {table['name'].null_count} are empty.")
        names += map(str, table["name"].to_pylist())
    check_unique(names, f"value of column `name` of {place}")
    return ImageSource(place=place, names=names, files=files)


def read_parquet_images(files: Sequence[Path], wanted: set[str] | None = None) -> Iterator[bytes]:
    """Yields the bytes of the wanted names, or of all rows, in row order."""
    for file in files:
        for batch in pq.ParquetFile(file).iter_batches(batch_size=256, columns=["name", "image"]):
            for name, image in zip(batch["name"].to_pylist(), batch["image"].to_pylist(), strict=True):
                if wanted is None or str(name) in wanted:
                    yield image or b""


def match_images(images: ImageSource, labels: LabelFile, splits: np.ndarray, allow_unmatched: bool) -> Dataset:
    """Joins images and label rows by name, in the order of the images.

    A label row may leave out the extension, as many published label files do.

    Raises:
        InputError: Some have no partner (counted and listed), unless `allow_unmatched`.
    """
    row_of = {name: row for row, name in enumerate(labels.images)}
    rows = [row_of.get(name, row_of.get(PurePosixPath(name).with_suffix("").as_posix())) for name in images.names]
    matched = [row for row in rows if row is not None]
    check_unique([labels.images[row] for row in matched], f"image of {images.place} for a row of {labels.path}")
    without_row = [name for name, row in zip(images.names, rows, strict=True) if row is None]
    without_image = sorted(set(labels.images) - {labels.images[row] for row in matched})
    complaints = []
    if without_row:
        complaints.append(f"{len(without_row)} images have no label row ({shortened(without_row)})")
    if without_image:
        complaints.append(f"{len(without_image)} label rows have no image ({shortened(without_image)})")
    if complaints and not allow_unmatched:
        raise InputError(
            f"{images.place} and {labels.path} should match: {'; '.join(complaints)}. "
            "Correct them, or leave these out with --allow-unmatched."
        )
    if complaints:
        print(f"left out: {'; '.join(complaints)}", file=sys.stderr)
    names = [name for name, row in zip(images.names, rows, strict=True) if row is not None]
    wanted = set(names)
    return Dataset(
        tasks=labels.tasks,
        names=names,
        labels=labels.labels[matched],
        splits=splits[matched],
        read_images=lambda: images.read(wanted),
        place=images.place,
    )


@dataclass(frozen=True, kw_only=True)
class CheckedImage:
    """An image that decodes: its bytes, file extension, width and height in pixels."""

    data: bytes
    extension: str
    width: int
    height: int


def check_image(data: bytes, name: str, resize: int | None = None) -> CheckedImage:
    """Decodes an image to be sure that training can. With `resize`, scales and centre-crops it to a square.

    Args:
        data: The encoded image.
        name: For the error message.
        resize: Side length in pixels; JPEG is written again at quality 95, everything else as PNG.

    Raises:
        InputError: It cannot be decoded.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            extension = EXTENSIONS.get(image.format or "")
            if extension is None:
                raise InputError(f"{name}: images should be one of {', '.join(EXTENSIONS)}. Got {image.format}.")
            if image.mode[0] in "IF":
                raise InputError(
                    f"{name}: images should have 8 bits per channel. Got mode {image.mode}, which training would clip: "
                    "convert it first."
                )
            if resize is None or image.size == (resize, resize):
                return CheckedImage(data=data, extension=extension, width=image.width, height=image.height)
            square = fit_square(image if image.mode in ("L", "RGB") else image.convert("RGB"), resize)
    except InputError:
        raise
    except Exception as error:  # Pillow's codecs raise many kinds for damaged data
        raise InputError(f"{name} cannot be decoded as an image ({len(data)} bytes): {error}.") from error
    buffer = io.BytesIO()
    if extension == "jpg":
        square.save(buffer, "JPEG", quality=95)
    else:
        extension = "png"
        square.save(buffer, "PNG")
    return CheckedImage(data=buffer.getvalue(), extension=extension, width=resize, height=resize)


def fit_square(image: Image.Image, size: int) -> Image.Image:
    """Scales the shorter side to `size` pixels and crops the middle of the longer one."""
    scale = size / min(image.size)
    width, height = (max(size, round(side * scale)) for side in image.size)
    scaled = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    return scaled.crop((left, top, left + size, top + size))
