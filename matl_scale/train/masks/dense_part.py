"""The dense part of a run with the strategy `magnitude`: its steps, and in which of them it is measured how much units matter."""

import itertools
from dataclasses import dataclass
from pathlib import Path

from matl_scale.errors import InputError, shortened
from matl_scale.routes import Routes
from matl_scale.runs.checkpoints.checkpoint import load_state, open_checkpoint
from matl_scale.train.length import TOLERANCE, FirstPart, Length
from matl_scale.train.step.sampling import RouteSampler


@dataclass(frozen=True, kw_only=True)
class DensePart(FirstPart):
    """The first part of a run, in which every route has all units. Importance is measured in its second half: what a network says
    of its units before it has learned anything is noise."""

    def is_measured(self, step: int) -> bool:
        """Returns whether importance is measured in the step that follows `step` steps."""
        return not self.is_over(step) and self.length.progress(step + 1) > self.share / 2 + TOLERANCE

    @property
    def num_steps(self) -> int:
        """The number of its steps, if the run is as long as it says now."""
        return next(step for step in itertools.count(int(self.share * self.length.num_steps)) if self.is_over(step))


def check_dense_part(share: float, num_steps: int, sampler: RouteSampler, routes: Routes) -> None:
    """Raises `InputError` if the dense part is the whole run, or too short to measure every route at least once. Routes without
    samples have nothing to measure, and are refused too."""
    part = DensePart(share=share, length=Length(num_steps=num_steps))
    if part.num_steps >= num_steps:
        raise InputError(
            f"`routing.dense_share` = {share:g} of {num_steps} steps leaves none to train the sub-networks in. Train longer "
            "(`train.steps`), or lower it."
        )
    missing = set(range(routes.num_routes))
    for step in filter(part.is_measured, range(part.num_steps)):
        missing.difference_update(sampler.routes(step).tolist())
        if not missing:
            return
    names = shortened([routes.names[route_id] for route_id in sorted(missing)])
    raise InputError(
        f"`routing.dense_share` = {share:g} of {num_steps} steps has {part.num_steps} dense steps, and it is measured in the "
        f"second half of them which units matter to a route: {len(missing)} of {routes.num_routes} routes are never drawn there "
        f"({names}). "
        "Raise it, train longer (`train.steps`), use fewer routes (`routing.routes`), or `tasks.policy` rounds."
    )


def read_dense_draws(folder: Path) -> list[int]:
    """Returns how many slots each route of a finished run had in its dense part."""
    draws: list[int] = load_state(open_checkpoint(folder))["dense_draws"].tolist()
    return draws
