"""Study `scaling`: what sets of ten and a hundred million images cost, by a simulated run of the plan and the sampler, without
images.

Labels of a few tasks are drawn at full length, and all others map to them: so every table that a rank makes has its full size,
while the labels themselves need not be in memory. Bytes per sample and label come from small sets that are really written.
"""

import itertools
import shutil
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq

from data_prep.sources import digits
from matl_scale.benchmark.inputs import binary_tasks, full_width
from matl_scale.benchmark.studies.study import Single, Study
from matl_scale.benchmark.studies.workbench import Workbench
from matl_scale.data.loading.plan import RouteOrder, SlotPlan
from matl_scale.data.loading.route_samples import open_route_samples
from matl_scale.data.shards.label_marks import RouteCache
from matl_scale.data.shards.labels import Labels
from matl_scale.data.shards.layout import MISSING
from matl_scale.data.shards.manifest import Manifest, read_manifest
from matl_scale.data.shards.reader import SampleReader
from matl_scale.data.shards.sample_runs import SampleRuns
from matl_scale.data.shards.stored_columns import ColumnsInMemory
from matl_scale.data.shards.tables import label_table
from matl_scale.models.backbones import build_backbone_outline, count_features
from matl_scale.routes import Routes
from matl_scale.routing.grouping import group_in_order
from matl_scale.storage.store import Store
from matl_scale.train.step.sampling import RouteSampler

NUM_DRAWN = 4  # tasks whose labels are drawn
NUM_ROUTES, NUM_NODES, RANKS_PER_NODE = 64, 64, 8
BATCH, NUM_BATCHES = 64, 200
BACKBONE, IMAGE_SIZE = "resnet50", 224
ADAM_VALUES = 3  # of a weight: itself and two moments
GB = 1e9


class Scale(NamedTuple):
    """How large a set is."""

    name: str
    num_samples: int
    num_tasks: int
    share: float  # of the labels that are not missing


SCALES = (
    Scale("10⁷ images × 10³ tasks, 60 % missing", 10**7, 10**3, 0.4),
    Scale("10⁸ images × 10⁴ tasks, 99 % missing", 10**8, 10**4, 0.01),
)


def draw_labels(scale: Scale) -> tuple[Labels, float]:
    """Returns the labels of all tasks, and the bytes that they would have in the cache if no two were the same."""
    generator, columns = np.random.default_rng(0), ColumnsInMemory()
    for _ in range(NUM_DRAWN):
        labels = np.full(scale.num_samples, MISSING, dtype=np.int8)
        labels[generator.random(scale.num_samples, dtype=np.float32) < scale.share] = 1
        labels[(labels == 1) & (generator.random(scale.num_samples, dtype=np.float32) < 0.5)] = 0
        columns.add(labels)
    stores = columns.finish()
    chosen = np.arange(scale.num_tasks) % NUM_DRAWN
    labels_of_all = Labels(
        stores=stores.stores,
        store_of=stores.store_of[chosen],
        column_of=stores.column_of[chosen],
        samples=SampleRuns.all_of(scale.num_samples),
        dtype=np.dtype(np.int8),
        origin=scale.name,
    )
    return labels_of_all, sum(store.nbytes for store in stores.stores) * scale.num_tasks / NUM_DRAWN


def open_order(scale: Scale, labels: Labels, folder: Path) -> tuple[RouteOrder, float]:
    """Opens the samples of all routes, whose cache is in a folder; returns the CPU seconds that it took, too."""
    begin = time.process_time()
    routes = Routes.build([str(i) for i in range(NUM_ROUTES)], group_in_order(scale.num_tasks, NUM_ROUTES).tolist())
    labelled, _ = open_route_samples(RouteCache(Store(folder)), labels, routes, np.full(scale.num_tasks, MISSING))
    order = RouteOrder(0, BATCH, labels, routes, labelled=labelled)
    order.count_samples()
    order.label_shares()
    return order, time.process_time() - begin


def simulate(scale: Scale, labels: Labels, folder: Path) -> dict[str, float]:
    """Runs the plan and the sampler of one rank of all nodes, with the cache of routes in a folder that is deleted afterwards."""
    folder.mkdir(parents=True)
    _, first = open_order(scale, labels, folder)
    order, opened = open_order(scale, labels, folder)
    cached = sum(path.stat().st_size for path in folder.rglob("*.bin"))
    world_size = NUM_NODES * RANKS_PER_NODE
    sampler = RouteSampler(0, NUM_ROUTES, world_size)
    plan = SlotPlan(order, sampler.routes, world_size, 10**6, np.full(NUM_ROUTES, 10**6))
    batches = plan.batches(rank=0, worker=0, num_workers=1)
    planned, read = [], []
    for _ in range(NUM_BATCHES):
        start = time.process_time()
        (batch,) = next(batches)
        middle = time.process_time()
        labels.at(batch.sample_ids, order.routes.tasks_of[batch.active_route])
        planned.append(middle - start)
        read.append(time.process_time() - middle)
    shutil.rmtree(folder)
    return {
        "open for the first time, s": first,
        "open, s": opened,
        "plan a batch, ms": 1e3 * float(np.median(planned)),
        "read its labels, ms": 1e3 * float(np.median(read)),
        "route cache on disk, mapped once per node, GB": cached / GB,
    }


def measure_samples(manifest: Manifest) -> tuple[float, float]:
    """Returns the bytes of a sample in the tables on disk without labels, and in a rank's reader of images."""
    reader = SampleReader(manifest)
    arrays = [value for value in vars(reader).values() if isinstance(value, np.ndarray)]
    on_disk = sum((Path(str(manifest.root)) / manifest.tables[name]).stat().st_size for name in ("samples", "digests"))
    return on_disk / manifest.num_samples, sum(array.nbytes for array in arrays) / manifest.num_samples


def measure_label_file(folder: Path, scale: Scale) -> float:
    """Returns the bytes of a cell of the Parquet file of labels, from a million cells."""
    generator, file = np.random.default_rng(0), folder / "labels.parquet"
    drawn = generator.integers(0, 2, (100_000, 10), dtype=np.int8)
    cells = np.where(generator.random(drawn.shape) < scale.share, drawn, np.int8(MISSING))
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(label_table(binary_tasks(10), cells), file, compression="zstd")
    return file.stat().st_size / cells.size


def measure_network(num_tasks: int) -> tuple[float, float]:
    """Returns the bytes that a rank sends per step, gradients of the trunk and the flat buffer, and those of heads with the
    states of AdamW. As all ranks together run every route in a step, all heads are in the buffer."""
    backbone = build_backbone_outline(full_width(BACKBONE), 0)
    trunk = sum(parameter.numel() for parameter in backbone.parameters())
    heads = num_tasks * 2 * (count_features(backbone, full_width(BACKBONE), IMAGE_SIZE) + 1)
    ring = 2 * (1 - 1 / (NUM_NODES * RANKS_PER_NODE))
    return 4 * ring * (trunk + heads), 4 * ADAM_VALUES * heads


def singles(bench: Workbench) -> Iterator[Single]:
    manifest = read_manifest(bench.shard_set("digits-175", partial(digits.build, 0)))
    sample_file, sample_memory = measure_samples(manifest)
    for scale in SCALES:
        bench.say(f"{scale.name}: simulating a rank of {NUM_NODES * RANKS_PER_NODE}")
        labels, cache = draw_labels(scale)
        found = simulate(scale, labels, bench.work / "scratch" / f"routes-{scale.num_tasks}")
        sent, heads = measure_network(scale.num_tasks)
        cells = scale.num_samples * scale.num_tasks
        routes = found.pop("route cache on disk, mapped once per node, GB")
        reader = scale.num_samples * sample_memory / GB
        on_disk = {
            "tables of samples on disk, GB": scale.num_samples * sample_file / GB,
            "labels.parquet, GB": cells * measure_label_file(bench.work / "scratch", scale) / GB,
            "label cache on disk, mapped once per node, GB": cache / GB,
            "route cache on disk, mapped once per node, GB": routes,
        }
        memory = {
            "offsets of images per rank, GB": reader,
            "heads with AdamW per rank, GB": heads / GB,
            f"a node of {RANKS_PER_NODE} ranks, without the trunk, GB": cache / GB
            + routes
            + RANKS_PER_NODE * (reader + heads / GB),
        }
        times = {**found, f"sent per step and rank, {NUM_NODES} nodes, GB": sent / GB}
        for name, value in itertools.chain(on_disk.items(), memory.items(), times.items()):
            yield Single(table="a set of", row=name, seed=0, values={scale.name: value})


STUDY = Study(
    name="scaling",
    conditions=(
        f"A rank's tables, plan and sampler at full size, without images: {NUM_ROUTES} routes, {NUM_NODES} nodes of "
        f"{RANKS_PER_NODE} ranks, a batch of {BATCH}; ResNet-50 at 224 pixels, binary tasks, fp32. Bytes of samples are those of "
        "digits, per sample; seconds are CPU time, with labels in memory."
    ),
    singles=singles,
)
