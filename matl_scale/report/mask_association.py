"""Whether routes whose labels go together share more of the trunk, of a run's routing masks and its shard set."""

import numpy as np

from matl_scale.data.shards.label_association import cramers_v, mean_between_routes
from matl_scale.data.shards.open_labels import open_labels
from matl_scale.errors import InputError
from matl_scale.report.mask_overlap import mask_overlap, read_masks
from matl_scale.report.shard_set import open_shard_set
from matl_scale.runs.history import RunHistory

FOLLOWING = ("affinity",)  # strategies whose masks follow the association of labels
MIN_PAIRS = 3  # for a rank correlation


def strategy_of(run: RunHistory) -> str:
    """Returns the strategy of a run's masks; empty if its config does not say it."""
    return str(run.setting("routing", "strategy") or "")


def route_association(run: RunHistory, tasks: list[str]) -> np.ndarray | None:
    """Returns how strongly the labels of routes go together, shape `(num_routes, num_routes)`, see `mean_between_routes`; None
    if the shard set or a task is gone."""
    association, number_of = label_association(run, tasks), {name: i for i, name in enumerate(run.routes)}
    return (
        None if association is None else mean_between_routes(association, [number_of[run.route_of[t]] for t in tasks])
    )


def label_association(run: RunHistory, tasks: list[str]) -> np.ndarray | None:
    """Returns the bias-corrected Cramér's V of the labels of all pairs of tasks over the images for training, which masks
    and groups follow; None if the shard set or a task is gone."""
    try:
        manifest = open_shard_set(run, str(run.setting("data", "version") or ""))
        number_of = {name: i for i, name in enumerate(manifest.task_names)}
        task_ids = [number_of[name] for name in tasks]
        labels = open_labels(manifest, task_ids).labels.of_samples(manifest.sample_ids("train"))
    except (InputError, ValueError, OSError, KeyError, TypeError):
        return None
    return cramers_v(labels, [manifest.tasks[i] for i in task_ids])


def correlate(overlap: np.ndarray, association: np.ndarray) -> float | None:
    """Returns the rank correlation (Spearman) of the overlap of pairs of routes and the association of their labels, both of
    shape `(num_pairs,)`, over the pairs of which it is known; None if too few are, or all are alike."""
    known = np.isfinite(association)
    if known.sum() < MIN_PAIRS or np.ptp(overlap[known]) == 0 or np.ptp(association[known]) == 0:
        return None
    return float(np.corrcoef(rank(overlap[known]), rank(association[known]))[0, 1])


def rank(values: np.ndarray) -> np.ndarray:
    """Returns the rank of each value, equal ones the mean of theirs, shape `(num_values,)`. That of scipy.stats takes seconds to
    import."""
    _, index, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: np.ndarray = (np.cumsum(counts) - (counts - 1) / 2)[index]
    return ranks


def describe_association(overlap: np.ndarray, association: np.ndarray | None, strategy: str) -> list[str]:
    """Says whether routes whose labels are associated share more units, and whether the strategy of the masks should bring that
    about; both arrays have shape `(num_pairs,)`."""
    if association is None:
        return ["The association of labels is unknown: the shard set is no longer there, or has other tasks now."]
    known = np.isfinite(association)
    rank = correlate(overlap, association)
    if rank is None:
        return ["Overlap and labels cannot be compared: all pairs are alike, or too few have labels of both tasks."]
    text = (
        f"Rank correlation of overlap and label association (bias-corrected Cramér's V) over {known.sum():,} pairs: {rank:+.3f}. "
        f"Masks that do not depend on labels have about 0, give or take {1 / np.sqrt(known.sum() - 1):.2f}"
    )
    if strategy not in FOLLOWING:
        return [f"{text}."]
    text += f"; the strategy {strategy} gives routes the more units in common, the stronger their association"
    if not known.all():
        text += (
            f". Of {np.count_nonzero(~known):,} pairs the association is unknown; they count as unrelated, and have "
            f"{overlap[~known].mean():.1%} of their units in common on average"
        )
    return [f"{text}."]


def summarise_following(run: RunHistory, tasks: list[str]) -> str:
    """Says, in a line, how masks that should follow the association of labels do; empty for other strategies, one route, or
    where that cannot be said. `tasks` are all tasks of the run."""
    masks = read_masks(run.folder) if strategy_of(run) in FOLLOWING else None
    matrix = None if masks is None or len(run.routes) == 1 else route_association(run, tasks)
    if masks is None or matrix is None:
        return ""
    pairs = np.tril_indices(len(run.routes), -1)
    overlap = mask_overlap(masks)[pairs]
    rank = correlate(overlap, matrix[pairs])
    follows = (
        "cannot be compared with that of labels"
        if rank is None
        else f"rank correlation with label association {rank:+.3f}"
    )
    return f"mask overlap of routes {overlap.min():.1%} to {overlap.max():.1%}, mean {overlap.mean():.1%}; {follows}"
