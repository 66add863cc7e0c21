"""Evaluation of all tasks from shards beside a loop of masked passes, one per task, over the loader."""

import tempfile
from pathlib import Path

import numpy as np
import torch

from accelerate import Accelerator
from data_prep.dataset import Dataset
from data_prep.encode import encode_png
from data_prep.write import write_shard_set
from matl_scale.data.augment import normalise
from matl_scale.data.loader import EvaluationBatches, build_loader
from matl_scale.data.reader import SampleReader
from matl_scale.metrics import TaskCounters
from matl_scale.models import ModelConfig, RoutingConfig, build_model
from matl_scale.train.evaluate import EvalConfig, EvalData, Evaluator
from suites.measure import Measure, Run, Setup, timed
from suites.step import binary_tasks

NUM_TASKS = 40
NUM_IMAGES = 256
SIZE = 64
BATCH = 128


def write_shards(folder: Path) -> EvalData:
    """Writes random images with a label for every task."""
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (NUM_IMAGES, SIZE, SIZE, 3), dtype=np.uint8)
    dataset = Dataset(
        tasks=binary_tasks(NUM_TASKS),
        names=[f"{i}.png" for i in range(NUM_IMAGES)],
        labels=generator.integers(0, 2, (NUM_IMAGES, NUM_TASKS)).astype(np.int8),
        splits=np.array(["val"] * NUM_IMAGES, dtype=object),
        read_images=lambda: map(encode_png, pixels),
    )
    manifest = write_shard_set(dataset, folder)
    return EvalData(
        rows=manifest.rows("val"), labels=manifest.labels(), reader=SampleReader(manifest), image_size=SIZE, workers=0
    )


def build(setup: Setup) -> tuple[Run, Run]:
    folder = tempfile.TemporaryDirectory()
    data = write_shards(Path(folder.name) / "set")
    tasks = binary_tasks(NUM_TASKS)
    model = build_model(ModelConfig(name="resnet18"), RoutingConfig(), tasks, 0, SIZE).to(setup.device).eval()
    evaluator = Evaluator(
        Accelerator(cpu=setup.device.type == "cpu"), model, data, EvalConfig(batch_size=BATCH), "subnetwork"
    )

    @torch.no_grad()
    def masked_loop() -> None:
        assert folder  # the shards live as long as this
        counters = TaskCounters([2] * NUM_TASKS, setup.device)
        for task_id in range(NUM_TASKS):
            source = EvaluationBatches(data.rows, data.reader, BATCH, 0, 1)
            for batch in build_loader(source, SIZE, 0):
                labels = torch.from_numpy(data.labels[batch.rows, task_id].astype(np.int64)).to(setup.device)
                counters.update(task_id, model(normalise(batch.images.to(setup.device)), task_id), labels)
        counters.compute()

    return masked_loop, evaluator


def measures(setup: Setup) -> list[Measure]:  # noqa: ARG001
    return [
        Measure(
            suite="eval",
            name="eval_t40_vs_masked_loop",
            meaning="a masked pass per task over the loader ÷ ours, ≥ 5",
            values=timed(build),
        )
    ]
