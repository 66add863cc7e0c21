"""Whether a run may resume from a checkpoint of its own, or start with the network of another run."""

from matl_scale.errors import InputError
from matl_scale.routing.masks import DRAWN
from matl_scale.runs.checkpoints.checkpoint import CheckpointInfo
from matl_scale.tasks import Task
from matl_scale.train.config import Config, read_saved, walk

FIXED_KEYS = (
    "model.name", "model.args", "model.width", "model.stem", "model.pretrained", "model.weights_sha256", "model.mean",
    "model.std", "model.freeze", "model.hidden",
    "routing.strategy", "routing.statistics", "routing.affine", "optim.name", "optim.layer_decay", "run.freeze", "run.seed",
    "data.fold", "data.fold_seed",
)  # fmt: skip
# what masks depend on that are not drawn anew, and so not compared
MASK_KEYS = (
    "routing.sigma", "routing.sigma_last", "routing.sigmas", "routing.layers", "routing.start", "routing.align",
    "routing.dense_share",
)  # fmt: skip
TRUNK_KEY = "model.trunk_sha256"  # of networks on features; runs of earlier versions lack it
NETWORK_KEYS = (
    "model.name", "model.args", "model.width", "model.stem", "model.mean", "model.std", "model.hidden", TRUNK_KEY,
    "routing.statistics", "routing.layers",
    "routing.start", "routing.sigma_last", "routing.sigmas",
)  # fmt: skip
SIGMA_KEYS = ("routing.sigma_last", "routing.sigmas")  # of them, what a dense network has no use for


def check_resumable(checkpoint: CheckpointInfo, config: Config, train_shards: str) -> None:
    """Raises `InputError` if a run with this config and training tars of this hash cannot resume from the checkpoint."""
    old = read_saved(checkpoint.config)
    if (
        old.run.start_from
    ):  # which makes the weights that a config names no part of the run; older versions kept their names
        old = old.without_weights()
    if config.model.is_trained and not old.model.is_trained:
        raise InputError(
            f"{checkpoint.folder} was trained without `model.weights`, and goes on with its own. Leave them out, or choose "
            "another `run.name`."
        )
    keys = FIXED_KEYS if config.routing.strategy in DRAWN else FIXED_KEYS + MASK_KEYS
    for key, before, now in differences(old, config, keys):
        raise InputError(
            f"{checkpoint.folder} was trained with `{key}` = {before!r}, not {now!r}. Choose another `run.name`."
        )
    if checkpoint.shards != train_shards:
        raise InputError(
            f"{checkpoint.folder} was trained on another shard set. Use its `data.path`, or another `run.name`."
        )
    if config.train.ema_decay and not old.train.ema_decay:
        raise InputError(
            f"{checkpoint.folder} keeps no moving average: `train.ema_decay` should be 0 to resume from it."
        )


def check_start(start: CheckpointInfo, config: Config, tasks: list[Task]) -> None:
    """Raises `InputError` if a run with this config and these tasks cannot start with the checkpoint's network."""
    old, is_magnitude = read_saved(start.config), config.routing.strategy == "magnitude"
    unused = (*(SIGMA_KEYS if is_magnitude else ()), *(() if config.model.is_features else (TRUNK_KEY,)))
    keys = tuple(key for key in NETWORK_KEYS if key not in unused)
    for key, before, now in differences(old, config, keys):
        raise InputError(f"`run.start_from`: {start.folder} was trained with `{key}` = {before!r}, not {now!r}.")
    if (old.routing.affine, config.routing.affine) == ("route", "shared"):
        raise InputError(
            f"`run.start_from`: {start.folder} has affine weights per route: `routing.affine` should be route. (Shared ones can "
            "become those of routes, but not the other way.)"
        )
    if config.routing.strategy == "roaming" != old.routing.strategy:
        raise InputError(
            f"`run.start_from`: {start.folder} was trained with `routing.strategy` = {old.routing.strategy!r}, and routes can "
            "roam only from a network whose routes have roamed. Use its strategy, or train anew."
        )
    for task in tasks:
        num_classes = start.tasks.get(task.name, task.num_classes)
        if num_classes != task.num_classes:
            raise InputError(
                f"`run.start_from`: task `{task.name}` has {num_classes} classes in {start.folder}, and {task.num_classes} "
                "here. Give the changed task another name (matl-data tasks rename)."
            )


def differences(old: Config, new: Config, keys: tuple[str, ...]) -> list[tuple[str, object, object]]:
    """Returns key, old and new value of the keys in which two configs differ."""
    before, now = dict(walk(old)), dict(walk(new))
    return [(key, before[key], now[key]) for key in keys if before[key] != now[key]]
