"""`routing.strategy` affinity in a run: how close routes are by their training labels, and what is said and refused."""

from typing import Any

import numpy as np
import pytest

from helpers.train_labels import config_of, labels_of
from matl_scale.data.shards.labels import Labels
from matl_scale.data.shards.layout import MISSING
from matl_scale.errors import InputError
from matl_scale.train.choose_routes import ChosenRoutes, TrainLabels, choose_routes
from matl_scale.train.lay_masks import add_closeness


def add(labels: TrainLabels, routes: Any, **options: Any) -> ChosenRoutes:
    config = config_of(routes, strategy="affinity", **options)
    return add_closeness(choose_routes(config, labels), config, labels)


def apart(labels: TrainLabels, tasks: list[int]) -> TrainLabels:
    """Returns labels of which those of some tasks are on images of their own."""
    values = labels.labels.at(np.arange(labels.labels.num_samples))
    others = [task for task in range(values.shape[1]) if task not in tasks]
    values[np.ix_(np.arange(200), tasks)] = MISSING
    values[np.ix_(np.arange(200, len(values)), others)] = MISSING
    return TrainLabels(tasks=labels.tasks, labels=Labels.of_matrix(values), seed=labels.seed)


def test_routes_whose_tasks_go_together_are_close() -> None:
    labels = labels_of()
    found = add(labels, "task")
    assert found.closeness is not None
    pairs = np.zeros((6, 6), dtype=bool)
    pairs[[0, 2, 4], [1, 3, 5]] = pairs[[1, 3, 5], [0, 2, 4]] = True
    beside = ~np.eye(6, dtype=bool)
    assert found.closeness[pairs].min() > 0.7
    assert found.closeness[beside & ~pairs].max() < 0.2
    assert "labels of two routes have an association of 0.00 to 0." in found.mask_note

    shared = add(labels, 2, grouping="order")
    assert shared.closeness is not None
    affinity = labels.affinity()
    assert shared.closeness[0, 1] == pytest.approx(np.mean([affinity[a, b] for a in range(3) for b in range(3, 6)]))
    assert shared.closeness[0, 1] == shared.closeness[1, 0]


def test_labels_that_never_meet_are_said_to_be_unknown() -> None:
    found = add(apart(labels_of(), [4, 5]), "task")
    assert found.closeness is not None
    assert np.isnan(found.closeness[:4, 4:]).all()
    assert "for 8 of 15 pairs it is unknown (fewer than 20 training images have labels of both)" in found.mask_note
    labels = labels_of()
    values = np.where(np.arange(400)[:, None] % 6 == np.arange(6), labels.labels.at(np.arange(400)), MISSING).astype(
        np.int8
    )
    alone = add(TrainLabels(tasks=labels.tasks, labels=Labels.of_matrix(values), seed=0), "task")
    assert "is unknown for all 15 pairs of routes" in alone.mask_note
    assert alone.mask_note.endswith("so masks are those of the strategy random")


@pytest.mark.parametrize(
    ("routes", "options", "problem"),
    [
        ("one", {}, "there is one route alone"),
        ("task", {"sigma": 1.0}, "with `routing.sigma` = 1 every route has all units"),
        ("task", {"sigma": 1.0, "sigmas": {"layer4": 1.0}}, "every route has all units"),
    ],
)
def test_where_no_masks_can_differ_it_is_refused(routes: str, options: dict[str, Any], problem: str) -> None:
    with pytest.raises(InputError, match=f"`routing.strategy` = affinity .*{problem}.*or for the strategy random"):
        add(labels_of(), routes, **options)
    add(labels_of(), "task", sigma=1.0, sigmas={"layer4": 0.5})
