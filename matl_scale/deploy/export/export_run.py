"""Exports the sub-networks of a run's tasks: a file per task, a file per route, or one file for all. Every file is read back and
compared with the run's network."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from matl_scale.decisions.rule import DecisionRule
from matl_scale.decisions.table import Decisions
from matl_scale.deploy.export.dense import dense_network
from matl_scale.deploy.export.description import OUTPUT_NAMES, Description, FileNames, Format
from matl_scale.deploy.export.formats import check_format, open_exported, write_network
from matl_scale.deploy.task_rules import Output, TaskRules, apply_rule
from matl_scale.errors import InputError, RunError, reason_of
from matl_scale.models.network import RoutedModel, count_bytes
from matl_scale.models.predictor import Predictor
from matl_scale.runs.checkpoints.checkpoint import CheckpointInfo
from matl_scale.runs.checkpoints.decisions import open_decisions
from matl_scale.runs.checkpoints.network import NetworkConfig, open_network, restore_network
from matl_scale.runs.layout import CHECKPOINT_FILE, RunFolder
from matl_scale.tasks import Task, match_names

NUM_IMAGES = 4
TOLERANCE = 1e-4  # of the task's largest logit, or of 1; rounding in float32 stays far below
DIFFERENCES: dict[Output, str] = {
    "logits": "max |Δ logit|",
    "probabilities": "max |Δ probability|",
    "decisions": "score of the decided class below the best by at most",
}


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One task's output from a file beside that of the run's network.

    Of decisions, the difference is by how much the score of the decided class (its calibrated logit and decision offset) is below
    the best one: more than 0 only where decisions differ, and more than rounding only where they should not.
    """

    task: str
    max_difference: float
    largest_logit: float  # of the run's network and, unless it is the output, of what it becomes; by absolute value

    @property
    def limit(self) -> float:
        """The difference that rounding explains."""
        return TOLERANCE * max(1.0, self.largest_logit)


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A file with the weights of a network, compared with the run's network task by task."""

    path: Path
    output: Output
    num_bytes: int
    share: float  # of the size of the trunk with the heads of these tasks
    comparisons: tuple[Comparison, ...]

    def describe(self) -> str:
        tasks = f"{len(self.comparisons)} tasks, " if len(self.comparisons) > 1 else ""
        size = f"{self.num_bytes / 1e6:.3g} MB, {self.share:.1%} of the full network"
        difference, largest = (
            max(getattr(found, name) for found in self.comparisons) for name in ("max_difference", "largest_logit")
        )
        compared = f"{DIFFERENCES[self.output]} {difference:.1e} (logits to {largest:.3g})"
        if self.output == "decisions" and difference == 0:
            compared = "equal decisions"
        return f"{self.path}: {tasks}{size}, {compared}"

    def check(self) -> None:
        """Raises `RunError` if the output of a task differs by more than rounding explains."""
        for found in self.comparisons:
            if not found.max_difference <= found.limit:
                raise RunError(
                    f"{self.path} gives other {self.output} than the run's network for task `{found.task}`: they differ by "
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
    output: Output = "logits",
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
        output: What the files give: logits as trained, calibrated probabilities, or decisions.

    Raises:
        InputError: There is no such network, task or route, a package is missing, or the folder cannot be written.
    """
    check_format(kind)
    checkpoint = open_network(run, which)
    decisions = open_decisions(checkpoint)
    names = FileNames.choose(list(checkpoint.classes), checkpoint.routes.names)
    files = choose_files(checkpoint, names, kind, tasks, routes)
    out = choose_folder(run, out)
    model = restore_network(checkpoint, torch.device("cpu"))
    try:
        for path, task_ids in files:
            stem = out / path
            stem.parent.mkdir(parents=True, exist_ok=True)
            description = describe_network(model, checkpoint, decisions, task_ids, names.tasks, output)
            yield export_file(model, task_ids, description, stem, kind)
    except OSError as error:
        raise InputError(f"--out {out} cannot be written: {reason_of(error, 'Choose another folder.')}") from error


def choose_folder(run: Path, out: Path | None, name: str = "") -> Path:
    """Returns the folder to write to: `out` if it is given, else `name` in the run's folder for exports.

    Raises:
        InputError: The run is a checkpoint by itself, which has no such folder.
    """
    if out is None and (run / CHECKPOINT_FILE).is_file():
        raise InputError(f"--out should be given: {run} is a checkpoint, which its run may remove.")
    return out or RunFolder(run).export_folder / name


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


def describe_network(
    model: RoutedModel,
    checkpoint: CheckpointInfo,
    decisions: Decisions,
    task_ids: Sequence[int],
    safe_names: Sequence[str],
    output: Output,
) -> Description:
    """Describes the network of some tasks; `safe_names` are those of all tasks."""
    names, prefix = list(checkpoint.classes), OUTPUT_NAMES[output]
    return Description(
        tasks=tuple(Task(name=names[i], classes=tuple(checkpoint.classes[names[i]])) for i in task_ids),
        outputs=(prefix,) if len(task_ids) == 1 else tuple(f"{prefix}_{safe_names[i]}" for i in task_ids),
        output=output,
        rules=TaskRules.choose(decisions, [names[i] for i in task_ids]),
        image_size=checkpoint.image_size,
        fit=NetworkConfig.read(checkpoint.config).fit,
        mean=model.mean,
        std=model.std,
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
    images = model.normalise(torch.randint(256, pixels, dtype=torch.uint8, generator=torch.Generator().manual_seed(0)))
    found = open_exported(path)(images)
    outputs = [found] if isinstance(found, torch.Tensor) else found
    masked = Predictor(model, "masked", route_chunk=0)
    masked.start()
    logits = masked.logits_of_tasks(images, task_ids).values()
    compared = zip(description.tasks, description.rules.rules, outputs, logits, strict=True)
    head = model.heads_of(model.routes.route_of[task_ids[0]])[0]
    num_classes = sum(model.num_classes[task_id] for task_id in task_ids)
    full = count_bytes(model.trunk) + (head.in_features + 1) * num_classes * head.weight.itemsize
    num_bytes = path.stat().st_size
    return Exported(
        path=path,
        output=description.output,
        num_bytes=num_bytes,
        share=num_bytes / full,
        comparisons=tuple(
            compare(task.name, rule, description.output, actual.numpy(), expected.numpy())
            for task, rule, actual, expected in compared
        ),
    )


def compare(task: str, rule: DecisionRule, output: Output, actual: np.ndarray, logits: np.ndarray) -> Comparison:
    """Compares what a file gives for a task with what follows from the logits of the run's network, `(batch, num_classes)`."""
    largest = np.abs(logits).max()
    if output != "logits":
        largest = max(rule.scale * largest, np.abs(rule.calibrated(logits)).max())
    if output == "decisions":
        scores = rule.calibrated(logits.astype(np.float64)) + rule.decision_offsets
        chosen = scores[np.arange(len(scores)), actual]
        difference = (scores.max(axis=1) - chosen).max()
    else:
        difference = np.abs(actual - apply_rule(rule, logits, output)).max()
    return Comparison(task=task, max_difference=float(difference), largest_logit=float(largest))
