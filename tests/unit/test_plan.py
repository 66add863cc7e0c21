"""The data plan as a pure function, for every world size and number of workers."""

from itertools import islice, pairwise

import numpy as np
import pytest

from matl_scale.data.plan import TrainPlan, plan_evaluation

SIZES = [17, 3, 40, 8, 1]


def build_plan(batch_size: int = 4, window: int = 2, seed: int = 0) -> TrainPlan:
    ends = np.cumsum([0, *SIZES])
    rows = [np.arange(start, end) for start, end in pairwise(ends)]
    return TrainPlan(seed=seed, batch_size=batch_size, shard_rows=rows, window=window)


def read(plan: TrainPlan, world_size: int, num_workers: int, steps: int, first: int = 0) -> dict[int, list[int]]:
    """Reads as the ranks' loaders do, worker after worker, and returns the rows of every batch by its place."""
    batches: dict[int, list[int]] = {}
    for rank in range(world_size):
        readers = [
            plan.batches_of(rank=rank, world_size=world_size, worker=worker, num_workers=num_workers, first=first)
            for worker in range(num_workers)
        ]
        order = []
        for step in range(steps):
            index, rows = next(readers[step % num_workers])
            order.append(index)
            batches[index] = rows.tolist()
        assert order == [(first + step) * world_size + rank for step in range(steps)]
    return batches


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("num_workers", [1, 2, 3, 5])
def test_any_ranks_and_workers_read_the_same_sequence(world_size: int, num_workers: int) -> None:
    plan = build_plan()
    steps = 60 // world_size
    batches = read(plan, world_size, num_workers, steps)
    assert sorted(batches) == list(range(steps * world_size))
    assert all(batches[index] == plan.batch(index).tolist() for index in batches)


def test_an_epoch_has_no_sample_twice_and_every_order_differs() -> None:
    plan = build_plan()
    orders = []
    for epoch in range(4):
        first = epoch * plan.batches_per_epoch
        rows = np.concatenate([plan.batch(first + i) for i in range(plan.batches_per_epoch)])
        assert len(set(rows.tolist())) == len(rows) == plan.num_samples // 4 * 4
        assert sorted(plan.epoch_order(epoch).tolist()) == list(range(sum(SIZES)))
        orders.append(rows.tolist())
    assert len({tuple(order) for order in orders}) == 4


def test_the_samples_that_an_epoch_leaves_out_change() -> None:
    plan = build_plan()
    rests = {tuple(sorted(plan.epoch_order(epoch)[plan.batches_per_epoch * 4 :].tolist())) for epoch in range(5)}
    assert len(rests) > 1


@pytest.mark.parametrize(("world_size", "num_workers"), [(1, 1), (2, 2), (4, 3)])
def test_reading_from_a_position_equals_reading_on(world_size: int, num_workers: int) -> None:
    whole = read(build_plan(), world_size, num_workers, steps=20)
    rest = read(build_plan(), world_size, num_workers + 1, steps=13, first=7)
    assert rest == {index: rows for index, rows in whole.items() if index >= 7 * world_size}


def test_a_window_keeps_shards_together() -> None:
    plan = build_plan(window=1)
    shard_of = np.repeat(np.arange(len(SIZES)), SIZES)
    visited = shard_of[plan.epoch_order(0)]
    assert (np.diff(visited) != 0).sum() == len(SIZES) - 1


def test_seeds_give_other_orders() -> None:
    assert build_plan(seed=1).batch(0).tolist() != build_plan(seed=2).batch(0).tolist()


def test_endless_sequence_is_lazy() -> None:
    plan = build_plan()
    reader = plan.batches_of(rank=0, world_size=1, worker=0, num_workers=1, first=10**6)
    assert [index for index, _ in islice(reader, 2)] == [10**6, 10**6 + 1]


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
@pytest.mark.parametrize("num_workers", [1, 2, 4])
@pytest.mark.parametrize("count", [1, 4, 7, 30])
def test_evaluation_has_every_row_once(world_size: int, num_workers: int, count: int) -> None:
    rows = np.arange(count) * 3 + 1
    parts = [
        batch
        for rank in range(world_size)
        for worker in range(num_workers)
        for batch in plan_evaluation(rows, 4, rank=rank, world_size=world_size, worker=worker, num_workers=num_workers)
    ]
    assert sorted(np.concatenate(parts).tolist()) == rows.tolist()
    assert max(len(part) for part in parts) <= 4
