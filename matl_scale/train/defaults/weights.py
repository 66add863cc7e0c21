"""What a run takes from the weights that it starts with: width, stem, and the images for which they were trained."""

from pathlib import Path
from typing import Any

from matl_scale.automatic import AUTO
from matl_scale.errors import InputError
from matl_scale.models.backbones import check_name, check_weights_fit
from matl_scale.models.network import MEAN, STD
from matl_scale.models.weights.description import WeightsDescription, complete, describe_pretrained, describe_stored
from matl_scale.models.weights.file import StoredWeights, check_sha256, find_weights_file, read_weights
from matl_scale.runs.checkpoints.checkpoint import CheckpointInfo
from matl_scale.storage.files import file_sha256
from matl_scale.train.config import Config, read_saved
from matl_scale.train.defaults.facts import Machine
from matl_scale.train.defaults.fill import FEATURE_KEYS, SIZE_KEYS, fill_only_auto, fill_workers, inherit
from matl_scale.train.features.choose import find_features
from matl_scale.train.features.keys import fill_from_features

PRETRAINED = "resnet18"  # with `model.pretrained`, unless another name is given


def fill_before_data(
    config: Config, machine: Machine, checkpoint: CheckpointInfo | None, start: CheckpointInfo | None
) -> Config:
    """Returns the config with what has to be known before the data are opened: processes that load, whether there are images or
    features, and the images' size. They come from an earlier checkpoint, from weights or from features, as `fill_from_weights`
    says."""
    config = fill_workers(config, machine)
    if earlier := checkpoint or start:
        before = read_saved(earlier.config)
        config = inherit(config, before, SIZE_KEYS + FEATURE_KEYS if before.model.is_features else SIZE_KEYS)
    return fill_from_weights(config, checkpoint)


def fill_from_weights(config: Config, checkpoint: CheckpointInfo | None) -> Config:
    """Returns the config with what `model.weights` or `model.pretrained` say, where it is `auto`, or with what follows from
    features. A run that resumes takes nothing from weights; of one that starts with the network of another they are no part at
    all.

    Args:
        config: As it was given.
        checkpoint: The checkpoint to resume from, if any.

    Raises:
        InputError: The weights cannot be read, do not fit the backbone, or are others than the run began with.
    """
    if config.model.is_features:
        if config.model.weights:
            check_sha256(config.model.weights, config.model.weights_sha256)
        return fill_from_features(config, find_features(config))
    if config.run.start_from:
        config = config.without_weights()
    if checkpoint is not None:
        return note_same_file(config, checkpoint)
    if not config.model.is_trained:
        return config
    if config.model.pretrained:
        config = fill_only_auto(config, {"model.name": PRETRAINED})
        check_name(config.model.name)
        return fill_description(config, describe_pretrained(config.model.name))
    check_sha256(config.model.weights, config.model.weights_sha256)
    stored = read_weights(config.model.weights)
    description = describe_stored(stored)
    config = fill_only_auto(config, {"model.weights_sha256": file_sha256(stored.path)})
    if config.model.name == AUTO:
        config = fill_only_auto(config, {"model.name": choose_name(stored, description)})
    check_name(config.model.name)
    config = fill_description(config, complete(description, config.model.name))
    check_weights_fit(config.model, stored)
    return config


def fill_description(config: Config, description: WeightsDescription) -> Config:
    """Returns the config with what weights say of the images for which they were trained; they need their own width and stem."""
    values: dict[str, Any] = {
        "model.width": 1.0,
        "model.stem": "standard",
        "model.mean": description.mean or list(MEAN),
        "model.std": description.std or list(STD),
    }
    if description.image_size:
        values["data.image_size"] = description.image_size
    return fill_only_auto(config, values)


def choose_name(stored: StoredWeights, description: WeightsDescription) -> str:
    """Returns the name of the backbone that a file says it is for; raises `InputError` if it does not say so."""
    if not description.architecture:
        raise InputError(
            f"`model.name` should be given with `model.weights`: {stored.path} does not say for which network it is."
        )
    return f"timm/{description.architecture}"


def note_same_file(config: Config, checkpoint: CheckpointInfo) -> Config:
    """Returns the config of a run that resumes with the SHA-256 of its weights, if the file is still there: no more is read of
    it, but it should be the one that the run began with."""
    weights = config.model.weights
    if not (weights and read_saved(checkpoint.config).model.weights_sha256 and Path(weights).exists()):
        return config
    return fill_only_auto(config, {"model.weights_sha256": file_sha256(find_weights_file(weights))})
