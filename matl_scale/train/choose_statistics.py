"""What batch norms normalise by (`routing.statistics`): a micro-step's own images, or those of a whole step."""

from torch import fx

from matl_scale.automatic import AUTO, chosen
from matl_scale.errors import InputError
from matl_scale.models.network import build_model
from matl_scale.routing.batch_norm import Statistics, route_norms
from matl_scale.routing.stacked import RANDOM_MODULES
from matl_scale.train.config import Config
from matl_scale.train.defaults import rules


def choose_statistics(config: Config, image_size: int, num_routes: int) -> Statistics:
    """Returns what batch norms normalise by; σ is chosen. A micro-step has a fraction of a step's images, and norms of so few
    disturb a trained backbone. The fewer units routes lack, the less they differ in what they feed a norm.

    Raises:
        InputError: It should be the images of a step, and cannot be.
    """
    routing = config.routing
    if routing.statistics != AUTO:
        check_statistics(config, image_size)
        return routing.norm_statistics
    sigma = min(chosen(each) for each in routing.given_sigmas())
    if not config.model.is_trained or num_routes == 1 or sigma < rules.TUNED_SIGMA or find_obstacle(config):
        return "route"
    return "route" if find_obstacle_in_trunk(build_trunk(config, image_size)) else "step"


def check_statistics(config: Config, image_size: int) -> None:
    """Raises `InputError` if all micro-steps of a step should run as one batch and cannot."""
    if config.routing.statistics != "step":
        return
    obstacle = find_obstacle(config) or find_obstacle_in_trunk(build_trunk(config, image_size))
    if obstacle:
        raise InputError(f"`routing.statistics` should be route or auto with {obstacle}. Got step.")


def find_obstacle(config: Config) -> str:
    """Returns the setting with which micro-steps cannot run as one batch; empty if there is none."""
    obstacles = {
        # what belongs to one route is read once for a batch
        "`routing.affine` = route": config.routing.affine == "route",
        # it is measured micro-step by micro-step how much units matter
        "`routing.strategy` = magnitude": config.routing.strategy == "magnitude",
        f"`train.slots` = {config.train.slots}": config.train.slots != AUTO,
    }
    return next((name for name, given in obstacles.items() if given), "")


def build_trunk(config: Config, image_size: int) -> fx.GraphModule:
    """Builds the routed trunk of a run, without values of its weights: what it consists of does not depend on its routes."""
    return build_model(config.model, config.routing, [2, 2], config.run.seed, image_size, outline=True).trunk


def find_obstacle_in_trunk(trunk: fx.GraphModule) -> str:
    """Returns why nothing would be gained, or what would depend on which rank runs a micro-step; empty if there is nothing."""
    if not route_norms(trunk):
        return "a backbone without batch norms, which is normalised image by image"
    for name, module in trunk.named_modules():
        if isinstance(module, RANDOM_MODULES) and module.p > 0:
            return f"random layers (`{name}`): each micro-step draws for itself"
    return ""
