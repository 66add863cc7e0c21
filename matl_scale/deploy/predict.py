"""Predictions of many tasks for images that need no labels. Each image is read and decoded once for all tasks."""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import torch

from matl_scale.data.images.file_kinds import PassedOver
from matl_scale.data.images.gate import MAX_PIXELS
from matl_scale.data.images.sources import open_images
from matl_scale.deploy.prediction_table import build_schema, build_table
from matl_scale.deploy.unlabelled import UnlabelledBatch, load_unlabelled
from matl_scale.device import Precision, autocast, choose_device
from matl_scale.errors import check_at_least, check_writable
from matl_scale.models.network import RoutedModel, normalise
from matl_scale.models.predictor import Predictor
from matl_scale.progress import ItemProgress
from matl_scale.runs.checkpoints.network import NetworkConfig, open_network, restore_network
from matl_scale.storage.files import write_atomic
from matl_scale.tasks import Task, match_names


@dataclass(frozen=True, kw_only=True)
class PredictionSummary:
    """What `predict` wrote, by the network of which step."""

    num_images: int
    num_tasks: int
    step: int
    damaged: list[tuple[str, str]]  # name and reason of every image that could not be decoded and is not in the table
    passed_over: str = ""  # how many files are no images, and which; empty if there are none


def predict(
    run: Path,
    images: str,
    out: Path,
    *,
    patterns: Sequence[str] | None = None,
    which: str = "best",
    batch_size: int = 256,
    workers: int = 2,
    max_pixels: int = MAX_PIXELS,
) -> PredictionSummary:
    """Writes a Parquet file of predictions, and a list of damaged images beside it if there are any.

    The network is one of a run's folder, chosen as in `open_network`, or a checkpoint by itself. `images` is a folder of
    images, tars or Parquet files, or a URL; images of more than `max_pixels` pixels are left out. With 0 workers this process
    reads and decodes.

    Raises:
        InputError: Something given cannot be used; nothing is written then.
    """
    check_writable("--out", out)
    check_at_least(1, {"--batch-size": batch_size})
    check_at_least(1, {"--max-pixels": max_pixels})
    check_at_least(0, {"--workers": workers})
    checkpoint = open_network(run, which)
    names = list(checkpoint.classes)
    task_ids = match_names(names, patterns, "--tasks")
    tasks = [Task(name=names[task_id], classes=tuple(checkpoint.classes[names[task_id]])) for task_id in task_ids]
    source = open_images(images)
    config, model = NetworkConfig.read(checkpoint.config), restore_network(checkpoint, choose_device())
    batches = load_unlabelled(source, batch_size, checkpoint.image_size, workers, max_pixels)
    passed_over = PassedOver()
    progress = ItemProgress(sum(len(names) for names, _ in source.names(passed_over)), "images")
    damaged: list[tuple[str, str]] = []

    def write(partial: Path) -> None:
        schema = build_schema(tasks, {"run": str(run), "step": checkpoint.step, "sha256": checkpoint.sha256})
        with progress, pq.ParquetWriter(partial, schema, compression="zstd") as writer:
            for batch, probabilities in predict_batches(model, config, batches, task_ids):
                if batch.names:
                    arrays = [values.numpy() for values in probabilities]
                    writer.write_table(build_table(batch.names, tasks, arrays, schema))
                damaged.extend(batch.damaged)
                progress.update(progress.done + len(batch.names) + len(batch.damaged))

    write_atomic(out, write)
    write_skipped(skipped_path(out), damaged)
    num_images = progress.done - len(damaged)
    return PredictionSummary(
        num_images=num_images,
        num_tasks=len(task_ids),
        step=checkpoint.step,
        damaged=damaged,
        passed_over=passed_over.describe(),
    )


def predict_batches(
    model: RoutedModel, config: NetworkConfig, batches: Iterator[UnlabelledBatch], task_ids: Sequence[int]
) -> Iterator[tuple[UnlabelledBatch, list[torch.Tensor]]]:
    """Yields each batch with the class probabilities of every task, each `(num_images, num_classes)`, on the CPU."""
    device = next(model.parameters()).device
    # fp16 does not run on a CPU, and bf16 is slow on most
    precision: Precision = "fp32" if device.type == "cpu" else config.precision
    predictor = Predictor(model, config.routing.execution, config.route_chunk)
    predictor.start()
    for batch in batches:
        if not batch.names:
            yield batch, []
            continue
        images = normalise(batch.images.to(device))
        if config.channels_last:
            images = images.to(memory_format=torch.channels_last)
        with autocast(device, precision):
            logits = predictor.logits_of_tasks(images, task_ids)
            yield batch, [values.float().softmax(dim=1).cpu() for values in logits.values()]


def skipped_path(out: Path) -> Path:
    """Returns the path of the list of images that are missing in a table of predictions."""
    return out.with_name(f"{out.name}.skipped.csv")


def write_skipped(path: Path, damaged: Sequence[tuple[str, str]]) -> None:
    """Writes the list of damaged images, or deletes that of an earlier call if there are none."""
    path.unlink(missing_ok=True)
    if damaged:
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([("image", "reason"), *damaged])
