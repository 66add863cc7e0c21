"""A trained network, from a checkpoint alone: neither its shard set nor its run's folder is needed."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from matl_scale.device import Precision
from matl_scale.errors import InputError
from matl_scale.models.config import ModelConfig
from matl_scale.models.feature_layers import FIRST_LAYER
from matl_scale.models.network import RoutedModel, build_ema, build_model, move_model
from matl_scale.models.routing_config import RoutingConfig
from matl_scale.routing.masks import DRAWN
from matl_scale.runs.checkpoints.checkpoint import (
    CheckpointInfo,
    checkpoint_folders,
    load_state,
    open_checkpoint,
    read_info,
    verify_state,
)
from matl_scale.runs.checkpoints.compatibility import check_network
from matl_scale.runs.checkpoints.masks import hash_masks, masks_of_checkpoint
from matl_scale.runs.layout import CHECKPOINT_FILE, TRUNK_FILE, RunFolder
from matl_scale.storage.files import file_sha256

EMA = "module."  # in front of the names of a network in its moving average

if TYPE_CHECKING:  # a served network reads no images
    from matl_scale.data.images.fit import Fit


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """What of a run's config its network and its use depend on."""

    model: ModelConfig  # the section `model`; the weights come from the checkpoint
    routing: RoutingConfig  # the section `routing`
    seed: int  # `run.seed`
    started_from: str  # `run.start_from`: its masks come from there
    ema_decay: float  # `train.ema_decay`
    channels_last: bool  # `train.channels_last`
    precision: Precision  # `train.precision`
    route_chunk: int  # `eval.task_chunk`
    fit: "Fit"  # `data.fit`; runs of earlier versions cropped

    @property
    def has_own_masks(self) -> bool:
        """Whether the checkpoint alone knows its masks."""
        return bool(self.started_from) or self.routing.strategy not in DRAWN

    def on_trunk(self, folder: Path) -> "NetworkConfig":
        """Returns the config of the network for images: one that was trained on features, of a checkpoint in `folder`, together
        with the trunk that computed them. The trunk is not routed.

        Raises:
            InputError: The file of the trunk is missing or damaged.
        """
        path = folder / TRUNK_FILE
        if not path.is_file() or file_sha256(path) != self.model.trunk_sha256:
            what = "damaged" if path.is_file() else "missing"
            raise InputError(
                f"{path} is {what}: the weights of {self.model.trunk}, which computed the features that this network was trained "
                f"on. Copy it from another checkpoint of the run, or from the features (SHA-256 {self.model.trunk_sha256})."
            )
        routing = RoutingConfig(routes="one", sigma=1.0, execution="masked", statistics=self.routing.statistics)
        if self.model.layers:
            routing = replace(self.routing, start=self.routing.first_layer or FIRST_LAYER)
        return replace(self, model=self.model.on_trunk(str(path)), routing=routing)

    @classmethod
    def read(cls, sections: Mapping[str, Mapping[str, Any]]) -> "NetworkConfig":
        """Reads it from the sections that a checkpoint keeps."""
        run, train = sections["run"], sections["train"]
        return cls(
            model=ModelConfig(**sections["model"]).without_weights(),
            routing=RoutingConfig(**sections["routing"]),
            seed=run["seed"],
            started_from=run.get("start_from", ""),
            ema_decay=train["ema_decay"],
            channels_last=train["channels_last"],
            precision=train["precision"],
            route_chunk=sections["eval"]["task_chunk"],
            fit=sections.get("data", {}).get("fit", "crop"),
        )


def open_network(run: Path, which: str = "best") -> CheckpointInfo:
    """Finds a network of a run and compares its bytes with their checksum.

    Args:
        run: The run's folder; or a checkpoint by itself, and `which` is then ignored.
        which: `best` (by `checkpoint.best`), `newest`, or the path of a checkpoint.

    Raises:
        InputError: There is none, or it is damaged.
    """
    folder = RunFolder(run)
    if (run / CHECKPOINT_FILE).is_file():
        return open_checkpoint(run)
    if not folder.checkpoints_folder.is_dir():
        raise InputError(f"{run} is not a run: it has no folder `{folder.checkpoints_folder.name}`.")
    if which == "newest":
        return open_checkpoint(run)
    if which != "best":
        return open_checkpoint(Path(which))
    best = checkpoint_folders(folder.best_folder)
    if not best:
        raise InputError(
            f"{run} has no best network: it was not evaluated yet, or `checkpoint.best` is empty. Use --checkpoint newest."
        )
    info = read_info(best[-1])
    verify_state(info)
    return info


def restore_network(checkpoint: CheckpointInfo, device: torch.device) -> RoutedModel:
    """Builds a checkpoint's network with its weights, in evaluation mode; the moving average if the run keeps one. It takes
    images, also if it was trained on features: it then has the trunk that computed them.

    Raises:
        InputError: The weights do not fit the masks that the checkpoint's config draws, or there is no such trunk.
    """
    state, config = load_state(checkpoint), NetworkConfig.read(checkpoint.config)
    if config.model.is_features:
        return restore_on_trunk(checkpoint, state, config.on_trunk(checkpoint.folder), device)
    model = restore_shape(checkpoint, state, config, config.has_own_masks)
    move_model(model, device, config.channels_last)
    check_network(checkpoint, tasks=checkpoint.tasks, masks=hash_masks(model))
    if state["ema"] is None:
        model.load_state_dict(state["model"])
        return model.eval()
    ema = build_ema(model, config.ema_decay)
    assert ema is not None
    ema.load_state_dict(state["ema"])
    return cast(RoutedModel, ema.module).eval()


def restore_shape(
    checkpoint: CheckpointInfo, state: dict[str, Any], config: NetworkConfig, has_own_masks: bool
) -> RoutedModel:
    """Builds the network of a checkpoint without its weights; with its masks, or with those that its config draws."""
    return build_model(
        config.model,
        config.routing,
        list(checkpoint.tasks.values()),
        config.seed,
        checkpoint.image_size,
        checkpoint.routes,
        masks_of_checkpoint(checkpoint, state, checkpoint.routes.names) if has_own_masks else None,
    )


def restore_on_trunk(
    checkpoint: CheckpointInfo, state: dict[str, Any], config: NetworkConfig, device: torch.device
) -> RoutedModel:
    """Does what `restore_network` does for a network that was trained on features; `config` is that with its trunk, whose weights
    are not in `state`."""
    model = restore_shape(checkpoint, state, config, has_own_masks=bool(config.model.layers))
    trained = state["model"]
    if state["ema"] is not None:
        trained = {key.removeprefix(EMA): value for key, value in state["ema"].items() if key.startswith(EMA)}
    missing, unknown = model.load_state_dict(trained, strict=False)
    of_trunk = "trunk.trunk." if config.model.layers else "trunk."
    assert not unknown, unknown
    assert set(missing) == {key for key in model.state_dict() if key.startswith(of_trunk)}, missing
    return move_model(model, device, config.channels_last).eval()
