"""Checkpoints appear complete or not at all: written aside, synced, renamed; older ones are pruned after the new one is safe."""

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch

from matl_scale.errors import RunError, explain_os_error
from matl_scale.runs.checkpoints.checkpoint import FORMAT_VERSION, checkpoint_folders, hash_json
from matl_scale.runs.layout import CHECKPOINT_FILE, STATE_FILE
from matl_scale.storage.files import sync_to_disk, write_json


def save_checkpoint(
    root: Path,
    step: int,
    state: dict[str, Any],
    info: dict[str, Any],
    keep: int,
    write_more: Callable[[Path, str], None] | None = None,
) -> Path:
    """Writes `root/step-NNNNNNNNN`, then removes all but the newest `keep`.

    Args:
        state: Tensors, numbers and strings in dicts and lists: loadable with `weights_only`.
        info: The other fields of `CheckpointInfo`.
        write_more: Writes further files into the folder that it gets, with the SHA-256 of the tensors.

    Raises:
        RunError: The disk is full or cannot be written; what was there before is untouched.
    """
    final = root / f"step-{step:09d}"
    partial = root / f".partial-{final.name}"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        sha256 = write_state(partial / STATE_FILE, state)
        if write_more is not None:
            write_more(partial, sha256)
        content = {**info, "format_version": FORMAT_VERSION, "step": step, "sha256": sha256}
        write_json(partial / CHECKPOINT_FILE, {**content, "checksum": hash_json(content)})
        replaced = root / f".replaced-{final.name}"  # of the same step: damaged, or without its last evaluation
        shutil.rmtree(replaced, ignore_errors=True)
        if final.exists():
            os.replace(final, replaced)
        os.replace(partial, final)
        sync_to_disk(root)
        shutil.rmtree(replaced, ignore_errors=True)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        reason = explain_os_error(error)
        if reason is None:
            raise
        raise RunError(
            f"The checkpoint of step {step} cannot be written: {reason} Earlier checkpoints are untouched."
        ) from error
    prune(root, keep)
    return final


def prune(root: Path, keep: int) -> None:
    """Removes all checkpoints of a folder but the newest `keep`."""
    for old in checkpoint_folders(root)[:-keep]:
        shutil.rmtree(old)


def write_state(path: Path, state: dict[str, Any]) -> str:
    """Writes a state to disk and returns its SHA-256, which is computed on the way: reading it back would take as long."""
    with path.open("wb") as file:
        writer = HashingWriter(file)
        try:
            torch.save(state, writer)  # type: ignore[arg-type]
        except RuntimeError as error:  # torch hides the reason for which a write failed
            raise writer.error or error from error
        file.flush()
        os.fsync(file.fileno())
    return writer.digest.hexdigest()


class HashingWriter:
    """A file to write from front to back that knows the SHA-256 of what was written."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.digest = file, hashlib.sha256()
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        try:
            return self.file.write(data)
        except OSError as error:
            error.filename = error.filename or self.file.name
            self.error = error
            raise

    def flush(self) -> None:
        self.file.flush()


def set_aside_after(root: Path, step: int) -> list[Path]:
    """Renames checkpoints of later steps, which a run resumed from `step` will not reproduce.

    Returns:
        Their new names.
    """
    renamed = []
    for folder in later_than(root, step):
        target = root / f"abandoned-{folder.name}"
        shutil.rmtree(target, ignore_errors=True)
        renamed.append(folder.rename(target))
    return renamed


def later_than(root: Path, step: int) -> list[Path]:
    """Returns the checkpoints of later steps."""
    return [folder for folder in checkpoint_folders(root) if int(folder.name.removeprefix("step-")) > step]


def drop_after(root: Path, step: int) -> None:
    """Removes checkpoints of later steps."""
    for folder in later_than(root, step):
        shutil.rmtree(folder)
