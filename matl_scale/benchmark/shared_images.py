"""Figures of the suite `data` about `data.share`: training steps of four routes whose micro-steps have the same images.

40 binary tasks, each with a label of every image; JPEGs of 500 × 375, read at 224 pixels; a network so small that reading is most
of a step.
"""

import itertools

import numpy as np

from matl_scale.benchmark.figure import Conditions, Figure, Workload, timed
from matl_scale.benchmark.inputs import OPTIMIZER, build_binary
from matl_scale.benchmark.reading import BATCH, NUM_PHOTOS, NUM_TASKS, LazyShards, photos
from matl_scale.data.loading.loader import TrainBatches, build_loader
from matl_scale.data.loading.plan import RouteOrder, SlotPlan
from matl_scale.data.shards.labels import Labels
from matl_scale.data.shards.reader import SampleReader
from matl_scale.models.config import ModelConfig
from matl_scale.models.routing_config import RoutingConfig
from matl_scale.train.process_group import build_accelerator
from matl_scale.train.step.execution import TrunkExecution
from matl_scale.train.step.optim import build_optimizer
from matl_scale.train.step.sampling import RouteSampler
from matl_scale.train.step.train_step import TrainStep

NUM_ROUTES, SHARE, SIZE = 4, 4, 224
TINY = ModelConfig(name="resnet18", width=1 / 32, stem="standard")


class SharingStep:
    """Steps of a run in which each route trains on a batch, and `share` of them have the same images."""

    def __init__(self, shards: LazyShards, share: int) -> None:
        accelerator = build_accelerator("fp32")
        model = build_binary(TINY, RoutingConfig(sigma=0.5), NUM_TASKS, SIZE, NUM_ROUTES)
        labels = Labels.of_matrix(np.asfortranarray(shards.manifest.labels()))
        order = RouteOrder(0, BATCH, labels, np.arange(shards.count), model.routes)
        self.sampler = RouteSampler(0, NUM_ROUTES, NUM_ROUTES)
        plan = SlotPlan(order, self.sampler.routes, 1, 0, np.zeros(NUM_ROUTES, dtype=np.int64), share)
        self.batches = build_loader(TrainBatches(plan, SampleReader(shards.manifest), 0), SIZE, 0)
        self.train_step = TrainStep(
            accelerator=accelerator,
            model=model,
            trunk=TrunkExecution(accelerator, model.trunk, "subnetwork"),
            optimizer=accelerator.prepare_optimizer(build_optimizer(OPTIMIZER, model)),
            labels=labels,
            label_shares=order.label_shares(),
            seed=0,
            accumulate=NUM_ROUTES,
            share=share,
        )
        self.steps = itertools.count()

    def __call__(self) -> float:
        """Runs a step. Returns how many images were decoded for each label."""
        result = self.train_step(self.sampler.routes(next(self.steps)), self.batches)
        different = len(np.unique(np.stack(result.sample_ids), axis=0)) * BATCH
        return different / float(result.sync.labels.sum())


def figures() -> list[Figure]:
    shards = LazyShards(photos, NUM_PHOTOS, SIZE)

    def pair(_: Conditions) -> tuple[Workload, Workload]:
        return SharingStep(shards, SHARE), SharingStep(shards, 1)

    def count(conditions: Conditions) -> np.ndarray:
        shared, alone = SharingStep(shards, SHARE), SharingStep(shards, 1)
        return np.array([(shared(), alone()) for _ in range(min(conditions.rounds, 3))])

    meaning = "40 tasks on 4 routes that have the same images (`data.share` 4) ÷ each its own"
    return [
        Figure("label_share4_vs_share1", f"seconds per label, {meaning}, ≤ 0.4", timed(pair)),
        Figure("decoded_share4_vs_share1", f"images decoded per label, {meaning}, 0.25", count, "images"),
    ]
