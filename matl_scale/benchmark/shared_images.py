"""Figures of the suite `data` about `data.share`: training steps of four routes whose micro-steps have the same images.

40 binary tasks, each with a label of every image; JPEGs of 500 × 375, read at 224 pixels; networks so small that reading is most
of a step.
"""

import itertools
from collections.abc import Callable
from functools import partial

import numpy as np
from torch import nn

from matl_scale.benchmark.figure import Conditions, Figure, Workload, timed
from matl_scale.benchmark.inputs import OPTIMIZER, build_binary
from matl_scale.benchmark.reading import BATCH, NUM_PHOTOS, NUM_TASKS, LazyShards, photos
from matl_scale.data.loading.loader import TrainBatches, build_loader
from matl_scale.data.loading.plan import RouteOrder, SlotPlan
from matl_scale.data.shards.labels import Labels
from matl_scale.data.shards.reader import SampleReader
from matl_scale.models.config import ModelConfig
from matl_scale.models.network import RoutedModel
from matl_scale.models.routing_config import RoutingConfig
from matl_scale.routes import Routes
from matl_scale.routing.grouping import group_in_order
from matl_scale.routing.surgery import route
from matl_scale.train.process_group import build_accelerator
from matl_scale.train.step.execution import TrunkExecution
from matl_scale.train.step.optim import build_optimizer
from matl_scale.train.step.sampling import RouteSampler
from matl_scale.train.step.train_step import TrainStep

NUM_ROUTES, SHARE, SIZE, SIGMA = 4, 4, 224, 0.5
NARROW = ModelConfig(name="resnet18", width=1 / 32, stem="standard")
CHANNELS = (3, 16, 32, 64)


class SharingStep:
    """Steps of a run in which each route trains on a batch, and `share` of them have the same images."""

    def __init__(self, model: RoutedModel, shards: LazyShards, share: int) -> None:
        accelerator = build_accelerator("fp32")
        labels = Labels.of_matrix(np.asfortranarray(shards.manifest.labels()))
        order = RouteOrder(0, BATCH, labels, model.routes)
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


def build_tiny() -> RoutedModel:
    """Returns a network that averages 7 × 7 pixels first, so that it costs what three convs on images of 32 pixels cost."""
    layers: list[nn.Module] = [nn.AvgPool2d(7)]
    for before, after in itertools.pairwise(CHANNELS):
        layers += [nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    trunk = route(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()), NUM_ROUTES, SIGMA)
    names = [f"route_{i}" for i in range(NUM_ROUTES)]
    routes = Routes.build(names, group_in_order(NUM_TASKS, NUM_ROUTES).tolist())
    return RoutedModel(trunk, [2] * NUM_TASKS, CHANNELS[-1], routes)


def build_narrow() -> RoutedModel:
    return build_binary(NARROW, RoutingConfig(sigma=SIGMA), NUM_TASKS, SIZE, NUM_ROUTES)


def figures() -> list[Figure]:
    shards = LazyShards(photos, NUM_PHOTOS, SIZE)

    def pair(build: Callable[[], RoutedModel], _: Conditions) -> tuple[Workload, Workload]:
        return SharingStep(build(), shards, SHARE), SharingStep(build(), shards, 1)

    def count(conditions: Conditions) -> np.ndarray:
        shared, alone = pair(build_tiny, conditions)
        return np.array([(shared(), alone()) for _ in range(min(conditions.rounds, 3))])

    meaning = "40 tasks on 4 routes that have the same images (`data.share` 4) ÷ each its own"
    per_label = f"seconds per label, {meaning}"
    return [
        Figure(
            "label_share4_vs_share1", f"{per_label}; a network of three convs, ≤ 0.4", timed(partial(pair, build_tiny))
        ),
        Figure("label_share4_vs_share1_resnet18", f"{per_label}; width 1/32", timed(partial(pair, build_narrow))),
        Figure("decoded_share4_vs_share1", f"images decoded per label, {meaning}, 0.25", count, "images"),
    ]
