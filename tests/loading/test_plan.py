"""The data plan as a pure function: every task its own samples, for every number of ranks and workers."""

from itertools import islice

import numpy as np
import pytest

from matl_scale.data.loading.plan import SlotPlan, TaskOrder, plan_evaluation, shuffle
from matl_scale.train.step.sampling import TaskSampler

NUM_TASKS = 5


def build_labels() -> np.ndarray:
    """Returns labels of 80 samples: task 3 has three of them, task 4 one, the others most."""
    labels = np.random.default_rng(0).integers(-1, 3, (80, NUM_TASKS)).astype(np.int8)
    labels[:, 3:] = -1
    labels[[10, 25, 60], 3] = [0, 1, 0]
    labels[30, 4] = 1
    return labels


def build_order(batch_size: int = 8, seed: int = 0, balance: float = 0.0) -> TaskOrder:
    return TaskOrder(seed, batch_size, build_labels(), np.arange(7, 77), balance)


def read(
    world_size: int, num_workers: int, steps: int, slots: int, first_step: int = 0, draws: np.ndarray | None = None
) -> dict:  # type: ignore[type-arg]
    """Reads as the ranks' loaders do, worker after worker, and returns the task and samples of every slot by its index."""
    sampler = TaskSampler(0, NUM_TASKS, slots)
    before = np.zeros(NUM_TASKS, dtype=np.int64) if draws is None else draws
    plan = SlotPlan(build_order(), sampler.tasks, world_size, first_step, before)
    found = {}
    for rank in range(world_size):
        workers = [plan.batches(rank=rank, worker=worker, num_workers=num_workers) for worker in range(num_workers)]
        for local in range(steps * slots // world_size):
            batch = next(workers[local % num_workers])
            assert batch.index % slots % world_size == rank
            found[batch.index] = (batch.active_task, batch.sample_ids.tolist())
    return found


@pytest.mark.parametrize("world_size", [1, 2, 3, 6])
@pytest.mark.parametrize("num_workers", [1, 2, 3, 5])
def test_any_ranks_and_workers_read_the_same_sequence(world_size: int, num_workers: int) -> None:
    found = read(world_size, num_workers, steps=10, slots=6)
    assert found == read(1, 1, steps=10, slots=6)
    assert sorted(found) == list(range(60))


@pytest.mark.parametrize(("world_size", "num_workers"), [(1, 1), (2, 2), (3, 4)])
def test_reading_from_a_position_equals_reading_on(world_size: int, num_workers: int) -> None:
    whole = read(world_size, num_workers, steps=10, slots=6)
    draws = np.bincount([task for index, (task, _) in whole.items() if index < 24], minlength=NUM_TASKS)
    rest = read(world_size, num_workers + 1, steps=6, slots=6, first_step=4, draws=draws)
    assert rest == {index: batch for index, batch in whole.items() if index >= 24}


@pytest.mark.parametrize("task", [0, 1, 2])
def test_an_epoch_of_a_task_has_each_of_its_samples_once(task: int) -> None:
    order, labels = build_order(), build_labels()
    wanted = [row for row in range(7, 77) if labels[row, task] >= 0]
    rows = np.concatenate([order.batch(task, number) for number in range(len(wanted))])
    assert len(rows) == 8 * len(wanted)
    epochs = rows.reshape(8, len(wanted))
    assert all(sorted(epoch) == wanted for epoch in epochs.tolist())
    assert len({tuple(epoch) for epoch in epochs.tolist()}) == 8


def test_tasks_with_few_samples() -> None:
    order = build_order()
    assert {tuple(sorted(order.batch(3, number).tolist())) for number in range(6)} == {(10, 25, 60)}
    assert len({tuple(order.batch(3, number).tolist()) for number in range(30)}) == 6
    assert order.batch(4, 0).tolist() == [30, 31]  # batch norm needs a companion


def test_rows_in_pieces_are_the_same_as_in_a_span() -> None:
    labels = build_labels()
    pieces = np.delete(np.arange(80), [20, 50])
    order = TaskOrder(0, 100, labels, pieces)
    assert sorted(order.batch(0, 0).tolist()) == [row for row in pieces.tolist() if labels[row, 0] >= 0]


def test_seeds_and_tasks_give_other_orders() -> None:
    batches = {tuple(build_order(seed=seed).batch(task, 0).tolist()) for seed in range(4) for task in range(2)}
    assert len(batches) == 8


@pytest.mark.parametrize("balance", [0.5, 1.0])
def test_balance_draws_classes_more_evenly(balance: float) -> None:
    labels = np.zeros((1000, 1), dtype=np.int8)
    labels[:20] = 1
    order = TaskOrder(0, 50, labels, np.arange(1000), balance)
    counts, shares = order.class_weights(0)
    expected = np.array([980.0, 20.0]) ** (1 - balance)
    np.testing.assert_allclose(shares, expected / expected.sum())
    assert counts.tolist() == [980, 20]
    drawn = np.concatenate([labels[order.batch(0, number), 0] for number in range(200)])
    assert abs(drawn.mean() - shares[1]) < 0.02
    assert order.batch(0, 3).tolist() == TaskOrder(0, 50, labels, np.arange(1000), balance).batch(0, 3).tolist()


@pytest.mark.parametrize("count", [1, 2, 3, 7, 8, 9, 100, 1025])
def test_shuffle_is_a_permutation(count: int) -> None:
    for seed in range(5):
        assert sorted(shuffle(np.arange(count), count, seed).tolist()) == list(range(count))


def test_every_permutation_is_about_as_likely() -> None:
    drawn = [tuple(shuffle(np.arange(4), 4, seed).tolist()) for seed in range(4800)]
    counts = np.array([drawn.count(one) for one in set(drawn)])
    assert len(counts) == 24
    assert ((counts - 200) ** 2 / 200).sum() < 50  # chi-squared with 23 degrees of freedom: one in a thousand


def test_a_position_costs_no_permutation() -> None:
    shuffled = shuffle(np.array([0, 5, 10**11]), 10**12, seed=1)
    assert ((shuffled >= 0) & (shuffled < 10**12)).all()


def test_the_sequence_is_endless_and_lazy() -> None:
    sampler = TaskSampler(0, NUM_TASKS, 2)
    plan = SlotPlan(build_order(), sampler.tasks, 1, 10**6, np.full(NUM_TASKS, 10**6))
    assert [batch.index for batch in islice(plan.batches(rank=0, worker=0, num_workers=1), 2)] == [
        2 * 10**6,
        2 * 10**6 + 1,
    ]


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
@pytest.mark.parametrize("num_workers", [1, 2, 4])
@pytest.mark.parametrize("count", [1, 4, 7, 30])
def test_evaluation_has_every_sample_once(world_size: int, num_workers: int, count: int) -> None:
    sample_ids = np.arange(count) * 3 + 1
    batches = [
        batch.sample_ids
        for rank in range(world_size)
        for worker in range(num_workers)
        for batch in plan_evaluation(
            sample_ids, 4, rank=rank, world_size=world_size, worker=worker, num_workers=num_workers
        )
    ]
    assert sorted(np.concatenate(batches).tolist()) == sample_ids.tolist()
    assert max(len(batch) for batch in batches) <= 4
