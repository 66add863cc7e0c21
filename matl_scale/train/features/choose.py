"""Which of a set's features a run is trained on."""

import os
import shutil
from pathlib import Path

from matl_scale.automatic import AUTO
from matl_scale.data.shards.features import TRUNK_FILE, FeatureSet, read_feature_sets
from matl_scale.errors import InputError
from matl_scale.models.weights.file import find_weights_file
from matl_scale.storage.files import file_sha256, write_atomic
from matl_scale.storage.store import Store
from matl_scale.train.config import Config
from matl_scale.train.features.keys import OPEN


def find_features(config: Config) -> FeatureSet:
    """Returns the features of the set that a config means, by `model.trunk`, `model.weights` and its hash, and among several
    by the images (`data.image_size`, `data.fit`).

    Raises:
        InputError: There are none, only those of another trunk, or several that it may mean.
    """
    root, model = Store(config.data.path), config.model
    found = read_feature_sets(root)
    trunks = [each for each in found if model.trunk in (*OPEN, each.trunk.model)]
    wanted = model.weights_sha256
    if wanted in OPEN and model.weights:
        wanted = file_sha256(find_weights_file(model.weights))
    fitting = [each for each in trunks if wanted in (*OPEN, each.trunk.weights_sha256)]
    if not trunks:
        others = f" It has those of {', '.join(each.trunk.model for each in found)}." if found else ""
        name = "NAME" if model.trunk in OPEN else model.trunk
        raise InputError(
            f"`model.name` = features: {root} has no complete features{'' if model.trunk in OPEN else f' of {model.trunk}'}."
            f"{others} Compute them with matl-embed {root} --model {name} --weights FILE."
        )
    if not fitting:
        stored = ", ".join(f"{each.trunk.weights_sha256[:12]}… ({each.trunk.model})" for each in trunks)
        raise InputError(
            f"`model.name` = features: the features of {root} are of other weights: those with the SHA-256 {stored}, not "
            f"{wanted[:12]}…. Compute those of yours with matl-embed."
        )
    if len(fitting) > 1:
        fitting = [each for each in fitting if is_of_images(each, config)] or fitting
    if len(fitting) > 1:
        raise InputError(
            f"`model.name` = features: {root} has several that fit: {', '.join(each.root.url for each in fitting)}. Choose by "
            "`model.trunk` or `model.weights`, and by `data.image_size` and `data.fit`, or delete one of the folders."
        )
    return fitting[0]


def is_of_images(found: FeatureSet, config: Config) -> bool:
    """Returns whether features are of images of the size and fit that a config gives, and of the trunk whose file it names."""
    trunk = found.trunk
    return (
        config.data.image_size in (AUTO, trunk.image_size)
        and config.data.fit == trunk.fit
        and config.model.trunk_sha256 in (*OPEN, found.trunk_sha256)
    )


def copy_trunk(found: FeatureSet, path: Path) -> None:
    """Copies the trunk's weights into a run's folder, where its checkpoints find them; shares the bytes on disk where it can.

    Raises:
        InputError: The file is not the one that computed the features.
    """
    if path.is_file() and file_sha256(path) == found.trunk_sha256:
        return
    path.unlink(missing_ok=True)
    with found.root.fetched(TRUNK_FILE) as stored:
        if not stored.is_file() or file_sha256(stored) != found.trunk_sha256:
            raise InputError(
                f"{found.root}/{TRUNK_FILE} is missing or damaged. Run matl-embed again; features that exist are not "
                "computed again."
            )
        try:
            os.link(stored, path)
        except OSError:
            write_atomic(path, lambda partial: shutil.copyfile(stored, partial))
