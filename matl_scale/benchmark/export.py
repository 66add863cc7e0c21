"""Suite `export`: a task's exported network beside the whole routed one with masks, and one file with all tasks beside a file for
each: ResNet-18, 64 px, σ = 0.5, on the CPU."""

import itertools
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from matl_scale.benchmark.figure import Conditions, Figure, Workload, timed
from matl_scale.benchmark.inputs import build_resnet
from matl_scale.deploy.export.dense import dense_network
from matl_scale.deploy.export.description import Description, Format
from matl_scale.deploy.export.formats import open_exported, write_network
from matl_scale.deploy.task_rules import TaskRules
from matl_scale.models.network import MEAN, STD, RoutedModel, count_bytes
from matl_scale.tasks import Task

SIZE = 64
NUM_TASKS, TASK = 10, 3
MANY_TASKS, NUM_ROUTES, START = 312, 16, "layer4"  # tasks as CUB has them
NUM_FILES = 3  # files of single tasks; those of other tasks are as large


def write_tasks(model: RoutedModel, task_ids: Sequence[int], folder: str, kind: Format) -> Path:
    """Writes a file with these tasks, and returns its path."""
    tasks = tuple(Task(name=f"task_{i}", classes=("no", "yes")) for i in task_ids)
    description = Description(
        tasks=tasks,
        outputs=tuple(f"logits_{i}" for i in task_ids),
        rules=TaskRules.unfitted([2] * len(tasks)),
        image_size=SIZE,
        fit="crop",
        mean=MEAN,
        std=STD,
        run="benchmark",
        step=0,
        checkpoint_sha256="",
    )
    return write_network(
        dense_network(model, task_ids), description, Path(folder) / f"{len(tasks)}_{task_ids[0]}", kind
    )


def against_full(kind: Format, batch: int, conditions: Conditions) -> tuple[Workload, Workload]:  # noqa: ARG001
    model, images = build_resnet(NUM_TASKS, SIZE).eval(), torch.randn(batch, 3, SIZE, SIZE)
    with tempfile.TemporaryDirectory() as folder:
        exported = open_exported(write_tasks(model, [TASK], folder, kind))
    without_gradients = torch.inference_mode()
    return without_gradients(lambda: model(images, TASK)), without_gradients(lambda: exported(images))


def against_single_files(conditions: Conditions) -> tuple[Workload, Workload]:  # noqa: ARG001
    """Files of single tasks run once for every task; a few of them stand for all, which have the same shapes."""
    model = build_resnet(MANY_TASKS, SIZE, NUM_ROUTES, START).eval()
    image = torch.randn(1, 3, SIZE, SIZE)
    with tempfile.TemporaryDirectory() as folder:
        together = open_exported(write_tasks(model, range(MANY_TASKS), folder, "onnx"))
        alone = [open_exported(write_tasks(model, [task_id], folder, "onnx")) for task_id in range(NUM_FILES)]
    runs = list(itertools.islice(itertools.cycle(alone), MANY_TASKS))
    return lambda: [run(image) for run in runs], lambda: together(image)


def measure_sizes(conditions: Conditions) -> np.ndarray:
    """Returns bytes, shape `(rounds, 2)`: of the parameters of trunk and head, and of the exported file."""
    model = build_resnet(NUM_TASKS, SIZE)
    full = count_bytes(model.trunk) + count_bytes(model.heads[TASK])
    with tempfile.TemporaryDirectory() as folder:
        size = write_tasks(model, [TASK], folder, "safetensors").stat().st_size
    return np.tile([float(full), float(size)], (conditions.rounds, 1))


def figures(conditions: Conditions) -> list[Figure]:  # noqa: ARG001
    """Returns the suite, which runs on the CPU whatever the device."""
    found = []
    kinds: dict[str, Format] = {"export_latency_vs_full": "safetensors", "export_onnx_latency_vs_full": "onnx"}
    for name, kind in kinds.items():
        for suffix, batch, images in (("", 1, "one image"), ("_b32", 32, "32 images")):
            meaning = f"masked network ÷ exported ({kind}), {images}"
            values = timed(partial(against_full, kind, batch))
            found.append(Figure(name + suffix, meaning, values))
    meaning = "312 files of a task each ÷ one file of all, 16 routes from layer4 (onnx), one image, ≥ 20"
    found.append(Figure("export_onnx_t312_vs_single_files", meaning, timed(against_single_files)))
    meaning = "parameters of trunk and head ÷ exported file (safetensors)"
    return [*found, Figure("export_size_vs_full", meaning, measure_sizes, "bytes")]
