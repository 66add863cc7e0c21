"""What the keys of a config mean for a run on features: what they are fixed to, and what would have no effect."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from matl_scale.automatic import AUTO
from matl_scale.data.shards.features import FeatureSet
from matl_scale.errors import InputError
from matl_scale.models.feature_layers import FEATURES
from matl_scale.train.config import Config, walk, with_settings

# key → the values that it may have, the first being the default: of what can be done to images alone
OF_IMAGES: dict[str, tuple[Any, ...]] = {
    "data.augment": (AUTO, "none", [], ["none"]),
    "data.mixup": (0.0,),
    "data.cutmix": (0.0,),
    "data.reading": ("offsets",),
    "train.channels_last": (False,),
}
# and of what changes a trunk, which stays as it computed the features
OF_TRUNKS: dict[str, tuple[Any, ...]] = {"model.args": (AUTO, {}), "model.drop_path": (AUTO,)}
# key → its default: of what routes layers, of which heads alone have none
OF_LAYERS: dict[str, Any] = {
    "routing.sigma_last": "none",
    "routing.sigmas": {},
    "routing.layers": ["*"],
    "routing.start": "",
    "routing.align": 1,
    "routing.affine": "shared",
    "routing.strategy": "random",
}
# key → what it is by the features
BY_FEATURES: dict[str, Callable[[FeatureSet], Any]] = {
    "model.stem": lambda found: found.trunk.stem,
    "model.width": lambda _: 1.0,
    "model.mean": lambda found: found.trunk.mean,
    "model.std": lambda found: found.trunk.std,
    "data.image_size": lambda found: found.trunk.image_size,
}
# likewise; a config may name the features by them, and that of a run on images has an OPEN value
NAMING: dict[str, Callable[[FeatureSet], Any]] = {
    "model.trunk": lambda found: found.trunk.model,
    "model.weights_sha256": lambda found: found.trunk.weights_sha256,
    "model.trunk_sha256": lambda found: found.trunk_sha256,
    "model.num_features": lambda found: found.trunk.num_features,
}
OPEN: tuple[Any, ...] = (AUTO, "", 0)
# what makes the config of any run that of heads on features; what names them stays
HEADS_ALONE: dict[str, Any] = {
    "model.name": FEATURES,
    "model.hidden": [],
    "model.pretrained": False,
    "model.freeze": [],
    **dict.fromkeys(BY_FEATURES, AUTO),
    **{key: allowed[0] for key, allowed in (OF_IMAGES | OF_TRUNKS).items()},
    **OF_LAYERS,
}


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
    fixed: dict[str, Any] = {key: read(found) for key, read in (BY_FEATURES | NAMING).items()}
    if not config.model.layers:
        fixed |= {"routing.routes": "one", "routing.sigma": 1.0, **OF_LAYERS}
    for key, value in fixed.items():
        given = values[key]
        if given not in (AUTO, value) and not (key in NAMING and given in OPEN):
            why = (
                "without `model.hidden` there is nothing to route"
                if key.startswith("routing")
                else "that of the features"
            )
            default = "" if key in OF_LAYERS else "auto or "
            raise InputError(f"`{key}` should be {default}{value or 'empty'} here: {why}. Got {given!r}.")
    if config.data.fit != trunk.fit:
        raise InputError(
            f"`data.fit` should be {trunk.fit}, with which the features were computed. Got {config.data.fit}."
        )
    config = with_settings(config, {**fixed, "data.augment": "none"})
    if not config.model.layers:  # of a trunk without layers, no sub-network can be derived
        config = replace(config, routing=replace(config.routing, execution="masked"))
    return config
