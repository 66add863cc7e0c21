"""The routes of a run that starts with another one's network: old tasks stay where they are, new ones go where they are told."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from helpers.train_labels import NAMES, config_of, groups_of, labels_of
from matl_scale.data.shards.labels import Labels
from matl_scale.errors import InputError
from matl_scale.routes import Routes
from matl_scale.train.add_tasks import check_whole_heads, extend_routes
from matl_scale.train.choose_routes import choose_routes


def old_and_new(setting: Any, new: list[str], **options: Any) -> tuple[Routes, Any]:
    """Starts with three routes for the six tasks, and returns the routes with new tasks, which come last."""
    old = choose_routes(config_of(3), labels_of()).routes
    chosen = extend_routes(config_of(setting), labels_of([*NAMES, *new], **options), old, NAMES)
    assert chosen.routes.names[:3] == old.names
    assert chosen.routes.route_of[:6] == old.route_of
    assert chosen.routes.head_of[:6] == old.head_of
    return chosen.routes, chosen.setting


def test_new_tasks_join_the_route_that_their_labels_go_with() -> None:
    labels = labels_of([*NAMES, "beard"])
    matrix = labels.labels.at(np.arange(400))
    matrix[:, 6] = matrix[:, 2]
    labels = replace(labels, labels=Labels.of_matrix(matrix))
    old = choose_routes(config_of(3), labels_of()).routes
    chosen = extend_routes(config_of(), labels, old, NAMES)
    assert chosen.routes.route_of[6] == old.route_of[2]
    assert chosen.routes.head_of[6] not in old.head_of, "a matrix of its own, so that older logits keep every bit"
    assert chosen.setting == 3
    assert "1 new tasks join the route that their labels go with" in chosen.reason


def test_new_tasks_without_a_common_image_get_new_routes() -> None:
    labels = labels_of([*NAMES, "cat", "dog"])
    matrix = labels.labels.at(np.arange(400))
    matrix[:200, 6:] = -1
    matrix[200:, :6] = -1
    labels = replace(labels, labels=Labels.of_matrix(matrix))
    old = choose_routes(config_of(3), labels_of()).routes
    chosen = extend_routes(config_of(), labels, old, NAMES)
    assert set(chosen.routes.route_of[6:]).isdisjoint(old.route_of)
    assert "2 have too few labelled images in common with any, and get 2 new routes" in chosen.reason


def test_new_tasks_go_where_the_setting_says() -> None:
    routes, _ = old_and_new("task", ["cat", "dog"])
    assert routes.names[3:] == ("cat", "dog")
    routes, _ = old_and_new(4, ["cat", "dog"])
    assert routes.route_of[6:] == (3, 3)
    mapping = {
        "route_1": ["hat", "hair_red", "cat"],
        "route_2": ["hair_grey", "smile"],
        "route_3": ["teeth", "age"],
        "x": "dog",
    }
    routes, setting = old_and_new(mapping, ["cat", "dog"])
    assert [routes.names[route] for route in routes.route_of[6:]] == ["route_1", "x"]
    assert setting["x"] == ["dog"]


@pytest.mark.parametrize("setting", ["auto", 2, "task"])
def test_routes_of_tasks_that_are_gone_hand_nothing_on(setting: Any) -> None:
    old = choose_routes(config_of(4), labels_of()).routes
    chosen = extend_routes(config_of(setting), labels_of(["a", "b", "c"]), old, NAMES)
    assert set(chosen.routes.names).isdisjoint(old.names)
    kept = extend_routes(config_of(4), labels_of(["hat", "hair_red", "a", "b", "c", "d"]), old, NAMES)
    assert set(kept.routes.names) & set(old.names) == {old.names[old.route_of[0]], old.names[old.route_of[1]]}


def test_frozen_logits_need_all_tasks_of_an_old_route() -> None:
    old = choose_routes(config_of(3), labels_of()).routes
    check_whole_heads(labels_of([*NAMES, "cat"]), old, NAMES)
    check_whole_heads(labels_of(["hair_grey", "smile", "cat"]), old, NAMES)
    with pytest.raises(
        InputError, match=r"hair_red were trained beside others that this run has: keep them in `data\.tasks`"
    ):
        check_whole_heads(labels_of(["hat", "cat"]), old, NAMES)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"route_1": ["hat"], "other": ["[!h]*", "hair*"]}, "`hair_red` is on `route_1` there, not on `other`"),
        ("one", "the network to start from has 3 routes"),
        (2, "should be from 3, the routes of the network to start from, to 4"),
    ],
)
def test_old_tasks_are_not_moved(setting: Any, message: str) -> None:
    with pytest.raises(InputError) as caught:
        old_and_new(setting, ["cat"])
    assert message in str(caught.value)


def test_tasks_that_are_left_out_take_their_routes_with_them() -> None:
    old = choose_routes(config_of(3), labels_of()).routes
    chosen = extend_routes(config_of(), labels_of(NAMES[2:]), old, NAMES)
    assert chosen.routes.names == ("route_2", "route_3")
    assert groups_of(chosen.routes) == [[0, 1], [2, 3]]
