"""Suite `labels`: labels of a million samples and ten thousand tasks, and of ten million samples and 312 tasks, without images.

How long a rank takes to open them, a batch to be planned and read, and the memory of all ranks and loader processes of a node.

The denominators are the goals. Ranks are processes that map one cache; each forks its loader processes, as the loader does.
"""

import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator
from functools import cached_property, partial
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import NamedTuple

import numpy as np

from matl_scale.benchmark.figure import Conditions, Figure
from matl_scale.data.loading.plan import RouteOrder
from matl_scale.data.loading.route_samples import open_route_samples
from matl_scale.data.shards.label_cache import LABELS, map_cache, write_cache
from matl_scale.data.shards.label_marks import RouteCache
from matl_scale.data.shards.labels import Labels
from matl_scale.data.shards.layout import MISSING
from matl_scale.data.shards.sample_runs import SampleRuns
from matl_scale.routes import Routes
from matl_scale.storage.store import Store

RANKS, WORKERS = 8, 4
BATCH, NUM_BATCHES, NUM_ROUTES = 64, 50, 64
SHA256 = "0" * 64  # of no file: nothing but the cache is read


class Scale(NamedTuple):
    """How many labels there are."""

    name: str
    num_samples: int
    num_tasks: int
    share: float  # of the labels that are not missing

    @property
    def num_labels(self) -> float:
        return self.num_samples * self.num_tasks * self.share


class Measured(NamedTuple):
    """What a rank measured, in seconds."""

    opened: float
    planned: float
    read: float


# the same processes do the same with hardly a label: what they need by themselves
TINY = Scale("tiny", 2_000, NUM_ROUTES, 0.5)
SPARSE, DENSE = Scale("1m_10k_tasks", 1_000_000, 10_000, 0.01), Scale("10m_312_tasks", 10_000_000, 312, 0.4)


def draw_columns(scale: Scale) -> Iterator[tuple[str, np.ndarray]]:
    """Yields the labels of each task. Tasks are shifted copies of a few: drawing them all would take longer than writing them."""
    generator = np.random.default_rng(0)
    present = [generator.random(scale.num_samples, dtype=np.float32) < scale.share for _ in range(4)]
    kinds = [np.where(marks, generator.integers(0, 2, len(marks), dtype=np.int8), np.int8(-1)) for marks in present]
    for task in range(scale.num_tasks):
        yield f"t{task}", np.roll(kinds[task % 4], int(generator.integers(scale.num_samples)))


def open_order(folder: Path) -> tuple[Labels, RouteOrder]:
    """Opens the labels as a rank does, and finds the samples of each route."""
    assert LABELS.find_fault(folder, SHA256) is None
    found = map_cache(folder)
    labels = Labels(
        stores=found.stores.stores,
        store_of=found.stores.store_of,
        column_of=found.stores.column_of,
        samples=SampleRuns.all_of(found.num_samples),
        dtype=np.dtype(np.int8),
        origin=SHA256,
    )
    num_tasks = len(found.columns)
    groups = [task * NUM_ROUTES // num_tasks for task in range(num_tasks)]
    routes = Routes.build([str(route) for route in range(NUM_ROUTES)], groups)
    labelled, _ = open_route_samples(RouteCache(Store(folder)), labels, routes, np.full(num_tasks, MISSING))
    order = RouteOrder(0, BATCH, labels, routes, labelled=labelled)
    order.count_samples()
    order.label_shares()
    return labels, order


def be_rank(folder: Path, barrier: Barrier, results: Connection, num_workers: int) -> None:
    """Opens the labels, starts loader processes, and waits to be measured."""
    begin = time.perf_counter()
    opened = open_order(folder)
    seconds = time.perf_counter() - begin
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=be_worker, args=(opened, i, barrier)) for i in range(num_workers)]
    for worker in workers:
        worker.start()
    measured = Measured(seconds, *plan_batches(*opened, 0))
    results.send((measured, [os.getpid(), *(worker.pid for worker in workers)]))
    barrier.wait()
    for worker in workers:
        worker.join()


def be_worker(opened: tuple[Labels, RouteOrder], number: int, barrier: Barrier) -> None:
    """Plans batches as a loader process does, and waits to be measured."""
    plan_batches(*opened, number + 1)
    barrier.wait()


def plan_batches(labels: Labels, order: RouteOrder, first: int) -> tuple[float, float]:
    """Plans batches and reads their labels; returns the seconds of a batch for both, the median."""
    planned, read = [], []
    for number in range(NUM_BATCHES):
        route, start = (first + 7 * number) % NUM_ROUTES, time.perf_counter()
        batch = order.batch(route, number + first * NUM_BATCHES)
        middle = time.perf_counter()
        labels.at(batch, order.routes.tasks_of[route])
        planned.append(middle - start)
        read.append(time.perf_counter() - middle)
    return float(np.median(planned)), float(np.median(read))


def run_node(folder: Path, num_ranks: int, num_workers: int) -> tuple[Measured, int]:
    """Runs the ranks of a node, each with its loader processes; returns what the slowest one measured, and the proportional set
    size of all, in bytes."""
    context = multiprocessing.get_context("fork")
    num_processes = num_ranks * (num_workers + 1)
    barrier = context.Barrier(num_processes + 1)
    pipes = [context.Pipe(duplex=False) for _ in range(num_ranks)]
    ranks = [context.Process(target=be_rank, args=(folder, barrier, sender, num_workers)) for _, sender in pipes]
    for rank in ranks:
        rank.start()
    received = [receiver.recv() for receiver, _ in pipes]
    while barrier.n_waiting < num_processes:
        time.sleep(0.1)
    memory = sum(proportional_bytes(pid) for _, pids in received for pid in pids)
    barrier.wait()
    for rank in ranks:
        rank.join()
    return Measured(*np.max([measured for measured, _ in received], axis=0).tolist()), memory


def proportional_bytes(pid: int) -> int:
    """Returns the proportional set size of a process: a page that n processes share counts 1/n."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


class Case:
    """The cache of a scale, and what was measured with it; each is made when it is first asked for."""

    def __init__(self, scale: Scale) -> None:
        self.scale = scale

    @cached_property
    def folder(self) -> tempfile.TemporaryDirectory[str]:
        folder = tempfile.TemporaryDirectory()  # deleted with this object
        write_cache(Path(folder.name), draw_columns(self.scale), SHA256)
        run_node(Path(folder.name), 1, 0)  # who comes first makes the route cache
        return folder

    @cached_property
    def alone(self) -> Measured:
        """What a rank alone measures."""
        return run_node(Path(self.folder.name), 1, 0)[0]

    def seconds(self, conditions: Conditions, field: str, goal: float) -> np.ndarray:  # noqa: ARG002 - once is enough
        return np.array([[getattr(self.alone, field), goal]])

    def memory(self, conditions: Conditions) -> np.ndarray:  # noqa: ARG002 - nothing varies
        tiny = Case(TINY)  # its folder lives as long as it
        used, by_itself = (run_node(Path(case.folder.name), RANKS, WORKERS)[1] for case in (self, tiny))
        return np.array([[used - by_itself, self.scale.num_labels]], dtype=float)


def figures(conditions: Conditions) -> list[Figure]:  # noqa: ARG001 - nothing here runs on a device
    found = []
    for case in (Case(SPARSE), Case(DENSE)):
        name = case.scale.name
        found += [
            Figure(
                f"open_{name}", "a rank opens the labels ÷ 5 s (≤ 1)", partial(case.seconds, field="opened", goal=5)
            ),
            Figure(f"plan_{name}", "planning a batch ÷ 5 ms (≤ 1)", partial(case.seconds, field="planned", goal=0.005)),
            Figure(f"read_{name}", "reading its labels ÷ 5 ms (≤ 1)", partial(case.seconds, field="read", goal=0.005)),
            Figure(f"memory_{name}", "memory of 8 ranks × 4 loaders ÷ a byte per label (≤ 3)", case.memory, unit="B"),
        ]
    return found
