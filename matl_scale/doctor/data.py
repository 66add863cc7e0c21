"""The shard set against the config: whether it can feed the run, and what its labels can teach."""

from collections.abc import Iterator

import numpy as np

from matl_scale.automatic import chosen
from matl_scale.data.loading.config import DataConfig
from matl_scale.doctor.finding import Finding
from matl_scale.errors import shortened
from matl_scale.text import count_of
from matl_scale.train.config import Config
from matl_scale.train.losses.task_loss import check_losses
from matl_scale.train.run_data import TRAIN_SPLIT, RunData, find_data_problems

FEW_SAMPLES = 10


def check_data(config: Config, data: RunData, world_size: int) -> Iterator[Finding]:
    """Checks what a run reads, and whether its losses and aims fit that.

    Raises:
        InputError: `data.missing`, the section `loss` or `decide.aim` does not fit the tasks.
    """
    yield from (Finding("note", "labels", f"{note}.") for note in data.notes)
    check_losses(config.loss, data.tasks)
    config.decide.aims(data.task_names)
    for problem in find_data_problems(data, config.data, world_size):
        yield Finding("error", "data", problem.text, problem.remedy)
    yield from check_readers(config.data, data, world_size)
    for split in dict.fromkeys((TRAIN_SPLIT, config.eval.split)):
        yield from check_labels(data, split, chosen(config.data.batch_size))


def check_readers(config: DataConfig, data: RunData, world_size: int) -> Iterator[Finding]:
    """Checks whether ranks and workers get equally many tars. `find_data_problems` reports too few of them."""
    num_tars, num_workers = data.count_tars(TRAIN_SPLIT), max(chosen(config.workers), 1)
    readers = world_size * num_workers
    product = f"{count_of(world_size, 'rank')} × {count_of(num_workers, 'worker')}"
    text = f"{count_of(num_tars, 'tar')} in `{TRAIN_SPLIT}`, {count_of(readers, 'reader')} ({product})"
    if config.reading != "stream" or (num_tars >= readers and num_tars % readers == 0):
        yield Finding("ok", "data", f"{text}, read by {config.reading}.")
    elif num_tars >= readers:
        remedy = f"A multiple of {readers} tars would be even (matl-data shard --shard-mb)."
        yield Finding("warning", "data", f"{text}: some readers have more to read than others.", remedy)


def check_labels(data: RunData, split: str, batch_size: int) -> Iterator[Finding]:
    """Checks that every task can be learned from a split, with batches of `batch_size`, or measured on it."""
    counts = data.count_classes(split)
    totals = np.array([count.sum() for count in counts])
    present = np.array([(count > 0).sum() for count in counts])
    complete = present == [task.num_classes for task in data.tasks]
    rarest = np.array([count.min() for count in counts])
    training = split == TRAIN_SPLIT

    def describe(tasks: np.ndarray, what: str) -> str:
        names = shortened(data.tasks[i].name for i in np.flatnonzero(tasks))
        return f"{count_of(tasks.sum(), 'task has', plural='tasks have')} {what} in `{split}`: {names}."

    if not training and (tasks := totals == 0).any():  # `find_data_problems` reports them in training
        yield Finding("warning", "labels", describe(tasks, "no label"), "Their results stay empty.")
    if (tasks := present == 1).any():
        remedy = "Nothing can be learned from them: leave them out with `data.tasks`, or label more."
        remedy = remedy if training else "Their AUROC and average precision stay empty."
        yield Finding("warning", "labels", describe(tasks, "one class only (no positive, or no negative)"), remedy)
    if (tasks := (present > 1) & ~complete).any():
        remedy = "matl-data shard --stratify lets every class reach every split."
        yield Finding("warning", "labels", describe(tasks, "classes without a sample"), remedy)
    if (tasks := complete & (rarest < FEW_SAMPLES)).any():
        remedy = "`data.balance` 0.5 or 1 draws rare classes more often." if training else "Their results are noisy."
        text = describe(tasks, f"a class with fewer than {FEW_SAMPLES} samples")
        yield Finding("warning" if training else "note", "labels", text, remedy)
    if training and (tasks := (totals > 0) & (totals < batch_size)).any():
        names = shortened(f"{data.tasks[i].name} ({totals[i]})" for i in np.flatnonzero(tasks))
        text = f"{count_of(tasks.sum(), 'task has', plural='tasks have')} fewer labelled samples than a batch of {batch_size}"
        yield Finding(
            "note", "labels", f"{text}: {names}. Their batches are smaller, and each holds all their samples."
        )
    num_images = data.manifest.splits[split]
    shares = totals / max(num_images, 1)
    text = f"{1 - shares.mean():.0%} of the labels missing ({1 - shares.max():.0%} to {1 - shares.min():.0%} per task)."
    yield Finding(
        "ok", "labels", f"`{split}`: {count_of(num_images, 'image')} × {count_of(len(data.tasks), 'task')}, {text}"
    )
