"""Exports the sub-networks of a run's tasks: a file per task, a file per route, or one file for all. Every file is read back and
compared with the run's network."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from matl_scale.deploy.export.dense import dense_network
from matl_scale.deploy.export.description import ONE_OUTPUT, Description, FileNames
from matl_scale.deploy.export.formats import Format, check_format, open_exported, write_network
from matl_scale.errors import InputError, RunError, reason_of
from matl_scale.models.network import MEAN, STD, RoutedModel, count_bytes, normalise
from matl_scale.models.predictor import Predictor
from matl_scale.runs.checkpoints.checkpoint import CheckpointInfo
from matl_scale.runs.checkpoints.network import open_network, restore_network
from matl_scale.runs.layout import CHECKPOINT_FILE, RunFolder
from matl_scale.tasks import Task, match_names

NUM_IMAGES = 4
TOLERANCE = 1e-4  # of the task's largest logit, or of 1; rounding in float32 stays far below


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One task's logits from a file beside those of the run's network."""

    task: str
    max_difference: float
    largest_logit: float  # of the run's network, by absolute value

    @property
    def limit(self) -> float:
        """The difference that rounding explains."""
        return TOLERANCE * max(1.0, self.largest_logit)


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A file with the weights of a network, compared with the run's network task by task."""

    path: Path
    num_bytes: int
    share: float  # of the size of the trunk with the heads of these tasks
    comparisons: tuple[Comparison, ...]

    def describe(self) -> str:
        tasks = f"{len(self.comparisons)} tasks, " if len(self.comparisons) > 1 else ""
        size = f"{self.num_bytes / 1e6:.3g} MB, {self.share:.1%} of the full network"
        difference, largest = (
            max(getattr(found, name) for found in self.comparisons) for name in ("max_difference", "largest_logit")
        )
        return f"{self.path}: {tasks}{size}, max |Δ logit| {difference:.1e} (logits to {largest:.3g})"

    def check(self) -> None:
        """Raises `RunError` if the logits of a task differ by more than rounding explains."""
        for found in self.comparisons:
            if not found.max_difference <= found.limit:
                raise RunError(
                    f"{self.path} gives other logits than the run's network for task `{found.task}`: they differ by "
                    f"{found.max_difference:.3g}, where rounding explains {found.limit:.3g}. Do not use the file; please "
                    "report this."
                )


def export_run(
    run: Path,
    kind: Format,
    *,
    tasks: Sequence[str] | None = None,
    routes: Sequence[str] | None = None,
    out: Path | None = None,
    which: str = "best",
) -> Iterator[Exported]:
    """Writes sub-networks to a folder, and yields each file when it is written and compared.

    The network is one of a run's folder, chosen as in `open_network`, or a checkpoint by itself.

    Args:
        run: The run's folder.
        kind: The format of the files.
        tasks: Patterns of task names, for a file per task.
        routes: Patterns of route names, for a file per route with all its tasks. With neither, one file has all tasks.
        out: The folder; by default `export` in the run's folder.
        which: As in `open_network`.

    Raises:
        InputError: There is no such network, task or route, a package is missing, or the folder cannot be written.
    """
    check_format(kind)
    checkpoint = open_network(run, which)
    names = FileNames.choose(list(checkpoint.classes), checkpoint.routes.names)
    files = choose_files(checkpoint, names, kind, tasks, routes)
    if out is None and (run / CHECKPOINT_FILE).is_file():
        raise InputError(f"--out should be given: {run} is a checkpoint, which its run may remove.")
    out = out or RunFolder(run).export_folder
    model = restore_network(checkpoint, torch.device("cpu"))
    try:
        for path, task_ids in files:
            stem = out / path
            stem.parent.mkdir(parents=True, exist_ok=True)
            yield export_file(model, task_ids, describe_tasks(checkpoint, task_ids, names.tasks), stem, kind)
    except OSError as error:
        raise InputError(f"--out {out} cannot be written: {reason_of(error, 'Choose another folder.')}") from error


def choose_files(
    checkpoint: CheckpointInfo,
    names: FileNames,
    kind: Format,
    tasks: Sequence[str] | None,
    routes: Sequence[str] | None,
) -> list[tuple[str, list[int]]]:
    """Returns the path of each file below the folder, without suffix, and its tasks."""
    if tasks is not None:
        return [(names.tasks[task_id], [task_id]) for task_id in match_names(list(checkpoint.classes), tasks, "--task")]
    if routes is not None:
        route_ids = match_names(checkpoint.routes.names, routes, "--route", "routes")
        return [(names.routes[route_id], sorted(checkpoint.routes.tasks_of[route_id])) for route_id in route_ids]
    # weights and their Python module are a folder of their own
    name = f"{names.all_tasks}/network" if kind == "safetensors" else names.all_tasks
    return [(name, list(range(len(checkpoint.classes))))]


def describe_tasks(checkpoint: CheckpointInfo, task_ids: Sequence[int], safe_names: Sequence[str]) -> Description:
    """Describes the network of some tasks; `safe_names` are those of all tasks."""
    names = list(checkpoint.classes)
    return Description(
        tasks=tuple(Task(name=names[i], classes=tuple(checkpoint.classes[names[i]])) for i in task_ids),
        outputs=ONE_OUTPUT if len(task_ids) == 1 else tuple(f"logits_{safe_names[i]}" for i in task_ids),
        image_size=checkpoint.image_size,
        mean=MEAN,
        std=STD,
        run=str(checkpoint.config["run"]["name"]),
        step=checkpoint.step,
        checkpoint_sha256=checkpoint.sha256,
    )


@torch.no_grad()
def export_file(
    model: RoutedModel, task_ids: Sequence[int], description: Description, stem: Path, kind: Format
) -> Exported:
    """Writes the network of some tasks, reads it back and compares it with masked execution."""
    path = write_network(dense_network(model, task_ids), description, stem, kind)
    pixels = (NUM_IMAGES, 3, description.image_size, description.image_size)
    images = normalise(torch.randint(256, pixels, dtype=torch.uint8, generator=torch.Generator().manual_seed(0)))
    found = open_exported(path)(images)
    logits = [found] if isinstance(found, torch.Tensor) else found
    masked = Predictor(model, "masked", route_chunk=0)
    masked.start()
    compared = zip(description.tasks, logits, masked.logits_of_tasks(images, task_ids).values(), strict=True)
    head = model.heads_of(model.routes.route_of[task_ids[0]])[0]
    num_classes = sum(model.num_classes[task_id] for task_id in task_ids)
    full = count_bytes(model.trunk) + (head.in_features + 1) * num_classes * head.weight.itemsize
    num_bytes = path.stat().st_size
    return Exported(
        path=path,
        num_bytes=num_bytes,
        share=num_bytes / full,
        comparisons=tuple(
            Comparison(
                task=task.name,
                max_difference=float((actual - expected).abs().max()),
                largest_logit=float(expected.abs().max()),
            )
            for task, actual, expected in compared
        ),
    )
