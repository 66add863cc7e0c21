"""Finds out what kind of images a path or a URL holds."""

from pathlib import Path

from matl_scale.data.images.folder_images import IMAGE_SUFFIXES, FolderImages
from matl_scale.data.images.interface import ListedImages
from matl_scale.data.images.parquet_images import open_parquet_images
from matl_scale.data.images.tar_images import open_tar_images
from matl_scale.errors import InputError
from matl_scale.storage.store import Store


def open_images(root: str) -> ListedImages:
    """Opens the images of a folder (recursively), of a tar or Parquet file, or of a folder of tars or Parquet files.

    Raises:
        InputError: There are none, a Parquet file lacks a column, or a tar is damaged.
    """
    store = Store(root)
    if root.endswith(".tar"):
        return open_tar_images([local_path(store)], root, IMAGE_SUFFIXES)
    if root.endswith(".parquet"):
        return open_parquet_images([local_path(store)], root)
    if store.local is not None and not store.local.is_dir():
        raise InputError(f"--images should be a folder, a tar or a Parquet file. {root} is none of them.")
    names = store.names()
    tars = [name for name in names if name.endswith(".tar")]
    if tars:
        if any(name.lower().endswith(IMAGE_SUFFIXES) for name in names):
            raise InputError(f"{root} holds both tars and images. Name one of them, or move them to separate folders.")
        return open_tar_images([local_path(store / name) for name in tars], root, IMAGE_SUFFIXES)
    parquet = [name for name in names if name.endswith(".parquet")]
    if parquet:
        return open_parquet_images([local_path(store / name) for name in parquet], root)
    images = FolderImages(root=root)
    if next(images.names(), None) is None:
        raise InputError(f"{root} holds no image ({', '.join(IMAGE_SUFFIXES)}), no tar and no Parquet file.")
    return images


def local_path(store: Store) -> Path:
    if store.local is None:
        raise InputError(
            f"Tars and Parquet files with images should be on a file system. Got {store}: copy them first."
        )
    return store.local
