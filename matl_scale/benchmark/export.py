"""Suite `export`: a task's exported network beside the whole routed one with masks: ResNet-18, 64 px, σ = 0.5, on the CPU."""

import tempfile
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


def write_task(model: RoutedModel, folder: str, kind: Format) -> Path:
    description = Description(
        tasks=(Task(name=f"task_{TASK}", classes=("no", "yes")),),
        outputs=("logits",),
        rules=TaskRules.unfitted([2]),
        image_size=SIZE,
        fit="crop",
        mean=MEAN,
        std=STD,
        run="benchmark",
        step=0,
        checkpoint_sha256="",
    )
    return write_network(dense_network(model, TASK), description, Path(folder) / "task", kind)


def against_full(kind: Format, batch: int, conditions: Conditions) -> tuple[Workload, Workload]:  # noqa: ARG001
    model, images = build_resnet(NUM_TASKS, SIZE).eval(), torch.randn(batch, 3, SIZE, SIZE)
    with tempfile.TemporaryDirectory() as folder:
        exported = open_exported(write_task(model, folder, kind))
    without_gradients = torch.inference_mode()
    return without_gradients(lambda: model(images, TASK)), without_gradients(lambda: exported(images))


def measure_sizes(conditions: Conditions) -> np.ndarray:
    """Returns bytes, shape `(rounds, 2)`: of the parameters of trunk and head, and of the exported file."""
    model = build_resnet(NUM_TASKS, SIZE)
    full = count_bytes(model.trunk) + count_bytes(model.heads[TASK])
    with tempfile.TemporaryDirectory() as folder:
        size = write_task(model, folder, "safetensors").stat().st_size
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
    meaning = "parameters of trunk and head ÷ exported file (safetensors)"
    return [*found, Figure("export_size_vs_full", meaning, measure_sizes, "bytes")]
