"""What reports say of the decisions of a run's best network."""

import numpy as np

from matl_scale.decisions.table import Decisions
from matl_scale.errors import shortened
from matl_scale.metrics.names import METRIC_LABELS
from matl_scale.metrics.task_metrics import mean


def describe_decisions(decisions: Decisions) -> str:
    """Returns for what and on what decisions were fitted, and what that did to the probabilities, in one line."""
    info = decisions.info
    aims = ", ".join(decisions.distinct_aims())
    text = f"for {aims}, fitted on {info.split} with the network of step {info.step:,}"
    before, after = (mean(decisions.measured[name]) for name in ("ece_as_trained", "ece"))
    if np.isnan(after):  # no task of the split has labels
        return text
    return f"{text}; mean {METRIC_LABELS['ece']} {before:.4f} as trained, {after:.4f} calibrated"


def describe_notes(decisions: Decisions, limit: int) -> list[str]:
    """Returns a line for each thing that is to be said of some tasks, with the names of at most `limit` of them."""
    by_note: dict[str, list[str]] = {}
    for name, note in decisions.notes().items():
        what, _, detail = note.partition("; ")
        by_note.setdefault(what, []).append(f"{name} ({detail})" if detail else name)
    return [f"{what}: {len(names)} tasks: {shortened(names, limit)}" for what, names in by_note.items()]
