"""Suite `features`: one pass of heads over cached features, beside a loop written by hand for the same heads.

There are 100,000 images with 1,280 features each and labels for 312 binary tasks, which share one route. Ours is what a run
does: planned batches of the features that ranks map, the training step, and the moving average of the weights. The loop by hand
has its features in float32 and its labels in memory, and one matrix for all heads.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch.nn import functional

from matl_scale.automatic import chosen
from matl_scale.benchmark.figure import Conditions, Figure, Workload, timed
from matl_scale.benchmark.inputs import OPTIMIZER
from matl_scale.data.loading.feature_batches import FeatureReader
from matl_scale.data.loading.loader import ImageBatch, TrainBatches, build_loader
from matl_scale.data.loading.plan import RouteOrder, SlotPlan
from matl_scale.data.shards.features import StoredFeatures
from matl_scale.data.shards.labels import Labels
from matl_scale.models.config import ModelConfig
from matl_scale.models.network import build_ema, build_model
from matl_scale.models.routing_config import RoutingConfig
from matl_scale.routes import Routes
from matl_scale.train.process_group import build_accelerator
from matl_scale.train.step.execution import TrunkExecution
from matl_scale.train.step.optim import build_optimizer
from matl_scale.train.step.sampling import RouteSampler
from matl_scale.train.step.train_step import TrainStep

NUM_IMAGES, NUM_FEATURES, NUM_TASKS = 100_000, 1_280, 312
BATCH = 1_000
STEPS = NUM_IMAGES // BATCH
MODEL = ModelConfig(name="features", width=1.0, stem="standard", num_features=NUM_FEATURES)


class FeaturesInMemory(FeatureReader):
    """Features that belong to no shard set, shape `(num_images, num_features)`."""

    def __init__(self, values: np.ndarray) -> None:
        self.features, self._damaged = StoredFeatures(values, {}), np.zeros(0, dtype=np.int64)


def make_up() -> tuple[np.ndarray, np.ndarray]:
    """Returns random features, float16, shape `(num_images, num_features)`, and labels, shape `(num_images, num_tasks)`."""
    generator = np.random.default_rng(0)
    values = np.empty((NUM_IMAGES, NUM_FEATURES), dtype=np.float16)
    for part in np.array_split(values, 100):
        part[:] = generator.random(part.shape, dtype=np.float32)
    return values, generator.integers(0, 2, (NUM_IMAGES, NUM_TASKS), dtype=np.int8)


class OurPass:
    """Passes of the program's own training."""

    def __init__(self, values: np.ndarray, labels: np.ndarray) -> None:
        accelerator = build_accelerator("fp32")
        routes = Routes.build(["all"], [0] * NUM_TASKS)
        model = build_model(MODEL, RoutingConfig(sigma=1.0), [2] * NUM_TASKS, 0, 224, routes).to(accelerator.device)
        self.model, self.ema = model, build_ema(model, "auto")
        self.sampler = RouteSampler(0, 1, 1)
        stored = Labels.of_matrix(labels)
        order = RouteOrder(0, BATCH, stored, routes)
        plan = SlotPlan(order, self.sampler.routes, 1, 0, np.zeros(1, dtype=np.int64))
        source = TrainBatches(plan, FeaturesInMemory(values), 0)
        self.batches: Iterator[ImageBatch] = build_loader(source, 224, 0, accelerator.device.type == "cuda")
        self.train_step = TrainStep(
            accelerator=accelerator,
            model=model,
            trunk=TrunkExecution(accelerator, model.trunk, "masked"),
            optimizer=accelerator.prepare_optimizer(build_optimizer(OPTIMIZER, model)),
            labels=stored,
            label_shares=order.label_shares(),
            seed=0,
        )
        self.step = 0

    def __call__(self) -> None:
        assert self.ema is not None
        for _ in range(STEPS):
            self.train_step(self.sampler.routes(self.step), self.batches)
            self.ema.update_parameters(self.model)
            self.step += 1


def by_hand(values: np.ndarray, labels: np.ndarray, device: torch.device) -> Workload:
    """Returns a pass of a plain loop."""
    features, targets = torch.from_numpy(values).to(device).float(), torch.from_numpy(labels).to(device).long()
    heads = torch.nn.Linear(NUM_FEATURES, 2 * NUM_TASKS).to(device)
    optimizer = torch.optim.AdamW(heads.parameters(), lr=chosen(OPTIMIZER.lr), fused=True)

    def run() -> None:
        for rows in torch.randperm(NUM_IMAGES, device=device).split(BATCH):
            logits = heads(features[rows]).view(-1, 2)
            optimizer.zero_grad()
            functional.cross_entropy(logits, targets[rows].flatten()).backward()
            optimizer.step()

    return run


def one_pass(conditions: Conditions) -> tuple[Workload, Workload]:
    values, labels = make_up()
    return OurPass(values, labels), by_hand(values, labels, conditions.device)


def figures(conditions: Conditions) -> list[Figure]:  # noqa: ARG001
    meaning = "a pass of 312 heads over 100,000 cached features ÷ a loop by hand, ≤ 1.3; ≤ 3 s on two cores"
    return [Figure("features_t312_pass_vs_by_hand", meaning, timed(one_pass))]
