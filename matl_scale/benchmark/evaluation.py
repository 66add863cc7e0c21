"""Suite `eval`: evaluation of all tasks from shards, beside two references.

One is a loop over the tasks with a masked pass over the loader each; the other is our own loop with masked execution, which
also reads and decodes every image once. The images have the size of CelebA's, and there are as many tasks.
"""

import tempfile
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator

from data_prep.dataset import from_arrays
from data_prep.shard_set import write_shard_set
from matl_scale.benchmark.figure import Conditions, Figure, Workload, timed
from matl_scale.benchmark.inputs import CELEBA_SIZE, SmoothJpegs, binary_tasks, build_resnet
from matl_scale.data.loading.damage import DamageLog
from matl_scale.data.loading.loader import EvaluationBatches, build_loader
from matl_scale.data.shards.open_labels import open_labels
from matl_scale.data.shards.reader import SampleReader
from matl_scale.metrics.counters import TaskCounters
from matl_scale.models.network import normalise
from matl_scale.models.routing_config import Execution
from matl_scale.train.evaluation import EvalData, Evaluator

NUM_TASKS = 40
NUM_IMAGES = 128
SIZE = 64
BATCH = 64


def write_shards(folder: Path, num_tasks: int = NUM_TASKS) -> EvalData:
    """Writes smooth random JPEGs with a label for every task."""
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 256, (NUM_IMAGES, 16, 16, 3), dtype=np.uint8)
    dataset = from_arrays(
        tasks=binary_tasks(num_tasks),
        names=[f"{i}.png" for i in range(NUM_IMAGES)],
        labels=generator.integers(0, 2, (NUM_IMAGES, num_tasks)).astype(np.int8),
        splits=["val"] * NUM_IMAGES,
        images=SmoothJpegs(coarse, CELEBA_SIZE),
    )
    manifest = write_shard_set(lambda _: dataset, folder)
    assert manifest is not None
    return EvalData(
        sample_ids=manifest.sample_ids("val"),
        labels=open_labels(manifest).labels,
        reader=SampleReader(manifest),
        image_size=SIZE,
        workers=0,
        damage=DamageLog("val", NUM_IMAGES, 0.0, str(folder)),
    )


class Case:
    """The network and the data of the suite."""

    def __init__(self, conditions: Conditions) -> None:
        self.conditions = conditions
        self.folder = tempfile.TemporaryDirectory()  # deleted with this object
        self.data = write_shards(Path(self.folder.name) / "set")
        self.model = build_resnet(NUM_TASKS, SIZE).to(conditions.device).eval()

    def evaluation(self, execution: Execution) -> Workload:
        accelerator = Accelerator(cpu=self.conditions.device.type == "cpu")
        evaluator = Evaluator(accelerator, self.model, self.data, batch_size=BATCH, execution=execution)
        return lambda: (self, evaluator())  # `self` keeps the shards on disk

    @torch.no_grad()
    def masked_loop(self) -> None:
        conditions, data, model = self.conditions, self.data, self.model
        counters = TaskCounters([2] * NUM_TASKS, conditions.device)
        for task_id in range(NUM_TASKS):
            source = EvaluationBatches(data.sample_ids, data.reader, BATCH, 0, 1)
            for batch in build_loader(source, SIZE, 0):
                column = data.labels.at(batch.sample_ids, [task_id])[:, 0]
                labels = torch.from_numpy(column.astype(np.int64)).to(conditions.device)
                logits = model(normalise(batch.images.to(conditions.device)), task_id)
                counters.update(torch.tensor([task_id], device=conditions.device), logits[:, None], labels[:, None])
        counters.compute()


def against_loop(conditions: Conditions) -> tuple[Workload, Workload]:
    case = Case(conditions)
    return case.masked_loop, case.evaluation("subnetwork")


def against_masked(conditions: Conditions) -> tuple[Workload, Workload]:
    case = Case(conditions)
    return case.evaluation("masked"), case.evaluation("subnetwork")


def figures(conditions: Conditions) -> list[Figure]:  # noqa: ARG001
    return [
        Figure("eval_t40_vs_masked_loop", "a masked pass per task over the loader ÷ ours, ≥ 5", timed(against_loop)),
        Figure("eval_t40_vs_masked", "our loop with masked execution ÷ ours", timed(against_masked)),
    ]
