"""Fashion-MNIST (Xiao, Rasul, Vollgraf, 2017, arXiv 1708.07747) as ten one-vs-rest tasks."""

import gzip
import zlib
from pathlib import Path

import numpy as np

from data_prep.dataset import Dataset, binary_tasks, from_arrays, one_vs_rest
from data_prep.sources.files import with_torchvision
from matl_scale.data.images.array_images import ArrayImages
from matl_scale.errors import InputError

CLASSES = (
    "tshirt_top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle_boot",
)  # fmt: skip
PREFIXES = {"train": "train", "test": "t10k"}
FOLDERS = (".", "raw", "FashionMNIST/raw")  # as published, and as torchvision lays it out


def build(root: Path) -> Dataset:
    """Returns all 70,000 images in their official splits."""
    folder = find_files(root)
    names, pixels, classes, splits = list[str](), [], [], list[str]()
    for split, prefix in PREFIXES.items():
        pixels.append(read_idx(folder, f"{prefix}-images-idx3-ubyte"))
        classes.append(read_idx(folder, f"{prefix}-labels-idx1-ubyte").astype(np.int64))
        count = len(classes[-1])
        if pixels[-1].ndim != 3 or len(pixels[-1]) != count:
            raise InputError(
                f"{folder}: the {split} images and labels should match. Got {len(pixels[-1])} and {count}."
            )
        names += [f"fashion-mnist/{split}/{i:05d}.png" for i in range(count)]
        splits += [split] * count
    return from_arrays(
        tasks=binary_tasks(CLASSES, "fashion-mnist"),
        names=names,
        labels=one_vs_rest(np.concatenate(classes), len(CLASSES)),
        splits=splits,
        images=ArrayImages(root=str(folder), pixels=np.concatenate(pixels)),
    )


def find_files(root: Path) -> Path:
    """Returns the folder below `root` with the idx files; torchvision downloads them if there are none."""
    for folder in FOLDERS:
        if any((root / folder).glob("train-images-idx3-ubyte*")):
            return root / folder
    with_torchvision("FashionMNIST", root)
    return root / "FashionMNIST/raw"


def read_idx(folder: Path, name: str) -> np.ndarray:
    """Reads an idx file of unsigned bytes, plain or gzipped: magic 0, 0, 8, number of axes, then sizes, big-endian."""
    path = folder / name
    try:
        data = path.read_bytes() if path.is_file() else gzip.decompress((folder / f"{name}.gz").read_bytes())
        axes = data[3]
        shape = np.frombuffer(data, ">u4", count=axes, offset=4)
        if data[:3] != b"\x00\x00\x08":
            raise ValueError("wrong magic number")
        return np.frombuffer(data, np.uint8, offset=4 + 4 * axes).reshape(shape)
    except (OSError, EOFError, ValueError, IndexError, zlib.error) as error:
        raise InputError(f"{path} cannot be read as an idx file: {error}.") from error
