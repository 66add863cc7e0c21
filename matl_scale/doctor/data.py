"""The shard set against the config: tars and readers, labels of each task, splits."""

from collections.abc import Iterator

import numpy as np

from matl_scale.data.shards.layout import MISSING
from matl_scale.doctor.finding import Finding
from matl_scale.errors import shortened
from matl_scale.train.config import Config
from matl_scale.train.run_data import TRAIN_SPLIT, RunData

FEW_SAMPLES = 10


def check_data(config: Config, data: RunData, world_size: int) -> Iterator[Finding]:
    """Checks what a run reads."""
    yield from check_readers(config, data, world_size)
    splits = [TRAIN_SPLIT] if config.eval.split == TRAIN_SPLIT else [TRAIN_SPLIT, config.eval.split]
    for split in splits:
        yield from check_labels(data, split)


def check_readers(config: Config, data: RunData, world_size: int) -> Iterator[Finding]:
    """Checks tars against ranks × workers, and batches against the samples there are."""
    shards = data.manifest.shards["split"].to_pylist().count(TRAIN_SPLIT)
    readers = world_size * max(config.data.workers, 1)
    text = f"{shards} tars in `{TRAIN_SPLIT}`, {readers} readers ({world_size} ranks × {max(config.data.workers, 1)} workers)"
    if config.data.reading == "stream" and shards < readers:
        remedy = "Use fewer `data.workers`, `data.reading` offsets, or shard again with a smaller --shard-mb."
        yield Finding("error", "data", f"{text}: with `data.reading` stream each reader needs a tar.", remedy)
    elif config.data.reading == "stream" and shards % readers:
        remedy = f"A multiple of {readers} tars would be even (matl-data shard --shard-mb)."
        yield Finding("warning", "data", f"{text}: some readers have more to read than others.", remedy)
    else:
        yield Finding("ok", "data", f"{text}, read by {config.data.reading}.")
    counts = data.count_labelled(TRAIN_SPLIT)
    small = np.flatnonzero((counts > 0) & (counts < config.data.batch_size))
    if len(small):
        names = shortened(f"{data.tasks[i].name} ({counts[i]})" for i in small)
        text = f"{len(small)} tasks have fewer labelled samples than a batch of {config.data.batch_size}: {names}."
        yield Finding(
            "note", "data", f"{text} Their batches are smaller, and every one of them holds all their samples."
        )


def check_labels(data: RunData, split: str) -> Iterator[Finding]:
    """Checks that every task can be learned from, or measured on, a split."""
    counts = count_classes(data, split)
    totals = np.array([count.sum() for count in counts])
    unlabelled = np.flatnonzero(totals == 0)
    one_sided = np.array([i for i, count in enumerate(counts) if totals[i] and (count > 0).sum() == 1], dtype=int)
    missing = np.array([i for i, count in enumerate(counts) if (count > 0).sum() > 1 and (count == 0).any()], dtype=int)
    rare = [i for i, count in enumerate(counts) if (count > 0).all() and count.min() < FEW_SAMPLES]
    training = split == TRAIN_SPLIT

    def names(tasks: np.ndarray | list[int]) -> str:
        return shortened(data.tasks[i].name for i in tasks)

    if len(unlabelled):
        text = f"{len(unlabelled)} tasks have no label in `{split}`: {names(unlabelled)}."
        remedy = "Leave them out with `data.tasks`, or label some." if training else "Their results stay empty."
        yield Finding("error" if training else "warning", "labels", text, remedy)
    if len(one_sided):
        text = f"{len(one_sided)} tasks have one class only (no positive, or no negative) in `{split}`: {names(one_sided)}."
        remedy = "Nothing can be learned from them: leave them out with `data.tasks`, or label more."
        yield Finding(
            "warning", "labels", text, remedy if training else "Their AUROC and average precision stay empty."
        )
    if len(missing):
        text = f"{len(missing)} tasks have classes without a sample in `{split}`: {names(missing)}."
        yield Finding("warning", "labels", text, "matl-data shard --stratify lets every class reach every split.")
    if rare:
        text = f"{len(rare)} tasks have a class with fewer than {FEW_SAMPLES} samples in `{split}`: {names(rare)}."
        remedy = "`data.balance` 0.5 or 1 draws rare classes more often." if training else "Their results are noisy."
        yield Finding("warning" if training else "note", "labels", text, remedy)
    shares = totals / max(data.manifest.splits[split], 1)
    yield Finding(
        "ok",
        "labels",
        f"`{split}`: {data.manifest.splits[split]:,} images × {len(data.tasks)} tasks, {1 - shares.mean():.0%} of the labels "
        f"missing ({1 - shares.max():.0%} to {1 - shares.min():.0%} per task).",
    )


def count_classes(data: RunData, split: str) -> list[np.ndarray]:
    """Returns for each task the labelled samples of each class in a split."""
    labels = data.labels[data.manifest.rows(split)]
    return [
        np.bincount(column[column != MISSING], minlength=task.num_classes)
        for column, task in zip(labels.T, data.tasks, strict=True)
    ]
