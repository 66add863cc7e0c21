"""Which route is active where."""

from collections import Counter

import numpy as np
import pytest

from matl_scale import InputError
from matl_scale.train.step.sampling import Policy, RouteSampler, TasksConfig, build_sampler

SHAPES = [(10, 1), (10, 2), (10, 3), (10, 4), (10, 10), (7, 4), (7, 5), (7, 6), (175, 2), (9, 8), (3, 8), (1, 4)]


@pytest.mark.parametrize(("num_routes", "num_slots"), SHAPES)
def test_rounds_have_every_route_once_and_no_step_repeats_one(num_routes: int, num_slots: int) -> None:
    sampler = RouteSampler(seed=0, num_routes=num_routes, num_slots=num_slots)
    steps = [sampler.routes(step) for step in range(12 * num_routes)]
    sequence = np.concatenate(steps)
    for start in range(0, len(sequence) - num_routes + 1, num_routes):
        assert sorted(sequence[start : start + num_routes]) == list(range(num_routes))
    if num_routes >= num_slots:
        assert all(len(set(routes.tolist())) == num_slots for routes in steps)
    if num_routes > 3:
        assert len({tuple(sequence[s : s + num_routes]) for s in range(0, 12 * num_routes, num_routes)}) > 10


@pytest.mark.parametrize(("num_routes", "num_slots"), SHAPES)
def test_a_step_does_not_depend_on_the_steps_asked_for_before(num_routes: int, num_slots: int) -> None:
    in_order = RouteSampler(seed=5, num_routes=num_routes, num_slots=num_slots)
    expected = [in_order.routes(step).tolist() for step in range(60)]
    for step in (59, 0, 31, 32, 7, 58):
        assert RouteSampler(seed=5, num_routes=num_routes, num_slots=num_slots).routes(step).tolist() == expected[step]
    jumping = RouteSampler(seed=5, num_routes=num_routes, num_slots=num_slots)
    assert [jumping.routes(step).tolist() for step in (40, 3, 4, 41)] == [expected[step] for step in (40, 3, 4, 41)]


def test_rounds_are_a_function_of_place_so_ranks_can_be_exchanged_for_micro_steps() -> None:
    four = RouteSampler(seed=1, num_routes=10, num_slots=4)
    assert four.routes(3).tolist() == RouteSampler(seed=1, num_routes=10, num_slots=2 * 2).routes(3).tolist()


def draws(config: TasksConfig, samples: list[int], names: list[str] | None = None) -> Counter[int]:
    names = names or [f"r{i}" for i in range(len(samples))]
    sampler = build_sampler(config, names, np.array(samples), seed=0, num_slots=4)
    return Counter(np.concatenate([sampler.routes(step) for step in range(3000)]).tolist())


def test_uniform_draws_independently() -> None:
    counts = draws(TasksConfig(policy="uniform"), [1, 10, 100])
    assert all(abs(counts[route] / 12000 - 1 / 3) < 0.02 for route in range(3))


def test_size_follows_the_samples() -> None:
    counts = draws(TasksConfig(policy="size", alpha=0.5), [100, 400, 900])
    assert all(abs(counts[route] / 12000 - (route + 1) / 6) < 0.02 for route in range(3))


def test_weights_by_pattern() -> None:
    config = TasksConfig(policy="weights", weights={"a*": 0.0, "b": 3.0})
    counts = draws(config, [1, 1, 1], ["a1", "b", "c"])
    assert counts[0] == 0
    assert abs(counts[1] / 12000 - 0.75) < 0.02


@pytest.mark.parametrize("policy", ["rounds", "uniform", "size"])
def test_a_route_without_samples_is_never_drawn(policy: Policy) -> None:
    counts = draws(TasksConfig(policy=policy), [5, 0, 5, 0, 5])
    assert sorted(counts) == [0, 2, 4]
    assert all(abs(counts[route] / 12000 - 1 / 3) < 0.02 for route in (0, 2, 4))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"policy": "weights", "weights": {"nothing": 1.0}}, "matches none of the 2 routes"),
        ({"policy": "weights", "weights": {"*": 0.0}}, "above zero"),
    ],
)
def test_useless_weights_are_refused(config: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        build_sampler(TasksConfig(**config), ["a", "b"], np.ones(2), seed=0, num_slots=1)


def test_weights_without_their_policy_are_refused() -> None:
    with pytest.raises(InputError, match=r"`tasks\.weights` should be empty"):
        TasksConfig(policy="rounds", weights={"a": 1.0})
