"""Predictions of many tasks for images that need no labels; each image is read and decoded once."""

import argparse
import csv
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import torch

from matl_scale.cli import program_name
from matl_scale.data.images.sources import open_images
from matl_scale.data.loading.augment import normalise
from matl_scale.deploy.prediction_table import build_rows, build_schema
from matl_scale.deploy.unlabelled import UnlabelledBatch, load_unlabelled
from matl_scale.device import Precision, autocast, choose_device
from matl_scale.errors import InputError, check_at_least, check_writable, shortened
from matl_scale.models.network import RoutedModel
from matl_scale.models.predictor import Predictor
from matl_scale.progress import ItemProgress
from matl_scale.runs.checkpoints.checkpoint import CheckpointInfo
from matl_scale.runs.checkpoints.network import open_network, restore_network, tasks_of
from matl_scale.storage.files import write_atomic
from matl_scale.tasks import match_names


def predict(options: argparse.Namespace) -> list[tuple[str, str]]:
    """Writes the table; returns name and reason of the images that it leaves out."""
    check_writable("--out", options.out)
    check_at_least(1, {"--batch-size": options.batch_size})
    check_at_least(0, {"--workers": options.workers})
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError("It is one process. Start it without a launcher of several, for a part of the images each.")
    checkpoint = open_network(options.run, options.checkpoint)
    task_ids = match_names(list(checkpoint.classes), options.tasks, "--tasks")
    images = open_images(options.images)
    # fp16 does not run on a CPU, and bf16 is slow on most
    device = choose_device()
    precision: Precision = "fp32" if device.type == "cpu" else checkpoint.config["train"]["precision"]
    model = restore_network(checkpoint, device)
    batches = load_unlabelled(images, options.batch_size, checkpoint.image_size, options.workers)
    progress = ItemProgress(sum(len(names) for names, _ in images.names()), "images")
    damaged: list[tuple[str, str]] = []

    def write(partial: Path) -> None:
        tasks = [tasks_of(checkpoint)[task_id] for task_id in task_ids]
        about = {"run": str(options.run), "step": checkpoint.step, "sha256": checkpoint.sha256}
        schema = build_schema(tasks, about)
        with progress, pq.ParquetWriter(partial, schema, compression="zstd") as writer:
            for batch, probabilities in answer(model, checkpoint, batches, task_ids, precision):
                if batch.names:
                    values = [part.numpy() for part in probabilities]
                    writer.write_table(build_rows(batch.names, tasks, values, schema))
                damaged.extend(batch.damaged)
                progress.update(progress.done + len(batch.names) + len(batch.damaged))

    write_atomic(options.out, write)
    skipped_file(options.out).unlink(missing_ok=True)  # of an earlier call
    print(f"{options.out}: {progress.done - len(damaged):,} images × {len(task_ids)} tasks, step {checkpoint.step}")
    if damaged:
        list_damaged(options.out, damaged)
    return damaged


def answer(
    model: RoutedModel,
    checkpoint: CheckpointInfo,
    batches: Iterator[UnlabelledBatch],
    task_ids: list[int],
    precision: Precision,
) -> Iterator[tuple[UnlabelledBatch, list[torch.Tensor]]]:
    """Yields each batch with the probabilities of every task's classes, `(num_images, num_classes)`, on the CPU."""
    config, device = checkpoint.config, next(model.parameters()).device
    predictor = Predictor(model, config["routing"]["execution"], config["eval"]["task_chunk"])
    predictor.start()
    for batch in batches:
        if not batch.names:
            yield batch, []
            continue
        images = normalise(batch.images.to(device))
        if config["train"]["channels_last"]:
            images = images.to(memory_format=torch.channels_last)
        with autocast(device, precision):
            logits = predictor.logits(images, dict.fromkeys(task_ids))
            yield batch, [values.float().softmax(dim=1).cpu() for _, values in logits]


def skipped_file(out: Path) -> Path:
    return out.with_name(f"{out.name}.skipped.csv")


def list_damaged(out: Path, damaged: list[tuple[str, str]]) -> None:
    """Lists the images that were left out beside the table."""
    path = skipped_file(out)
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([("image", "reason"), *damaged])
    names = shortened(name for name, _ in damaged)
    print(
        f"{program_name('matl-predict')}: {len(damaged)} images were left out: {names}; reasons in {path}",
        file=sys.stderr,
    )
