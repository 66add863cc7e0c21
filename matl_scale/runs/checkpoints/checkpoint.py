"""Checkpoints: what they hold, where they are, and whether their bytes are those that were written.

A checkpoint holds what a step depends on: weights, masks, statistics, optimizer, scaler, EMA, step and draws. Route
sampling, batches, augmentation, dropout and the learning rate are pure functions of the seed and the step, so there is
no generator or schedule whose state could be lost.
"""

import json
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from matl_scale.errors import InputError
from matl_scale.routes import Routes
from matl_scale.runs.layout import CHECKPOINT_FILE, STATE_FILE, RunFolder
from matl_scale.storage.files import file_sha256, hash_text

# 2: norm statistics over a task's active units; 3: the records under way; 4: classes, image size, score; 5: routes
FORMAT_VERSION = 5
READABLE_VERSIONS = (4, 5)


@dataclass(frozen=True, kw_only=True)
class CheckpointInfo:
    """What is known about a checkpoint without loading it.

    Attributes:
        folder: The checkpoint's folder.
        step: Steps done.
        masks: Hash of all routing masks.
        classes: Class names by task name, in order.
        routes: Which tasks each route serves.
        image_size: Side length in pixels of the images.
        shards: Hash of the training split's tars.
        manifest_id: Id of the shard set; it changes with labels and with other splits too.
        world_size: W when it was written.
        config: The run's config, in sections.
        frozen: The tasks for which everything stays as it is (`run.freeze`).
        prior_offsets: What to add to the logits of a task, class by class, for probabilities at the class frequencies of the
            training split; of tasks that were trained for other ones (`data.balance`, `loss.class_weight`, logit adjustment).
        score: What the network was chosen for as the best so far, if it was.
        sha256: SHA-256 of the file with the tensors.
    """

    folder: Path
    step: int
    masks: str
    classes: dict[str, list[str]]
    routes: Routes
    image_size: int
    shards: str
    manifest_id: str
    world_size: int
    config: dict[str, dict[str, Any]]
    frozen: list[str]
    prior_offsets: dict[str, list[float]]
    score: float | None
    sha256: str

    @property
    def tasks(self) -> dict[str, int]:
        """Number of classes by task name, in order."""
        return {name: len(classes) for name, classes in self.classes.items()}


class DamagedCheckpoint(InputError):
    """A checkpoint that is not complete, or whose bytes are not those that were written."""


def hash_json(content: Any) -> str:
    """Returns the SHA-256 of a description, whatever its layout in the file."""
    return hash_text(json.dumps(content, sort_keys=True))


def checkpoint_folders(root: Path) -> list[Path]:
    """Returns the folders of a run's checkpoints, oldest first."""
    return sorted(folder for folder in root.glob("step-*") if folder.name.removeprefix("step-").isdecimal())


def find_intact(root: Path) -> tuple[CheckpointInfo | None, list[str]]:
    """Returns the newest checkpoint whose bytes are those that were written, and what is wrong with newer ones.

    Raises:
        InputError: There are checkpoints, but all are damaged; or the newest has a format of another version.
    """
    complaints = []
    for folder in reversed(checkpoint_folders(root)):
        try:
            info = read_info(folder)
            verify_state(info)
        except DamagedCheckpoint as error:
            complaints.append(str(error))
        else:
            return info, complaints
    if complaints:
        raise InputError(
            f"{root} has no intact checkpoint: {' '.join(complaints)} Choose another `run.name` to start anew."
        )
    return None, []


def read_info(folder: Path) -> CheckpointInfo:
    """Reads a checkpoint's description.

    Raises:
        InputError: It is none, or not complete.
    """
    path = folder / CHECKPOINT_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        checksum, version = content.pop("checksum", None), content["format_version"]
        damaged = checksum != hash_json(content)
        if damaged and (checksum is not None or version in READABLE_VERSIONS):  # formats before 4 have none
            raise DamagedCheckpoint(
                f"{path} is damaged: its content does not fit its checksum. Use an earlier checkpoint."
            )
        if version not in READABLE_VERSIONS:
            raise InputError(
                f"{folder} has checkpoint format {version}; this version of matl_scale reads {READABLE_VERSIONS[0]} to "
                f"{READABLE_VERSIONS[-1]}. Go on with the version that wrote it, or start anew under another `run.name`."
            )
        classes = dict(content["classes"])
        return CheckpointInfo(
            folder=folder,
            step=content["step"],
            masks=content["masks"],
            classes=classes,
            routes=Routes.from_json(content["routes"]) if version >= 5 else Routes.one_per_task(list(classes)),
            image_size=content["image_size"],
            shards=content["shards"],
            manifest_id=content["manifest_id"],
            world_size=content["world_size"],
            config=content["config"],
            frozen=content.get("frozen", []),
            prior_offsets=content.get("prior_offsets", {}),
            score=content.get("score"),
            sha256=content["sha256"],
        )
    except InputError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedCheckpoint(
            f"{folder} is not a complete checkpoint: {CHECKPOINT_FILE} cannot be read ({error!r})."
        ) from error


def open_checkpoint(path: Path) -> CheckpointInfo:
    """Returns a checkpoint, or the newest one of a run's folder, after comparing its file with its checksum.

    Raises:
        InputError: There is none, or it is damaged.
    """
    if not RunFolder(path).checkpoints_folder.is_dir():
        info = read_info(path)
        verify_state(info)
        return info
    found, complaints = find_intact(RunFolder(path).checkpoints_folder)
    if complaints:
        raise InputError(complaints[0])
    if found is None:
        raise InputError(f"{path} has no complete checkpoint yet.")
    return found


def verify_state(info: CheckpointInfo) -> None:
    """Compares a checkpoint's file with its checksum.

    Raises:
        DamagedCheckpoint: They differ.
    """
    path = info.folder / STATE_FILE
    if not path.is_file():
        raise DamagedCheckpoint(f"{path} is missing. Use an earlier checkpoint.")
    if file_sha256(path) != info.sha256:
        raise DamagedCheckpoint(
            f"{path} is damaged: its SHA-256 is not the one in {CHECKPOINT_FILE}. Use an earlier checkpoint."
        )


def load_state(info: CheckpointInfo) -> dict[str, Any]:
    """Loads the tensors of a checkpoint that has been verified, on the CPU.

    Raises:
        InputError: The file holds something else than tensors, numbers and strings; nothing of it is executed.
    """
    path = info.folder / STATE_FILE
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path} holds objects that would run code when they are loaded. It is not one of ours."
        ) from error
    return state
