"""How a rank runs the slots of a step: one after the other, stacked as one network (`train.slots`), or as one batch."""

from matl_scale.automatic import AUTO, chosen
from matl_scale.errors import InputError
from matl_scale.models.backbone_size import measure_backbone
from matl_scale.routing.stacked import StackedSubnetworks
from matl_scale.routing.subnetwork import Subnetwork
from matl_scale.train.choose_statistics import build_trunk
from matl_scale.train.config import Config
from matl_scale.train.defaults import rules
from matl_scale.train.step.execution import SlotExecution


def choose_slots(config: Config, image_size: int, num_routes: int, has_gpu: bool) -> SlotExecution:
    """Returns how slots are run. `auto` goes by what a slot costs, not by a measurement, so that equal starts make equal choices.

    Raises:
        InputError: Slots should be stacked and cannot be.
    """
    if config.routing.statistics == "step":
        return "joint"
    if config.train.slots != AUTO:
        check_slots(config, image_size)
        return config.train.slots
    accumulate, batch_size = chosen(config.train.accumulate), chosen(config.data.batch_size)
    if has_gpu or min(accumulate, num_routes) == 1 or find_obstacle(config) is not None:
        return "single"
    cost = measure_backbone(config.model, image_size).multiply_adds * chosen(config.routing.sigma) ** 2
    if not rules.are_small_slots(batch_size * cost):
        return "single"
    try:
        check_backbone(config, image_size)
    except InputError:
        return "single"
    return "stacked"


def check_slots(config: Config, image_size: int) -> None:
    """Raises `InputError` if slots should be stacked and cannot be."""
    if config.train.slots != "stacked":
        return
    obstacle = find_obstacle(config)
    if obstacle is not None:
        raise InputError(f"`train.slots` should be single or auto with {obstacle}. Got stacked.")
    check_backbone(config, image_size)


def find_obstacle(config: Config) -> str | None:
    """Returns the setting with which slots cannot be stacked; None if there is none."""
    obstacles = {
        "`routing.execution` = masked": config.routing.execution == "masked",
        "`routing.strategy` = magnitude": config.routing.strategy == "magnitude",
        f"`run.freeze` = {config.run.freeze}": config.run.freeze != "nothing",
        "`model.freeze`": bool(config.model.freeze),
        "`optim.head_warmup`": config.optim.head_warmup > 0,
        "`train.compile`": config.train.compile,
        "`train.checkpointing`": config.train.checkpointing,
        "`train.channels_last`": config.train.channels_last,
    }
    return next((name for name, given in obstacles.items() if given), None)


def check_backbone(config: Config, image_size: int) -> None:
    """Raises `InputError` if some layer of the backbone would mix slots."""
    StackedSubnetworks(Subnetwork(build_trunk(config, image_size)))
