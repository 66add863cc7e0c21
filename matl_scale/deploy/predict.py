"""Predictions of many tasks for images that need no labels. Each image is read and decoded once for all tasks."""

import csv
import hashlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pyarrow as pa
import torch

from matl_scale.data.images.file_kinds import PassedOver
from matl_scale.data.images.gate import MAX_PIXELS
from matl_scale.data.images.interface import ListedImages
from matl_scale.data.images.sources import open_images
from matl_scale.deploy.prediction_parts import open_parts
from matl_scale.deploy.prediction_table import build_schema, build_table
from matl_scale.deploy.task_rules import TaskRules
from matl_scale.deploy.unlabelled import UnlabelledBatch, load_unlabelled
from matl_scale.device import Precision, autocast, choose_device
from matl_scale.errors import check_at_least, check_writable
from matl_scale.models.network import RoutedModel
from matl_scale.models.predictor import Predictor
from matl_scale.progress import ItemProgress
from matl_scale.runs.checkpoints.decisions import open_decisions
from matl_scale.runs.checkpoints.network import NetworkConfig, open_network, restore_network
from matl_scale.storage.files import write_text
from matl_scale.tasks import Task, match_names
from matl_scale.text import escape_name

PART_IMAGES = 4096  # what an interruption may lose


@dataclass(frozen=True, kw_only=True)
class PredictionSummary:
    """What `predict` wrote, by the network of which step."""

    num_images: int
    num_tasks: int
    step: int
    damaged: list[tuple[str, str]]  # name and reason of every image that could not be decoded and is not in the table
    decided: str  # what decisions were made for, and what they were fitted on
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
    images, tars or Parquet files, or the URL of a folder of images; images of more than `max_pixels` pixels are left out. With 0
    workers this process reads and decodes.

    An equal call goes on where one that was interrupted has ended, up to `PART_IMAGES` images before; images whose content has
    changed in between, under the same name, are not predicted again.

    Raises:
        InputError: Something given cannot be used; the table is not written then.
    """
    check_writable("--out", out)
    check_at_least(1, {"--batch-size": batch_size, "--max-pixels": max_pixels})
    check_at_least(0, {"--workers": workers})
    checkpoint = open_network(run, which)
    names = list(checkpoint.classes)
    task_ids = match_names(names, patterns, "--tasks")
    tasks = [Task(name=names[task_id], classes=tuple(checkpoint.classes[names[task_id]])) for task_id in task_ids]
    decisions = open_decisions(checkpoint)
    rules = TaskRules.choose(decisions, [task.name for task in tasks])
    source = open_images(images)
    config, model = NetworkConfig.read(checkpoint.config), restore_network(checkpoint, choose_device())
    passed_over = PassedOver()
    listed = list_work(source, batch_size, passed_over)
    about = {"run": str(run), "step": checkpoint.step, "sha256": checkpoint.sha256}
    call = {
        "--run, --checkpoint": checkpoint.sha256,
        "decisions (matl-decide)": TaskRules.choose(decisions, names).sha256(),
        "--images": images if "://" in images else str(Path(images).resolve()),
        "names of the images": listed.sha256,
        "--tasks": [task.name for task in tasks],
        "--batch-size": batch_size,
        "--max-pixels": max_pixels,
    }
    with open_parts(out, call, build_schema(tasks, rules, about)) as parts:
        num_finished = len(parts.finished())
        first = min(num_finished * listed.batches_per_part, len(listed.sizes))
        batches = load_unlabelled(source, batch_size, checkpoint.image_size, config.fit, workers, max_pixels, first)
        predicted = predict_batches(model, config, batches, task_ids)
        with ItemProgress(sum(listed.sizes), "images", sum(listed.sizes[:first])) as progress:
            if first:
                progress.say(f"{progress.done:,} of {progress.total:,} images were finished already")
            for _ in range(num_finished, listed.num_parts):
                with parts.new_part() as part:
                    for batch, logits in islice(predicted, listed.batches_per_part):
                        part.add(tabulate(batch, tasks, rules, logits, parts.schema), batch.damaged)
                        progress.update(progress.done + len(batch.names) + len(batch.damaged))
        damaged = parts.join(out)
        write_skipped(skipped_path(out), damaged)
    return PredictionSummary(
        num_images=sum(listed.sizes) - len(damaged),
        num_tasks=len(task_ids),
        step=checkpoint.step,
        damaged=damaged,
        decided=rules.describe(),
        passed_over=passed_over.describe(),
    )


@dataclass(frozen=True, kw_only=True)
class ListedWork:
    """The images of a call: how many each batch has, how many batches are a part, and a hash of all names."""

    sizes: list[int]
    batches_per_part: int
    sha256: str

    @property
    def num_parts(self) -> int:
        """The number of parts; the last one may be smaller."""
        return -(-len(self.sizes) // self.batches_per_part)


def list_work(images: ListedImages, batch_size: int, passed_over: PassedOver) -> ListedWork:
    """Lists the images, in the batches of `load_unlabelled`, and counts the files that are passed over."""
    digest, sizes = hashlib.sha256(), list[int]()
    for names, _ in images.names(passed_over):
        digest.update("\0".join(map(escape_name, [*names, ""])).encode())
        sizes += [min(batch_size, len(names) - start) for start in range(0, len(names), batch_size)]
    return ListedWork(sizes=sizes, batches_per_part=max(PART_IMAGES // batch_size, 1), sha256=digest.hexdigest())


def tabulate(
    batch: UnlabelledBatch, tasks: Sequence[Task], rules: TaskRules, logits: Sequence[torch.Tensor], schema: pa.Schema
) -> pa.Table | None:
    """Returns the predictions for a batch; None if all its images are damaged."""
    if not batch.names:
        return None
    return build_table(batch.names, tasks, rules, [values.numpy() for values in logits], schema)


def predict_batches(
    model: RoutedModel, config: NetworkConfig, batches: Iterator[UnlabelledBatch], task_ids: Sequence[int]
) -> Iterator[tuple[UnlabelledBatch, list[torch.Tensor]]]:
    """Yields each batch with the logits of every task, each float32, `(num_images, num_classes)`, on the CPU."""
    device = next(model.parameters()).device
    # fp16 does not run on a CPU, and bf16 is slow on most
    precision: Precision = "fp32" if device.type == "cpu" else config.precision
    predictor = Predictor(model, config.routing.execution, config.route_chunk)
    predictor.start()
    for batch in batches:
        if not batch.names:
            yield batch, []
            continue
        images = model.normalise(batch.images.to(device))
        if config.channels_last:
            images = images.to(memory_format=torch.channels_last)
        with autocast(device, precision):
            logits = predictor.logits_of_tasks(images, task_ids)
            yield batch, [values.float().cpu() for values in logits.values()]


def skipped_path(out: Path) -> Path:
    """Returns the path of the list of images that are missing in a table of predictions."""
    return out.with_name(f"{out.name}.skipped.csv")


def write_skipped(path: Path, damaged: Sequence[tuple[str, str]]) -> None:
    """Writes the list of damaged images, or deletes that of an earlier call if there are none."""
    if not damaged:
        path.unlink(missing_ok=True)
        return
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([("image", "reason"), *damaged])
    write_text(path, text.getvalue())
