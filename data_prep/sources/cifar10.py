"""CIFAR-10 (Krizhevsky, 2009) as ten one-vs-rest tasks, from the binary archive or from the Python archive after a check."""

from pathlib import Path

import numpy as np

from data_prep.dataset import Dataset, binary_tasks, from_arrays, one_vs_rest
from data_prep.sources.files import cifar_pixels, unpickle_checked, with_torchvision
from matl_scale.data.images.array_images import ArrayImages
from matl_scale.errors import InputError

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FILES = {"train": tuple(f"data_batch_{number}" for number in range(1, 6)), "test": ("test_batch",)}
RECORD_BYTES = 1 + 3 * 32 * 32
BINARY_FOLDER, PYTHON_FOLDER = "cifar-10-batches-bin", "cifar-10-batches-py"


def build(root: Path) -> Dataset:
    """Returns all 60,000 images in their official splits."""
    binary = next((folder for folder in (root / BINARY_FOLDER, root) if (folder / "test_batch.bin").is_file()), None)
    if binary is None:
        with_torchvision("CIFAR10", root)
    pixels, classes, names, splits = [], [], list[str](), list[str]()
    for split, files in FILES.items():
        for file in files:
            found = read_binary(binary / f"{file}.bin") if binary else read_python(root / PYTHON_FOLDER / file)
            classes.append(found[0])
            pixels.append(found[1])
            names += [f"cifar10/{file}/{i:05d}.png" for i in range(len(found[0]))]
            splits += [split] * len(found[0])
    return from_arrays(
        tasks=binary_tasks(CLASSES, "cifar10"),
        names=names,
        labels=one_vs_rest(np.concatenate(classes), len(CLASSES)),
        splits=splits,
        images=ArrayImages(root=str(root), pixels=np.concatenate(pixels)),
    )


def read_binary(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Reads classes and pixels from records of a class byte and 3,072 pixel bytes, channel after channel."""
    try:
        data = np.fromfile(path, dtype=np.uint8)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error
    if not len(data) or len(data) % RECORD_BYTES:
        raise InputError(f"{path} should hold records of {RECORD_BYTES} bytes. Got {len(data)} bytes.")
    records = data.reshape(-1, RECORD_BYTES)
    if records[:, 0].max() >= len(CLASSES):
        raise InputError(f"{path} should hold classes 0 to 9. Got {records[:, 0].max()}: is it another file?")
    return records[:, 0].astype(np.int64), cifar_pixels(records[:, 1:])


def read_python(path: Path) -> tuple[np.ndarray, np.ndarray]:
    content = unpickle_checked(path)
    return np.asarray(content["labels"], dtype=np.int64), cifar_pixels(np.asarray(content["data"]))
