"""Which of a set's features a run is trained on, and what follows from them for its config."""

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from matl_scale.automatic import AUTO
from matl_scale.data.shards.features import TRUNK_FILE, FeatureSet, read_feature_sets
from matl_scale.errors import InputError
from matl_scale.models.weights.file import find_weights_file
from matl_scale.storage.files import file_sha256, write_atomic
from matl_scale.storage.store import Store
from matl_scale.train.config import Config, walk, with_settings

# what can be done to images alone
OF_IMAGES: dict[str, tuple[Any, ...]] = {
    "data.augment": (AUTO, "none", [], ["none"]),
    "data.mixup": (0.0,),
    "data.cutmix": (0.0,),
    "data.reading": ("offsets",),
    "train.channels_last": (False,),
}
# what changes a trunk, which stays as it computed the features
OF_TRUNKS: dict[str, tuple[Any, ...]] = {"model.args": (AUTO, {}), "model.drop_path": (AUTO,)}
# what routes layers, of which heads alone have none
OF_LAYERS: dict[str, Any] = {
    "routing.sigma_last": "none",
    "routing.sigmas": {},
    "routing.layers": ["*"],
    "routing.start": "",
    "routing.align": 1,
    "routing.affine": "shared",
    "routing.strategy": "random",
}
# what the config of a run on images has where features say something
OPEN: tuple[Any, ...] = (AUTO, "", 0)
LEFT_OPEN = ("model.trunk", "model.trunk_sha256", "model.weights_sha256", "model.num_features")


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


def fill_from_features(config: Config, found: FeatureSet) -> Config:
    """Returns the config of a run that is trained on features, with what follows from them.

    Raises:
        InputError: It asks for something that is done to images alone, or for other images than those of the features.
    """
    trunk, values = found.trunk, dict(walk(config))
    for keys, of_what in ((OF_IMAGES, "of the images as they are"), (OF_TRUNKS, "by the trunk as it is")):
        for key, allowed in keys.items():
            if values[key] not in allowed:
                raise InputError(
                    f"`{key}` should be {allowed[0]} with `model.name` = features, which were computed {of_what}. Got "
                    f"{values[key]!r}."
                )
    fixed: dict[str, Any] = {
        "model.trunk": trunk.model,
        "model.stem": trunk.stem,
        "model.width": 1.0,
        "model.mean": trunk.mean,
        "model.std": trunk.std,
        "model.weights_sha256": trunk.weights_sha256,
        "model.trunk_sha256": found.trunk_sha256,
        "model.num_features": trunk.num_features,
        "data.image_size": trunk.image_size,
    }
    if not config.model.layers:
        fixed |= {"routing.routes": "one", "routing.sigma": 1.0, **OF_LAYERS}
    for key, value in fixed.items():
        given = values[key]
        if given not in (AUTO, value) and not (key in LEFT_OPEN and given in OPEN):
            why = (
                "without `model.hidden` there is nothing to route"
                if key.startswith("routing")
                else "that of the features"
            )
            default = "" if key in OF_LAYERS else "auto or "
            raise InputError(f"`{key}` should be {default}{value} here: {why}. Got {given!r}.")
    if config.data.fit != trunk.fit:
        raise InputError(
            f"`data.fit` should be {trunk.fit}, with which the features were computed. Got {config.data.fit}."
        )
    config = with_settings(config, {**fixed, "data.augment": "none"})
    if not config.model.layers:  # of a trunk without layers, no sub-network can be derived
        config = replace(config, routing=replace(config.routing, execution="masked"))
    return config


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
