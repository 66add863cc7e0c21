"""The program's own training step on random images, which several suites measure."""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from accelerate import Accelerator

from matl_scale.benchmark.inputs import OPTIMIZER
from matl_scale.data.loading.loader import ImageBatch
from matl_scale.data.shards.labels import Labels
from matl_scale.models.network import RoutedModel
from matl_scale.models.routing_config import Execution
from matl_scale.train.losses.task_loss import TaskLoss
from matl_scale.train.step.execution import TrunkExecution
from matl_scale.train.step.optim import build_optimizer
from matl_scale.train.step.sampling import RouteSampler
from matl_scale.train.step.train_step import TrainStep

BATCH = 32


class OurStep:
    """Steps of a network of binary tasks, on a batch of random images of `size` pixels in which every task has labels.

    A step runs `accumulate` slots of each rank. `losses` are those of the tasks; None is cross-entropy.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        model: RoutedModel,
        size: int,
        accumulate: int = 1,
        execution: Execution = "subnetwork",
        losses: Sequence[TaskLoss] | None = None,
    ) -> None:
        self.accelerator, self.model = accelerator, model.to(accelerator.device)
        self.optimizer = accelerator.prepare_optimizer(build_optimizer(OPTIMIZER, self.model))
        images = torch.randint(0, 256, (BATCH, 3, size, size), dtype=torch.uint8)
        sample_ids, num_tasks = np.arange(BATCH), model.routes.num_tasks
        world_size, rank = accelerator.num_processes, accelerator.process_index
        self.sampler = RouteSampler(0, model.routes.num_routes, world_size * accumulate)
        self.batches: Iterator[ImageBatch] = (
            ImageBatch(sample_ids=sample_ids, images=images, valid=sample_ids >= 0, active_route=route, index=i)
            for i in itertools.count()
            for route in self.sampler.routes(i)[rank::world_size].tolist()
        )
        self.train_step = TrainStep(
            accelerator=accelerator,
            model=self.model,
            trunk=TrunkExecution(accelerator, self.model.trunk, execution),
            optimizer=self.optimizer,
            labels=Labels.of_matrix(np.broadcast_to((sample_ids % 2)[:, None], (BATCH, num_tasks))),
            label_shares=np.ones(num_tasks),
            losses=losses,
            seed=0,
            accumulate=accumulate,
            clip_norm=1.0,
        )
        self.steps = itertools.count()

    def __call__(self) -> int:
        """Runs a step. Returns the bytes that ranks exchanged for heads and norm statistics."""
        return self.train_step(self.sampler.routes(next(self.steps)), self.batches).sync.num_bytes
