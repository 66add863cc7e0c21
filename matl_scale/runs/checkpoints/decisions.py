"""The decisions that belong to a network: those in its folder, or the prior correction alone."""

from pathlib import Path

from matl_scale.decisions.table import Decisions, read_decisions, unfitted_decisions
from matl_scale.errors import InputError, shortened
from matl_scale.runs.checkpoints.checkpoint import CheckpointInfo
from matl_scale.runs.layout import DECISIONS_FILE


def decisions_path(checkpoint: CheckpointInfo) -> Path:
    """Returns where the decisions of a network are, if any were fitted."""
    return checkpoint.folder / DECISIONS_FILE


def open_decisions(checkpoint: CheckpointInfo) -> Decisions:
    """Returns the decisions that were fitted for a network; where none were, the most probable class after the prior correction.

    Raises:
        InputError: The file beside the network cannot be read, or belongs to another network.
    """
    path = decisions_path(checkpoint)
    if not path.is_file():
        return unfitted_decisions(checkpoint.tasks, checkpoint.prior_offsets, checkpoint.sha256, checkpoint.step)
    decisions = read_decisions(path)
    remedy = "Fit them again (matl-decide RUN), or delete the file: then the most probable class is decided."
    if decisions.info.network != checkpoint.sha256:
        raise InputError(f"{path} has the decisions of another network, of step {decisions.info.step:,}. {remedy}")
    fitting = {name: rule.num_classes for name, rule in decisions.rules.items()}
    if fitting != checkpoint.tasks:
        odd = dict(sorted(fitting.items() ^ checkpoint.tasks.items()))
        raise InputError(f"{path} does not fit the network's tasks: {shortened(odd)}. {remedy}")
    return decisions
