"""What a search varies: learning rate, weight decay, σ and the number of routes, as far as a variant leaves them open."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from matl_scale.automatic import AUTO, chosen
from matl_scale.runs.sweep_folder import Variant
from matl_scale.train.config import Config

if TYPE_CHECKING:
    from optuna import Trial

RATE, DECAY, SIGMA, ROUTES = "optim.lr", "optim.weight_decay", "routing.sigma", "routing.routes"
SEARCHED = (RATE, DECAY, ROUTES, SIGMA)
FACTOR = "factor on optim.lr"  # the study's name of it: what the rules choose depends on batch and micro-steps
MAX_FACTOR = 8.0
DECAYS = (1e-4, 0.3)
SIGMAS = (0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True, kw_only=True)
class Space:
    """What the trials of a search choose from. A field that is empty, or None, is not searched."""

    rate: bool  # whether a factor on the learning rate is searched
    decay: float | None  # where the weight decay starts
    sigmas: list[float]
    routes: list[int]  # numbers of routes
    first_sigma: float  # what the rules choose
    first_routes: int

    @property
    def first(self) -> dict[str, Any]:
        """The choices that leave everything as the config and the rules have it: those of the first trial."""
        choices: dict[str, Any] = {FACTOR: 1.0} if self.rate else {}
        if self.decay is not None:
            choices[DECAY] = self.decay
        if self.routes:
            choices[ROUTES] = self.first_routes
        if self.sigmas and self.first_routes > 1:
            choices[SIGMA] = self.first_sigma
        return choices


def build_space(
    variant: Variant,
    given: Config,
    resolved: Config,
    num_routes: int,
    num_tasks: int,
    fit_sigma: Callable[[float], float],
) -> Space:
    """Returns what the search for a variant varies.

    Args:
        variant: What its arm and point set is not searched.
        given: The config of its runs.
        resolved: The same with every automatic choice made.
        num_routes: The routes that this has.
        num_tasks: The tasks of its runs.
        fit_sigma: Returns the nearest σ that splits the attention heads of its network.
    """
    sigma, is_free = chosen(resolved.routing.sigma), SIGMA not in variant.settings
    routes: list[int] = []
    if given.routing.routes == AUTO and (is_free or sigma < 1):
        least = 0 if is_free else 1  # one route with σ below 1 is a smaller network, nothing else
        powers = [2**i for i in range(least, num_tasks.bit_length()) if 2**i <= num_tasks]
        routes = sorted({*powers, num_routes})
    has_several = num_routes > 1 or len(routes) > 1
    decay = given.optim.weight_decay
    return Space(
        rate=RATE not in variant.settings and chosen(resolved.optim.lr) > 0,
        decay=decay if DECAY not in variant.settings and decay > 0 else None,
        sigmas=sorted({*map(fit_sigma, SIGMAS), sigma}) if is_free and has_several else [],
        routes=routes if len(routes) > 1 else [],
        first_sigma=sigma,
        first_routes=num_routes,
    )


def choose(trial: "Trial", space: Space) -> Mapping[str, Any]:
    """Lets a trial choose from a space; returns its choices by name."""
    choices: dict[str, Any] = {}
    if space.rate:
        choices[FACTOR] = trial.suggest_float(FACTOR, 1 / MAX_FACTOR, MAX_FACTOR, log=True)
    if space.decay is not None:
        low, high = min(space.decay, DECAYS[0]), max(space.decay, DECAYS[1])
        choices[DECAY] = trial.suggest_float(DECAY, low, high, log=True)
    num_routes = space.first_routes
    if space.routes:
        num_routes = choices[ROUTES] = trial.suggest_categorical(ROUTES, space.routes)
    if space.sigmas:
        # one route has no use for a σ
        choices[SIGMA] = trial.suggest_categorical(SIGMA, space.sigmas) if num_routes > 1 else 1.0
    return choices
