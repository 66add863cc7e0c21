"""Which tasks share a route: what each value of `routing.routes` makes of the tasks and of their training labels."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.train_labels import NAMES, config_of, groups_of, labels_of
from matl_scale.data.shards.labels import Labels
from matl_scale.errors import InputError
from matl_scale.models.routing_config import RoutingConfig
from matl_scale.routes import Routes
from matl_scale.runs.routes import read_routes, write_routes
from matl_scale.train.choose_routes import (
    TrainLabels,
    check_resumed_routes,
    choose_routes,
)


def test_task_and_one() -> None:
    chosen = choose_routes(config_of("task"), labels_of())
    assert chosen.routes == Routes.one_per_task(NAMES)
    assert (chosen.setting, chosen.reason) == ("task", "")
    chosen = choose_routes(config_of("one"), labels_of())
    assert groups_of(chosen.routes) == [[0, 1, 2, 3, 4, 5]]


def test_a_number_groups_tasks_whose_labels_go_together() -> None:
    chosen = choose_routes(config_of(3), labels_of())
    assert groups_of(chosen.routes) == [[0, 1], [2, 3], [4, 5]]
    assert chosen.routes.names == ("route_1", "route_2", "route_3")
    assert groups_of(choose_routes(config_of(2, grouping="order"), labels_of()).routes) == [[0, 1, 2], [3, 4, 5]]
    drawn = [choose_routes(config_of(2, grouping="random"), labels_of()) for _ in range(2)]
    assert drawn[0] == drawn[1]
    assert [len(tasks) for tasks in drawn[0].routes.tasks_of] == [3, 3]


@pytest.mark.parametrize(
    ("options", "labels", "setting", "why"),
    [
        (
            {},
            labels_of(),
            4,
            "has 6 labels on average, more than 1 / cost of a pass = 4; all 4 routes cost 1 × the plain network",
        ),
        ({"sigma": 0.4}, labels_of(), "task", "has 6 labels on average, not more than 1 / cost of a pass = 6.25"),
        ({"sigma": 0.7}, labels_of(), 2, "more than 1 / cost of a pass = 2.04; all 2 routes cost 0.98 × the plain"),
        ({"sigma": 0.9}, labels_of(), 2, "all 2 routes cost 1.6 × the plain network"),
        ({}, labels_of(present=0.3), "task", "not more than 1 / cost of a pass = 4"),
        (
            {"sigma": 0.6},
            labels_of(NAMES[:3]),
            "task",
            "there are only 3 tasks, not more than 1 / cost of a pass = 2.78",
        ),
        ({"sigma": 1.0}, labels_of(), "one", "with `routing.sigma` = 1 all tasks use the same units"),
        ({"sigma": 1.0, "sigmas": {"layer4": 0.5}}, labels_of(), 2, "all 2 routes cost"),
        ({}, labels_of(balanced=True), "task", "`data.balance` needs a route for every task"),
    ],
)
def test_auto_decides_by_labels_per_image(options: dict[str, Any], labels: TrainLabels, setting: Any, why: str) -> None:
    chosen = choose_routes(config_of(**options), labels)
    assert chosen.setting == setting
    assert chosen.reason.startswith(f"routing.routes auto → {setting}: ")
    assert why in chosen.reason
    # what the run's config keeps gives the same routes again
    assert choose_routes(config_of(chosen.setting, **options), labels).routes == chosen.routes


def test_auto_is_the_plain_network_where_sigma_is_open_too() -> None:
    for present in (1.0, 0.1):
        found = choose_routes(RoutingConfig(), labels_of(present=present))
        assert (found.setting, groups_of(found.routes)) == ("one", [[0, 1, 2, 3, 4, 5]])
        assert found.reason.startswith("routing.routes auto → one: the plain network")
        assert "`matl-sweep` measures" in found.reason
    assert choose_routes(RoutingConfig(), labels_of(balanced=True)).setting == "task"


def test_filled_labels_count_in_labels_per_image() -> None:
    sparse = labels_of(present=0.2, filled=[0, 1, 2, 3])
    labelled = sparse.labels.count()[4:].sum() / sparse.labels.num_samples
    assert sparse.labels_per_image() == pytest.approx(4 + labelled)
    chosen = choose_routes(config_of(sigma=0.6), sparse)
    assert f"an image has {4 + labelled:.3g} labels, filled ones too, on average" in chosen.reason
    assert sparse.select([1, 5]).filled == [0]


def test_images_without_labels_do_not_count_in_labels_per_image() -> None:
    full = labels_of()
    matrix = full.labels.at(np.arange(full.labels.num_samples))
    labels = Labels.of_matrix(np.concatenate([matrix, np.full_like(matrix, -1).repeat(5, axis=0)]))
    assert choose_routes(config_of(), TrainLabels(tasks=full.tasks, labels=labels, seed=3)).setting == 4


def test_a_mapping_and_the_file_of_a_run_name_the_routes(tmp_path: Path) -> None:
    mapping = {"head": ["hair_*", "hat"], "mouth": ["smile", "teeth"], "rest": "age"}
    chosen = choose_routes(config_of(mapping), labels_of())
    assert chosen.routes.names == ("head", "mouth", "rest")
    assert groups_of(chosen.routes) == [[0, 1, 2], [3, 4], [5]]
    path = tmp_path / "routes.parquet"
    write_routes(path, NAMES, chosen.routes)
    assert read_routes(path) == {"head": ["hat", "hair_red", "hair_grey"], "mouth": ["smile", "teeth"], "rest": ["age"]}
    again = choose_routes(config_of(str(path)), labels_of())
    assert again.routes == chosen.routes
    assert again.setting == read_routes(path), "the run's config does not depend on the other run's file"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (7, "`routing.routes` should be at most the number of tasks, 6. Got 7."),
        ({"a": "*", "b": []}, "`routing.routes.b` should name at least one task pattern. Got none."),
        ({"a": "*", "b": "hat"}, "`hat` is in `a` and in `b`"),
        ({"a": "hat", "b": ["smile", "teeth"]}, "3 are in none: hair_red, hair_grey, age"),
        ({"a": "*", "b": "cap"}, "`routing.routes.b` should match names of tasks. `cap` matches none of the 6 tasks"),
        (
            "tasks",
            "should be auto, task, one, a number, names with task patterns, or a run's routes.parquet. Got 'tasks'",
        ),
    ],
)
def test_what_does_not_fit_the_tasks_is_refused(setting: Any, message: str) -> None:
    with pytest.raises(InputError) as caught:
        choose_routes(config_of(setting), labels_of())
    assert message in str(caught.value)
    with pytest.raises(InputError, match=r"`routing\.routes` should be at least 1\. Got 0"):
        config_of(0)


def test_a_file_that_is_no_table_of_routes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "routes.parquet"
    path.write_bytes(b"no parquet")
    with pytest.raises(
        InputError, match=r"routes\.parquet should be a run's routes\.parquet, with the columns task and route"
    ):
        choose_routes(config_of(str(path)), labels_of())


@pytest.mark.parametrize(
    ("setting", "fits"),
    [
        ("auto", True),
        (3, True),
        (2, False),
        ("task", False),
        ("one", False),
        ({"x": ["hat", "hair_red"], "y": ["hair_grey", "smile"], "z": ["teeth", "age"]}, True),
        ({"x": ["hat", "smile"], "y": ["hair_grey", "hair_red"], "z": ["teeth", "age"]}, False),
    ],
)
def test_a_resumed_run_keeps_the_routes_of_its_checkpoint_or_is_refused(setting: Any, fits: bool) -> None:
    earlier = config_of(3)
    routes = choose_routes(earlier, labels_of()).routes
    arguments = (config_of(setting), earlier, routes, NAMES, Path("runs/a/checkpoints/step-1"))
    if fits:
        check_resumed_routes(*arguments)
    else:
        with pytest.raises(InputError, match=r"has 3 routes for 6 tasks, and `routing\.routes` asks for other ones"):
            check_resumed_routes(*arguments)


def test_the_way_of_grouping_belongs_to_a_number_of_routes() -> None:
    routes = choose_routes(config_of(3), labels_of()).routes
    with pytest.raises(InputError, match="asks for other ones"):
        check_resumed_routes(config_of(3, grouping="order"), config_of(3), routes, NAMES, Path("x"))


def test_the_file_of_a_run_may_have_more_tasks(tmp_path: Path) -> None:
    routes = choose_routes(config_of(3), labels_of()).routes
    write_routes(tmp_path / "routes.parquet", NAMES, routes)
    fewer = choose_routes(config_of(str(tmp_path / "routes.parquet")), labels_of(NAMES[2:])).routes
    assert fewer.names == ("route_2", "route_3")


def test_names_that_yaml_reads_as_numbers_are_names() -> None:
    chosen = choose_routes(config_of({1: "h*", 2: ["smile", "teeth", "age"]}), labels_of())
    assert chosen.routes.names == ("1", "2")
    with pytest.raises(InputError, match="Got an empty name"):
        config_of({"": "*"})


def test_hundreds_of_tasks_are_grouped_within_the_bound() -> None:
    names = [f"task_{i}" for i in range(600)]
    chosen = choose_routes(config_of(16), labels_of(names, num_samples=300))
    sizes = np.bincount(chosen.routes.route_of)
    assert len(sizes) == 16
    assert sizes.max() <= 2 * 600 / 16
    pairs = np.array(chosen.routes.route_of).reshape(-1, 2)
    assert (pairs[:, 0] == pairs[:, 1]).mean() > 0.9
