"""Which samples are read where, and in which order: pure functions of the seed, so that resuming needs only a position.

Training is one endless sequence of slots, the same for any number of workers; consecutive slots make a sampling step. A slot
has an active route and that route's n-th batch: every route goes through the samples that carry a label for one of its tasks,
epoch after epoch, each time in another order. A run that knows how many batches each route has had therefore continues
exactly, on any number of ranks. Where consecutive slots share images, these come from one such sequence of all samples with a
label, and each slot trains on those that carry one for its route.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from matl_scale.data.loading.members import Members, find_all, find_class, find_labelled
from matl_scale.data.shards.labels import Labels
from matl_scale.data.shards.layout import MISSING
from matl_scale.routes import Routes
from matl_scale.seeds import derive_seed, mix

NO_ROUTE, ALL_ROUTES = -1, -2  # instead of a route: that of a batch for evaluation; all together
ROUNDS = 12


@dataclass(frozen=True, kw_only=True)
class PlannedSlot:
    """A slot of the training sequence: its index, its active route, and which batch it gets: of the route's, or of those that
    slots share."""

    index: int
    active_route: int
    batch_number: int


@dataclass(frozen=True, kw_only=True)
class PlannedBatch:
    """A batch to be read."""

    sample_ids: np.ndarray  # its samples, shape `(batch,)`
    active_route: int = (
        NO_ROUTE  # the route that trains on it; `NO_ROUTE` in evaluation, where a batch serves all routes
    )
    index: int = -1  # index of its slot in the training sequence; −1 in evaluation


class RouteOrder:
    """The batches of every route: samples that carry a label for one of its tasks, each once per epoch of the route.

    A route with fewer samples than a batch has smaller batches. Batch norm needs two samples, so a route with a single one
    gets an unlabelled companion. `balance` has the meaning of `data.balance`; above 0, every route has to serve a single task.
    `fills`, shape `(num_tasks,)`, says what missing labels count as (see `missing.choose_fills`): a task whose missing labels are
    filled has one for every sample.

    Labels are those of the training split, as a view of the set's. `labelled` are the samples of routes that are known already
    (see `open_route_samples`); those of others are found in the labels.
    """

    def __init__(
        self,
        seed: int,
        batch_size: int,
        labels: Labels,
        routes: Routes,
        balance: float = 0.0,
        fills: np.ndarray | None = None,
        labelled: Mapping[int, Members] | None = None,
    ) -> None:
        assert not (balance and routes.shared_by_tasks)
        self.seed, self.batch_size, self.samples = seed, batch_size, labels.samples
        self.routes, self.balance = routes, balance
        self._labels = labels
        self._fills = np.full(routes.num_tasks, MISSING) if fills is None else fills
        self._members: dict[tuple[int, int], Members] = {}
        self._labelled = dict(labelled or {})
        self._shares: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def batch(self, route: int, number: int) -> np.ndarray:
        """Returns the samples of a route's batch `number`, shape `(batch,)`."""
        return self._complete(
            self._draw_balanced(route, number)
            if self.balance
            else self._draw_in_order(self._labelled_for(route), number, ("order", route))
        )

    def shared_batch(self, number: int) -> np.ndarray:
        """Returns the samples of batch `number` of all that carry a label, shape `(batch,)`."""
        return self._complete(self._draw_in_order(self._labelled_for(ALL_ROUTES), number, ("shared order",)))

    def _complete(self, chosen: np.ndarray) -> np.ndarray:
        if len(np.unique(chosen)) == 1:
            chosen = np.append(chosen, (chosen[0] + 1) % len(self.samples))
        return self.samples.ids_at(chosen)

    def count_samples(self) -> np.ndarray:
        """Returns how many samples carry a label for each route, or have one filled, shape `(num_routes,)`."""
        return np.array([self._labelled_for(route).count for route in range(self.routes.num_routes)])

    def label_shares(self) -> np.ndarray:
        """Returns for each task the share of its route's samples that carry its label, or have it filled, shape `(num_tasks,)`; 0
        without labels."""
        labels = np.where(self._fills == MISSING, self._labels.count(), self._labels.num_samples)
        return np.asarray(labels / np.maximum(self.count_samples()[list(self.routes.route_of)], 1))

    def class_shares(self, task: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the number of samples of each class of a task, and the share of the draws that each class gets; the last
        classes are left out if they have no sample. A missing label that counts as a class is a sample of it; a soft one is of
        none."""
        if task not in self._shares:
            counts = self._labels.count_classes(task, 2)
            if (fill := self._fills[task]) >= 0:
                counts[fill] += self._labels.num_samples - counts.sum()
            weights = np.where(counts > 0, counts.astype(float), 1.0) ** (1 - self.balance) * (counts > 0)
            self._shares[task] = counts, weights / max(weights.sum(), 1e-300)
        return self._shares[task]

    def _draw_balanced(self, route: int, number: int) -> np.ndarray:
        (task,) = self.routes.tasks_of[route]
        counts, shares = self.class_shares(task)
        generator = np.random.default_rng(derive_seed(self.seed, "balance", route, number))
        size = min(self.batch_size, int(counts.sum()))
        classes = generator.choice(len(shares), size=size, p=shares)
        chosen = np.empty(size, dtype=np.int64)
        for value in np.unique(classes).tolist():
            drawn = np.flatnonzero(classes == value)
            members = self._members_of(task, value)
            chosen[drawn] = members.find(generator.integers(members.count, size=len(drawn)))
        return chosen

    def _draw_in_order(self, labelled: Members, number: int, purpose: Sequence[Any]) -> np.ndarray:
        """Draws the next samples of an endless sequence; a batch may span two epochs."""
        count, size = labelled.count, min(self.batch_size, labelled.count)
        positions = np.arange(number * size, (number + 1) * size)
        epochs = positions // count
        shuffled = [
            shuffle(positions[epochs == epoch] % count, count, derive_seed(self.seed, *purpose, epoch))
            for epoch in np.unique(epochs).tolist()
        ]
        return labelled.find(np.concatenate(shuffled))

    def _members_of(self, task: int, value: int) -> Members:
        """Returns the samples of a class of a task."""
        if (task, value) not in self._members:
            self._members[task, value] = find_class(self._labels, task, value, int(self._fills[task]))
        return self._members[task, value]

    def _labelled_for(self, route: int) -> Members:
        """Returns the samples that carry a label for a route, or have one filled."""
        if route not in self._labelled:
            tasks = list(range(self.routes.num_tasks)) if route == ALL_ROUTES else self.routes.tasks_of[route]
            is_filled = bool((self._fills[tasks] != MISSING).any())
            num_samples = self._labels.num_samples
            self._labelled[route] = find_all(num_samples) if is_filled else find_labelled(self._labels, tasks)
        return self._labelled[route]


def shuffle(positions: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Returns where a random permutation of `count` items, drawn from `seed`, sends some positions.

    The cost depends on the number of positions, not on `count`: a Feistel network over the next even power of two, repeated
    until it lands below `count` (Black, Rogaway, CT-RSA 2002; as a shuffle: Mitchell et al., 2021, arXiv 2106.06161).
    """
    half = max(1, (max(count - 1, 1).bit_length() + 1) // 2)
    mask = np.uint64((1 << half) - 1)
    keys = np.random.default_rng(seed).integers(0, 2**64, ROUNDS, dtype=np.uint64)
    values = positions.astype(np.uint64)
    outside = np.ones(len(values), dtype=bool)
    while outside.any():
        left, right = values[outside] >> np.uint64(half), values[outside] & mask
        for key in keys:
            left, right = right, left ^ (mix(right ^ key) & mask)
        values[outside] = left << np.uint64(half) | right
        outside = values >= count
    return values.astype(np.int64)


class SlotPlan:
    """The sequence of slots from the point that a run has reached (see `own_slots` for which belong to which rank).

    Args:
        routes_of: Returns the routes of all slots of a sampling step, shape `(num_slots,)`.
        sampling_step: The first step of the sequence.
        draws: Number of batches that each route has had before that step, shape `(num_routes,)`.
        share: How many consecutive slots have the same images (`data.share`).
    """

    def __init__(
        self,
        order: RouteOrder,
        routes_of: Callable[[int], np.ndarray],
        world_size: int,
        sampling_step: int,
        draws: np.ndarray,
        share: int = 1,
    ) -> None:
        self.order, self.routes_of, self.world_size, self.sampling_step = order, routes_of, world_size, sampling_step
        self.draws, self.share = draws.copy(), share

    def batches(self, *, rank: int, worker: int, num_workers: int) -> Iterator[list[PlannedBatch]]:
        """Yields what one worker of one rank reads, without end: the batches of slots that have the same images."""
        for group in self.groups(rank=rank, worker=worker, num_workers=num_workers):
            first = group[0]
            if self.share > 1:
                sample_ids = self.order.shared_batch(first.batch_number)
            else:
                sample_ids = self.order.batch(first.active_route, first.batch_number)
            yield plan_group(group, sample_ids)

    def groups(self, *, rank: int, worker: int, num_workers: int) -> Iterator[list[PlannedSlot]]:
        """Yields the slots of one worker, those that have the same images together, without end; the workers of a rank get its
        groups in rotation."""
        step, draws, num_own = self.sampling_step, self.draws.copy(), 0
        while True:
            routes = self.routes_of(step)
            for start in own_slots(len(routes), rank, self.world_size, self.share)[:: self.share]:
                if num_own % num_workers == worker:
                    yield [self._slot(step, routes, slot, draws) for slot in range(start, start + self.share)]
                num_own += 1
            draws += np.bincount(routes, minlength=len(draws))
            step += 1

    def _slot(self, step: int, routes: np.ndarray, slot: int, draws: np.ndarray) -> PlannedSlot:
        """Returns a slot of a step with these routes, before which each route has had so many batches."""
        route = int(routes[slot])
        if self.share > 1:
            number = (int(draws.sum()) + slot) // self.share
        else:
            number = int(draws[route]) + int(np.count_nonzero(routes[:slot] == route))
        return PlannedSlot(index=step * len(routes) + slot, active_route=route, batch_number=number)


def plan_group(group: Sequence[PlannedSlot], sample_ids: np.ndarray) -> list[PlannedBatch]:
    """Returns the batch of each slot of a group, all of the same samples, shape `(batch,)`."""
    return [PlannedBatch(sample_ids=sample_ids, active_route=slot.active_route, index=slot.index) for slot in group]


def own_slots(num_slots: int, rank: int, world_size: int, share: int = 1) -> list[int]:
    """Returns which slots of a step belong to a rank: the ranks take turns, each with `share` consecutive slots at a time. So
    which slots have the same images does not depend on the number of ranks."""
    return [slot for slot in range(num_slots) if slot // share % world_size == rank]


def plan_evaluation(
    sample_ids: np.ndarray, batch_size: int, *, rank: int, world_size: int, worker: int, num_workers: int
) -> list[list[PlannedBatch]]:
    """Returns the batches that one worker of one rank evaluates, each in a list of its own: over all workers, every sample
    exactly once.

    Each rank gets neighbouring samples, so that it reads few shards; the counts of two ranks differ by at most one.
    """
    mine = np.array_split(sample_ids, world_size)[rank]
    starts = range(0, len(mine), batch_size)[worker::num_workers]
    return [[PlannedBatch(sample_ids=mine[start : start + batch_size])] for start in starts]
