"""Finds out what kind of images a path or a URL holds."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq

from matl_scale.data.images.file_kinds import IMAGE_SUFFIXES, SOURCES, PassedOver, without_images
from matl_scale.data.images.folder_images import FolderImages
from matl_scale.data.images.interface import ListedImages
from matl_scale.data.images.parquet_images import holds_images, open_parquet_images
from matl_scale.data.images.tar_images import list_tar, open_tar_images
from matl_scale.data.shards.tables import parquet_errors
from matl_scale.errors import InputError
from matl_scale.storage.store import Store

PACKED_TARS = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".zip", ".7z", ".rar")


def open_images(root: str) -> ListedImages:
    """Opens the images of a folder (recursively), of a tar or Parquet file, or of a folder of tars or Parquet files.

    In a folder, tars and Parquet files without images, as those of labels or predictions, are passed over.

    Raises:
        InputError: There are none or several kinds, a Parquet file lacks a column, or a tar is damaged.
    """
    store = Store(root)
    if root.lower().endswith(".tar"):
        return open_tar_images([local_path(store)], root)
    if root.lower().endswith(".parquet"):
        return open_parquet_images([local_path(store)], root)
    if store.local is not None and not store.local.is_dir():
        remedy = " Unpack it first." if root.lower().endswith(PACKED_TARS) else ""
        raise InputError(f"--images should be a folder, a tar or a Parquet file. {root} is none of them.{remedy}")
    return open_folder(store, root)


def open_folder(store: Store, root: str) -> ListedImages:
    """Opens the one kind of images that a folder holds."""
    names, images = store.names(), FolderImages(root=root)
    tars = [name for name in names if name.lower().endswith(".tar") and not name.startswith(".")]
    tables = [name for name in names if name.lower().endswith(".parquet") and not name.startswith(".")]
    if not tars and not tables and not images.has_image():
        passed_over = PassedOver()
        next(images.names(passed_over), None)
        seen = "; ".join(filter(None, ["no tar and no Parquet file", passed_over.describe()]))
        raise InputError(f"{root} holds no image ({', '.join(IMAGE_SUFFIXES)}), {seen}".removesuffix(".") + ".")
    image_tables = [name for name in tables if is_image_table(store, name)]
    has_files = (bool(tars) or bool(tables)) and images.has_image()
    if tars and (has_files or image_tables):
        tars = [name for name in tars if list_tar(local_path(store / name), PassedOver())]
    kinds = [kind for kind, some in (("tars", tars), ("Parquet files", image_tables), ("images", has_files)) if some]
    if len(kinds) > 1:
        raise InputError(
            f"{root} holds both {' and '.join(kinds)}. Name one of them, or move them to separate folders."
        )
    if tars:
        return open_tar_images([local_path(store / name) for name in tars], root, all_but(names, tars))
    if image_tables or (tables and not has_files):
        chosen = image_tables or tables  # without an image in any of them, the first is refused by name
        return open_parquet_images([local_path(store / name) for name in chosen], root, all_but(names, chosen))
    return images


def is_image_table(store: Store, name: str) -> bool:
    """Returns whether a Parquet file has a column of images."""
    with parquet_errors(f"{store}/{name}"), store.open(name) as file:
        return holds_images(pq.read_schema(file))


def all_but(names: Sequence[str], chosen: Sequence[str]) -> PassedOver:
    """Counts the tars and Parquet files of a folder that are not among those chosen."""
    others = PassedOver()
    for name in names:
        if name not in chosen and (kind := Path(name).suffix.lower()) in SOURCES:
            others.add(without_images(kind), name)
    return others


def local_path(store: Store) -> Path:
    if store.local is None:
        raise InputError(
            f"Tars and Parquet files with images should be on a file system. Got {store}: copy them first."
        )
    return store.local
