"""Evaluation of all tasks from shards beside a loop of masked passes, one per task, over the loader; and beside masked
execution in our own loop, which reads and decodes once as well. Images have CelebA's size, as it has its 40 tasks."""

import io
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from PIL import Image

from data_prep.dataset import from_arrays
from data_prep.shard_set import write_shard_set
from matl_scale.benchmark.measure import Measure, Run, Setup, timed
from matl_scale.benchmark.step import binary_tasks
from matl_scale.data.loading.augment import normalise
from matl_scale.data.loading.damage import DamageLog
from matl_scale.data.loading.loader import EvaluationBatches, build_loader
from matl_scale.data.shards.reader import SampleReader
from matl_scale.metrics.counters import TaskCounters
from matl_scale.models.backbones import ModelConfig
from matl_scale.models.network import Execution, RoutingConfig, build_model
from matl_scale.train.evaluation import EvalConfig, EvalData, Evaluator

NUM_TASKS = 40
STORED_SIZE = (178, 218)
NUM_IMAGES = 128
SIZE = 64
BATCH = 64


def write_shards(folder: Path) -> EvalData:
    """Writes smooth random JPEGs with a label for every task."""
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 256, (NUM_IMAGES, 16, 16, 3), dtype=np.uint8)
    dataset = from_arrays(
        tasks=binary_tasks(NUM_TASKS),
        names=[f"{i}.png" for i in range(NUM_IMAGES)],
        labels=generator.integers(0, 2, (NUM_IMAGES, NUM_TASKS)).astype(np.int8),
        splits=["val"] * NUM_IMAGES,
        images=SmoothJpegs(coarse),
    )
    manifest = write_shard_set(lambda _: dataset, folder)
    assert manifest is not None
    return EvalData(
        rows=manifest.rows("val"),
        labels=manifest.labels(),
        reader=SampleReader(manifest),
        image_size=SIZE,
        workers=0,
        damage=DamageLog("val", NUM_IMAGES, 0.0, str(folder)),
    )


class SmoothJpegs:
    """Small random pixels, shape `(num_images, height, width, 3)`, scaled up and encoded."""

    place = "memory"

    def __init__(self, coarse: np.ndarray) -> None:
        self.coarse = coarse

    def read(self, names: Sequence[str], sources: np.ndarray) -> Iterator[bytes]:  # noqa: ARG002
        return map(encode_jpeg, self.coarse[sources])


def encode_jpeg(coarse: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(coarse).resize(STORED_SIZE, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


class Case:
    """The network and the data of both comparisons."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.folder = tempfile.TemporaryDirectory()  # goes with this object
        self.data = write_shards(Path(self.folder.name) / "set")
        tasks = binary_tasks(NUM_TASKS)
        self.model = build_model(ModelConfig(name="resnet18"), RoutingConfig(), tasks, 0, SIZE).to(setup.device).eval()

    def evaluator(self, execution: Execution) -> Run:
        accelerator = Accelerator(cpu=self.setup.device.type == "cpu")
        evaluator = Evaluator(accelerator, self.model, self.data, EvalConfig(batch_size=BATCH), execution)
        return lambda: (self, evaluator())  # holding the shards

    @torch.no_grad()
    def masked_loop(self) -> None:
        setup, data, model = self.setup, self.data, self.model
        counters = TaskCounters([2] * NUM_TASKS, setup.device)
        for task_id in range(NUM_TASKS):
            source = EvaluationBatches(data.rows, data.reader, BATCH, 0, 1)
            for batch in build_loader(source, SIZE, 0):
                labels = torch.from_numpy(data.labels[batch.rows, task_id].astype(np.int64)).to(setup.device)
                counters.update(task_id, model(normalise(batch.images.to(setup.device)), task_id), labels)
        counters.compute()


def against_loop(setup: Setup) -> tuple[Run, Run]:
    case = Case(setup)
    return case.masked_loop, case.evaluator("subnetwork")


def against_masked(setup: Setup) -> tuple[Run, Run]:
    case = Case(setup)
    return case.evaluator("masked"), case.evaluator("subnetwork")


def measures(setup: Setup) -> list[Measure]:  # noqa: ARG001
    return [
        Measure(
            suite="eval",
            name="eval_t40_vs_masked_loop",
            meaning="a masked pass per task over the loader ÷ ours, ≥ 5",
            values=timed(against_loop),
        ),
        Measure(
            suite="eval",
            name="eval_t40_vs_masked",
            meaning="our loop with masked execution ÷ ours",
            values=timed(against_masked),
        ),
    ]
