"""Exports the sub-networks of a run's tasks: a file per task, read back and compared with the run's network."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from matl_scale.deploy.export.dense import dense_network
from matl_scale.deploy.export.description import Description, file_stem
from matl_scale.deploy.export.formats import Format, check_format, open_exported, write_network
from matl_scale.errors import InputError, RunError
from matl_scale.models.network import MEAN, STD, RoutedModel, count_bytes, normalise
from matl_scale.runs.checkpoints.checkpoint import CheckpointInfo
from matl_scale.runs.checkpoints.network import open_network, restore_network
from matl_scale.runs.layout import CHECKPOINT_FILE, RunFolder
from matl_scale.tasks import match_names

NUM_IMAGES = 4
TOLERANCE = 1e-4  # of the largest logit, or of 1; rounding in float32 stays far below


@dataclass(frozen=True, kw_only=True)
class Exported:
    """One task's file with its weights, compared with the run's network."""

    path: Path
    num_bytes: int
    share: float  # of the size of the trunk with this task's head
    max_difference: float  # of a logit from that of the run's network
    largest_logit: float  # of the run's network, by absolute value

    def describe(self) -> str:
        size = f"{self.num_bytes / 1e6:.3g} MB, {self.share:.1%} of the full network"
        return f"{self.path}: {size}, max |Δ logit| {self.max_difference:.1e} (logits to {self.largest_logit:.3g})"

    def check(self) -> None:
        """Raises `RunError` if the logits differ by more than rounding explains."""
        limit = TOLERANCE * max(1.0, self.largest_logit)
        if not self.max_difference <= limit:
            raise RunError(
                f"{self.path} gives other logits than the run's network: they differ by {self.max_difference:.3g}, where "
                f"rounding explains {limit:.3g}. Do not use the file; please report this."
            )


def export_tasks(
    run: Path, patterns: Sequence[str], kind: Format, out: Path | None = None, which: str = "best"
) -> Iterator[Exported]:
    """Writes the sub-networks of tasks to a folder, and yields each when it is written and compared.

    The network is one of a run's folder, chosen as in `open_network`, or a checkpoint by itself. By default the files go to
    `export` in the run's folder.

    Raises:
        InputError: There is no such network or task, a package is missing, or the folder cannot be written.
    """
    check_format(kind)
    checkpoint = open_network(run, which)
    names = list(checkpoint.classes)
    task_ids = match_names(names, patterns, "--task")
    if out is None and (run / CHECKPOINT_FILE).is_file():
        raise InputError(f"--out should be given: {run} is a checkpoint, which its run may remove.")
    out = out or RunFolder(run).export_folder
    model = restore_network(checkpoint, torch.device("cpu"))
    try:
        out.mkdir(parents=True, exist_ok=True)
        for task_id in task_ids:
            stem = out / file_stem(names[task_id], names)
            yield export_task(model, task_id, describe_task(checkpoint, names[task_id]), stem, kind)
    except OSError as error:
        raise InputError(f"--out {out} cannot be written: {error.strerror or error}. Choose another folder.") from error


def describe_task(checkpoint: CheckpointInfo, task: str) -> Description:
    return Description(
        task=task,
        classes=tuple(checkpoint.classes[task]),
        image_size=checkpoint.image_size,
        mean=MEAN,
        std=STD,
        run=str(checkpoint.config["run"]["name"]),
        step=checkpoint.step,
        checkpoint_sha256=checkpoint.sha256,
    )


@torch.no_grad()
def export_task(model: RoutedModel, task_id: int, description: Description, stem: Path, kind: Format) -> Exported:
    """Writes a task's network, reads it back and compares it with masked execution."""
    path = write_network(dense_network(model, task_id), description, stem, kind)
    pixels = (NUM_IMAGES, 3, description.image_size, description.image_size)
    images = normalise(torch.randint(256, pixels, dtype=torch.uint8, generator=torch.Generator().manual_seed(0)))
    expected = model(images, model.routes.route_of[task_id])[:, model.columns_of(task_id)]
    (head, *_), num_classes = model.heads_of(model.routes.route_of[task_id]), model.num_classes[task_id]
    full = count_bytes(model.trunk) + (head.in_features + 1) * num_classes * head.weight.itemsize
    num_bytes = path.stat().st_size
    return Exported(
        path=path,
        num_bytes=num_bytes,
        share=num_bytes / full,
        max_difference=float((open_exported(path)(images) - expected).abs().max()),
        largest_logit=float(expected.abs().max()),
    )
