"""Finding the shard set of a run again, to show images and to relate masks to labels."""

from pathlib import Path
from typing import Any

from matl_scale.data.images.fit import CROP, FITS, Fit
from matl_scale.data.shards.folds import read_folded
from matl_scale.data.shards.layout import MANIFEST_FILE
from matl_scale.data.shards.manifest import Manifest
from matl_scale.errors import InputError
from matl_scale.runs.history import RunHistory


def data_path(run: RunHistory) -> str:
    """Returns the path or URL of the run's shard set; an empty text if the run does not say."""
    found = data_setting(run, "path")
    return str(run.about.get("data", {}).get("path", "") if found is None else found)


def data_setting(run: RunHistory, key: str) -> Any:
    """Returns `data.KEY` of the run; None if it has no such key, as in an earlier version, or its config cannot be read."""
    return run.setting("data", key)


def find_fit(run: RunHistory) -> Fit:
    """Returns `data.fit` of the run, by which thumbnails show what its network sees; `crop` if that is not known."""
    fit = data_setting(run, "fit")
    return fit if fit in FITS else CROP


def find_fold(run: RunHistory) -> str:
    """Returns `data.fold` of the run; empty if it had none."""
    return str(data_setting(run, "fold") or "")


def absolute_path(run: RunHistory, path: str) -> str:
    """Returns the path of the run's shard set as an absolute one; unchanged if it is one, is a URL, or is not found.

    Older runs stored a relative path. The shard set is looked for below the working directory, then below the folder that holds
    the run's `runs` folder, where training was started by default.
    """
    if "://" not in path and not Path(path).is_absolute():
        for parent in searched_folders(run):
            if (parent / path / MANIFEST_FILE).is_file():
                return f"{parent / path}"
    return path


def searched_folders(run: RunHistory) -> tuple[Path, Path]:
    return Path.cwd(), run.folder.resolve().parent.parent


def open_shard_set(run: RunHistory, version: str = "") -> Manifest:
    """Opens the shard set that a run was trained on, with its fold, and a version of its labels; the newest if empty.

    Raises:
        InputError: It is not there, or the run does not say where it was.
    """
    path = data_path(run)
    if not path:
        raise InputError(f"{run.folder} does not say where its shard set was.")
    found = absolute_path(run, path)
    if "://" in found or Path(found).is_absolute():
        return read_folded(found, version, find_fold(run), int(data_setting(run, "fold_seed") or 0))
    first, second = searched_folders(run)
    raise InputError(
        f"The run names its shard set by the relative path {path}. There is none below {first} or {second}: start matl-report "
        "in the folder in which the run was started."
    )
