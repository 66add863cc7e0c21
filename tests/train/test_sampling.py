"""Which task is active where."""

from collections import Counter

import numpy as np
import pytest

from matl_scale import InputError
from matl_scale.train.step.sampling import TaskSampler, TasksConfig, build_sampler

SHAPES = [(10, 1), (10, 2), (10, 3), (10, 4), (10, 10), (7, 4), (7, 5), (7, 6), (175, 2), (9, 8), (3, 8), (1, 4)]


@pytest.mark.parametrize(("num_tasks", "num_slots"), SHAPES)
def test_rounds_have_every_task_once_and_no_step_repeats_one(num_tasks: int, num_slots: int) -> None:
    sampler = TaskSampler(seed=0, num_tasks=num_tasks, num_slots=num_slots)
    steps = [sampler.tasks(step) for step in range(12 * num_tasks)]
    sequence = np.concatenate(steps)
    for start in range(0, len(sequence) - num_tasks + 1, num_tasks):
        assert sorted(sequence[start : start + num_tasks]) == list(range(num_tasks))
    if num_tasks >= num_slots:
        assert all(len(set(tasks.tolist())) == num_slots for tasks in steps)
    if num_tasks > 3:
        assert len({tuple(sequence[s : s + num_tasks]) for s in range(0, 12 * num_tasks, num_tasks)}) > 10


@pytest.mark.parametrize(("num_tasks", "num_slots"), SHAPES)
def test_a_step_does_not_depend_on_the_steps_asked_for_before(num_tasks: int, num_slots: int) -> None:
    in_order = TaskSampler(seed=5, num_tasks=num_tasks, num_slots=num_slots)
    expected = [in_order.tasks(step).tolist() for step in range(60)]
    for step in (59, 0, 31, 32, 7, 58):
        assert TaskSampler(seed=5, num_tasks=num_tasks, num_slots=num_slots).tasks(step).tolist() == expected[step]
    jumping = TaskSampler(seed=5, num_tasks=num_tasks, num_slots=num_slots)
    assert [jumping.tasks(step).tolist() for step in (40, 3, 4, 41)] == [expected[step] for step in (40, 3, 4, 41)]


def test_rounds_are_a_function_of_place_so_ranks_can_be_exchanged_for_micro_steps() -> None:
    four = TaskSampler(seed=1, num_tasks=10, num_slots=4)
    assert four.tasks(3).tolist() == TaskSampler(seed=1, num_tasks=10, num_slots=2 * 2).tasks(3).tolist()


def draws(config: TasksConfig, labelled: list[int], names: list[str] | None = None) -> Counter[int]:
    names = names or [f"t{i}" for i in range(len(labelled))]
    sampler = build_sampler(config, names, np.array(labelled), seed=0, num_slots=4)
    return Counter(np.concatenate([sampler.tasks(step) for step in range(3000)]).tolist())


def test_uniform_draws_independently() -> None:
    counts = draws(TasksConfig(policy="uniform"), [1, 10, 100])
    assert all(abs(counts[task] / 12000 - 1 / 3) < 0.02 for task in range(3))


def test_size_follows_the_labels() -> None:
    counts = draws(TasksConfig(policy="size", alpha=0.5), [100, 400, 900])
    assert all(abs(counts[task] / 12000 - (task + 1) / 6) < 0.02 for task in range(3))


def test_weights_by_pattern() -> None:
    config = TasksConfig(policy="weights", weights={"a*": 0.0, "b": 3.0})
    counts = draws(config, [1, 1, 1], ["a1", "b", "c"])
    assert counts[0] == 0
    assert abs(counts[1] / 12000 - 0.75) < 0.02


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"policy": "weights", "weights": {"nothing": 1.0}}, "matches none"),
        ({"policy": "weights", "weights": {"*": 0.0}}, "above zero"),
    ],
)
def test_useless_weights_are_refused(config: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        build_sampler(TasksConfig(**config), ["a", "b"], np.ones(2), seed=0, num_slots=1)


def test_weights_without_their_policy_are_refused() -> None:
    with pytest.raises(InputError, match=r"`tasks\.weights` should be empty"):
        TasksConfig(policy="rounds", weights={"a": 1.0})
