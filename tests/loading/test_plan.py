"""The data plan as a pure function: every route its own samples, for every number of ranks and workers."""

from itertools import islice

import numpy as np
import pytest

from matl_scale.data.loading.members import BLOCK
from matl_scale.data.loading.plan import RouteOrder, SlotPlan, plan_evaluation, shuffle
from matl_scale.data.shards.labels import Labels
from matl_scale.routes import Routes
from matl_scale.train.step.sampling import RouteSampler

NUM_TASKS = 5
TRAIN = np.arange(7, 77)  # ids of the training samples
BY_TASK = Routes.one_per_task([f"task_{i}" for i in range(NUM_TASKS)])
SHARED = Routes.build(["common", "rare"], [0, 0, 0, 1, 1])
BOTH = pytest.mark.parametrize("routes", [BY_TASK, SHARED], ids=["task", "shared"])


def build_labels() -> np.ndarray:
    """Returns labels of 80 samples: task 3 has three of them, task 4 one, the others most."""
    labels = np.random.default_rng(0).integers(-1, 3, (80, NUM_TASKS)).astype(np.int8)
    labels[:, 3:] = -1
    labels[[10, 25, 60], 3] = [0, 1, 0]
    labels[30, 4] = 1
    return labels


def build_order(routes: Routes = BY_TASK, batch_size: int = 8, seed: int = 0) -> RouteOrder:
    return RouteOrder(seed, batch_size, Labels.of_matrix(build_labels()).of_samples(TRAIN), routes)


def labelled_samples(tasks: list[int]) -> list[int]:
    """Returns the training samples with a label for one of some tasks."""
    return [sample for sample in TRAIN.tolist() if (build_labels()[sample, tasks] >= 0).any()]


def read(
    routes: Routes,
    world_size: int,
    num_workers: int,
    steps: int,
    slots: int,
    first_step: int = 0,
    draws: np.ndarray | None = None,
    share: int = 1,
) -> dict[int, tuple[int, list[int]]]:
    """Reads as the ranks' loaders do, worker after worker, and returns the route and samples of every slot by its index."""
    sampler = RouteSampler(0, routes.num_routes, slots)
    before = np.zeros(routes.num_routes, dtype=np.int64) if draws is None else draws
    plan = SlotPlan(build_order(routes), sampler.routes, world_size, first_step, before, share)
    found = {}
    for rank in range(world_size):
        workers = [plan.batches(rank=rank, worker=worker, num_workers=num_workers) for worker in range(num_workers)]
        for local in range(steps * slots // world_size // share):
            for batch in next(workers[local % num_workers]):
                assert batch.index % slots // share % world_size == rank
                found[batch.index] = (batch.active_route, batch.sample_ids.tolist())
    return found


@BOTH
@pytest.mark.parametrize("world_size", [1, 2, 3, 6])
@pytest.mark.parametrize("num_workers", [1, 2, 3, 5])
def test_any_ranks_and_workers_read_the_same_sequence(routes: Routes, world_size: int, num_workers: int) -> None:
    found = read(routes, world_size, num_workers, steps=10, slots=6)
    assert found == read(routes, 1, 1, steps=10, slots=6)
    assert sorted(found) == list(range(60))


@BOTH
@pytest.mark.parametrize("share", [1, 2])
@pytest.mark.parametrize(("world_size", "num_workers"), [(1, 1), (2, 2), (3, 4)])
def test_reading_from_a_position_equals_reading_on(
    routes: Routes, share: int, world_size: int, num_workers: int
) -> None:
    slots = 6 * share
    whole = read(routes, world_size, num_workers, steps=10, slots=slots, share=share)
    done = [route for index, (route, _) in whole.items() if index < 4 * slots]
    draws = np.bincount(done, minlength=routes.num_routes)
    rest = read(routes, world_size, num_workers + 1, steps=6, slots=slots, first_step=4, draws=draws, share=share)
    assert rest == {index: batch for index, batch in whole.items() if index >= 4 * slots}


@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize("num_workers", [1, 3])
def test_consecutive_slots_share_images_on_any_number_of_ranks(world_size: int, num_workers: int) -> None:
    """The images go through all labelled samples, epoch after epoch."""
    found = read(BY_TASK, world_size, num_workers, steps=40, slots=4, share=2)
    assert found == read(BY_TASK, 1, 1, steps=40, slots=4, share=2)
    samples = []
    for index in range(0, 160, 2):
        (route, sample_ids), (other, same_ids) = found[index], found[index + 1]
        assert route != other
        assert sample_ids == same_ids
        samples += sample_ids
    wanted = labelled_samples(list(range(NUM_TASKS)))
    epochs = np.array(samples[: len(samples) // len(wanted) * len(wanted)]).reshape(-1, len(wanted))
    assert len(epochs) > 5
    assert all(sorted(epoch) == wanted for epoch in epochs.tolist())
    assert len({tuple(epoch) for epoch in epochs.tolist()}) == len(epochs)


@pytest.mark.parametrize(("routes", "route"), [(BY_TASK, 0), (BY_TASK, 1), (BY_TASK, 2), (SHARED, 0)])
def test_an_epoch_of_a_route_has_each_of_its_samples_once(routes: Routes, route: int) -> None:
    """Its samples are those with a label for at least one of its tasks."""
    order, wanted = build_order(routes), labelled_samples(routes.tasks_of[route])
    assert order.count_samples()[route] == len(wanted)
    samples = np.concatenate([order.batch(route, number) for number in range(len(wanted))])
    assert len(samples) == 8 * len(wanted)
    epochs = samples.reshape(8, len(wanted))
    assert all(sorted(epoch) == wanted for epoch in epochs.tolist())
    assert len({tuple(epoch) for epoch in epochs.tolist()}) == 8


def test_labels_in_several_blocks_are_found() -> None:
    """Counts are kept per block of samples; where tasks share a route, which samples are labelled as bits."""
    labels = np.full((3 + 2 * BLOCK + 5, 3), -1, dtype=np.int8)  # the first three samples are of another split
    wanted = [3 + index for index in (0, 7, BLOCK - 1, BLOCK, BLOCK + 9, 2 * BLOCK, 2 * BLOCK + 4)]
    labels[wanted[::2], 0] = labels[wanted[1::2], 2] = 1
    train = Labels.of_matrix(labels).of_samples(np.arange(3, len(labels)))
    order = RouteOrder(0, 7, train, Routes.build(["a", "b"], [0, 1, 0]))
    assert order.count_samples().tolist() == [7, 0]
    assert sorted(order.batch(0, 0).tolist()) == wanted


def test_the_share_of_a_routes_samples_that_carry_a_tasks_label() -> None:
    assert build_order(BY_TASK).label_shares().tolist() == [1.0] * NUM_TASKS
    counts = (build_labels()[TRAIN] >= 0).sum(axis=0)
    samples = [len(labelled_samples(tasks)) for tasks in SHARED.tasks_of]
    expected = [counts[task] / samples[route] for task, route in enumerate(SHARED.route_of)]
    np.testing.assert_allclose(build_order(SHARED).label_shares(), expected)
    none = RouteOrder(0, 8, Labels.of_matrix(np.full((9, 2), -1, dtype=np.int8)), Routes.build(["all"], [0, 0]))
    assert none.label_shares().tolist() == [0.0, 0.0]


def test_routes_with_few_samples() -> None:
    order = build_order()
    assert {tuple(sorted(order.batch(3, number).tolist())) for number in range(6)} == {(10, 25, 60)}
    assert len({tuple(order.batch(3, number).tolist()) for number in range(30)}) == 6
    assert order.batch(4, 0).tolist() == [30, 31]  # batch norm needs a companion


def test_samples_in_pieces_are_found_as_in_a_span() -> None:
    labels = build_labels()
    pieces = np.delete(np.arange(80), [20, 50])
    order = RouteOrder(0, 100, Labels.of_matrix(labels).of_samples(pieces), BY_TASK)
    assert sorted(order.batch(0, 0).tolist()) == [sample for sample in pieces.tolist() if labels[sample, 0] >= 0]


def test_seeds_and_routes_give_other_orders() -> None:
    batches = {tuple(build_order(seed=seed).batch(route, 0).tolist()) for seed in range(4) for route in range(2)}
    assert len(batches) == 8


@pytest.mark.parametrize("balance", [0.5, 1.0])
def test_balance_draws_classes_more_evenly(balance: float) -> None:
    labels = np.zeros((1000, 1), dtype=np.int8)
    labels[:20] = 1
    alone = Routes.one_per_task(["task"])
    order = RouteOrder(0, 50, Labels.of_matrix(labels), alone, balance)
    counts, shares = order.class_shares(0)
    expected = np.array([980.0, 20.0]) ** (1 - balance)
    np.testing.assert_allclose(shares, expected / expected.sum())
    assert counts.tolist() == [980, 20]
    drawn = np.concatenate([labels[order.batch(0, number), 0] for number in range(200)])
    assert abs(drawn.mean() - shares[1]) < 0.02
    again = RouteOrder(0, 50, Labels.of_matrix(labels), alone, balance)
    assert order.batch(0, 3).tolist() == again.batch(0, 3).tolist()


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
    sampler = RouteSampler(0, NUM_TASKS, 2)
    plan = SlotPlan(build_order(), sampler.routes, 1, 10**6, np.full(NUM_TASKS, 10**6))
    groups = islice(plan.batches(rank=0, worker=0, num_workers=1), 2)
    assert [[batch.index for batch in group] for group in groups] == [[2 * 10**6], [2 * 10**6 + 1]]


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
@pytest.mark.parametrize("num_workers", [1, 2, 4])
@pytest.mark.parametrize("count", [1, 4, 7, 30])
def test_evaluation_has_every_sample_once(world_size: int, num_workers: int, count: int) -> None:
    sample_ids = np.arange(count) * 3 + 1
    batches = [
        batch.sample_ids
        for rank in range(world_size)
        for worker in range(num_workers)
        for (batch,) in plan_evaluation(
            sample_ids, 4, rank=rank, world_size=world_size, worker=worker, num_workers=num_workers
        )
    ]
    assert sorted(np.concatenate(batches).tolist()) == sample_ids.tolist()
    assert max(len(batch) for batch in batches) <= 4
