"""Draws the split of each image by fractions, either plainly or so that rare classes reach every split."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from data_prep.labels.split_names import check_split_name, describe_changes, usual_names
from matl_scale.data.shards.layout import MISSING, count_labels, split_rank
from matl_scale.errors import InputError, shortened
from matl_scale.tasks import Task


@dataclass(frozen=True, kw_only=True)
class Draw:
    """How splits are drawn."""

    fractions: Mapping[str, float]  # share of each new split; the shares add up to 1
    of: str = "train"  # the split whose images are dealt out
    stratify: bool = False  # whether classes are dealt out one by one, rare classes first
    seed: int = 0


def parse_fractions(text: str) -> dict[str, float]:
    """Reads `train=0.8,val=0.1,test=0.1`; raises `InputError` if it is malformed or does not add up to 1. Usual words are
    read as `usual_names` says, and a line says so.
    """
    fractions: dict[str, float] = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        try:
            fractions[check_split_name(name.strip())] = float(value)
        except ValueError as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"--split-fractions should look like train=0.8,val=0.1,test=0.1. Got {text!r}.") from error
    if not min(fractions.values()) > 0 or not abs(sum(fractions.values()) - 1) < 1e-6:
        raise InputError(f"--split-fractions should be positive and add up to 1. Got {text!r}.")
    split_of = usual_names(fractions)
    if len(set(split_of.values())) < len(split_of):
        raise InputError(f"--split-fractions should name each split once. Got {text!r}.")
    if changes := describe_changes(split_of):
        print(f"--split-fractions: {changes}", file=sys.stderr)
    return {split_of[name]: share for name, share in fractions.items()}


def draw_splits(labels: np.ndarray, tasks: Sequence[Task], draw: Draw) -> np.ndarray:
    """Draws the split of each image, a pure function of its arguments. Labels have shape `(num_images, num_tasks)`.

    Returns the index of each image's split in `draw.fractions`, shape `(num_images,)`, uint8. Without stratification, the shares
    are exact up to rounding.
    """
    shares = np.array(list(draw.fractions.values()))
    order = np.random.default_rng(draw.seed).permutation(len(labels))
    if draw.stratify:
        return stratify(labels, tasks, shares, order)
    ends = np.round(np.cumsum(shares) * len(labels)).astype(int)[:-1]
    splits = np.empty(len(labels), dtype=np.uint8)
    for number, images in enumerate(np.split(order, ends)):
        splits[images] = number
    return splits


def stratify(labels: np.ndarray, tasks: Sequence[Task], shares: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Deals out images so that every class has its share in every split: iterative stratification of multi-label data
    (Sechidis, Tsoumakas, Vlahavas, ECML PKDD 2011), with each class dealt once, rarest first.

    Labels have shape `(num_images, num_tasks)`, shares `(num_splits,)`; `order` is the order in which images are dealt, shape
    `(num_images,)`. Returns the split number of each image, shape `(num_images,)`, uint8.
    """
    unset, numbers = 255, np.arange(len(shares), dtype=np.uint8)
    splits = np.full(len(labels), unset, dtype=np.uint8)
    for _, column, value in sorted_classes(labels, tasks):
        images = order[labels[order, column] == value]
        free = images[splits[images] == unset]
        if len(free):
            have = np.bincount(splits[images][splits[images] != unset], minlength=len(shares))
            splits[free] = np.repeat(numbers, apportion(have, shares, len(images)))
    free = order[splits[order] == unset]
    have = np.bincount(splits[splits != unset], minlength=len(shares))
    splits[free] = np.repeat(numbers, apportion(have, shares, len(labels)))
    repair(labels, tasks, splits, order, int(shares.argmax()), len(shares))
    return splits


def repair(
    labels: np.ndarray, tasks: Sequence[Task], splits: np.ndarray, order: np.ndarray, main: int, num_splits: int
) -> None:
    """Moves single images so that every class reaches the main split, and then, if it has enough images, every other split. No
    image is moved if its split would lose a class. An image belongs to several classes, so dealing out one class after the
    other can leave a split without one. Changes `splits`, the split number of each image; `order` is the order in which images
    are tried, and `main` the number of the largest split.
    """
    offsets = np.cumsum([0, *(task.num_classes for task in tasks)])
    counts = np.zeros((num_splits, offsets[-1]), dtype=np.int64)
    for column, task in enumerate(tasks):
        for split in range(num_splits):
            found = count_labels(labels[splits == split, column], task.num_classes)
            counts[split, offsets[column] : offsets[column + 1]] = found
    occurring = sorted_classes(labels, tasks)
    wanted = [(main, entry) for entry in occurring]
    others = [split for split in range(num_splits) if split != main]
    wanted += [(split, entry) for split in others for entry in occurring if entry[0] >= num_splits]
    for split, (_, column, value) in wanted:
        if counts[split, offsets[column] + value]:
            continue
        for image in order[labels[order, column] == value]:
            image_labels = labels[image]
            classes = (offsets[:-1] + image_labels)[image_labels != MISSING]
            others_stay = counts[splits[image], classes] > 1
            rare = counts[:, classes].sum(axis=0) < num_splits  # cannot reach every split; the main split comes first
            if (others_stay | (rare if split == main else False)).all():
                counts[splits[image], classes] -= 1
                counts[split, classes] += 1
                splits[image] = split
                break


def sorted_classes(labels: np.ndarray, tasks: Sequence[Task]) -> list[tuple[int, int, int]]:
    """Lists (images, task, class) of all classes that occur, rarest first."""
    found = []
    for column, task in enumerate(tasks):
        counts = count_labels(labels[:, column], task.num_classes)
        found += [(int(counts[value]), column, int(value)) for value in np.flatnonzero(counts)]
    return sorted(found)


def apportion(have: np.ndarray, shares: np.ndarray, total: int) -> np.ndarray:
    """Returns how many more images each split gets so that all splits together have `total`, and each has one if possible.
    `have` is the number that each split already has, shape `(num_splits,)`; the shares add up to 1.
    """
    left = total - int(have.sum())
    wanted = np.maximum(shares * total, 1 if total >= len(shares) else 0)
    need = np.maximum(wanted - have, 0)
    exact = need * (left / need.sum()) if need.sum() > 0 else shares * left
    given = np.floor(exact + 1e-9).astype(int)
    empty_first = (have + given > 0).astype(float)  # an empty split comes before one with a larger remainder
    for split in np.lexsort((-(exact - given), empty_first))[: left - int(given.sum())]:
        given[split] += 1
    return given


def check_two_classes(counts: Mapping[str, Sequence[np.ndarray]], tasks: Sequence[Task]) -> None:
    """Raises `InputError` if a task has no label, or labels of one class only: there is nothing to learn. `counts` is as for
    `check_classes_in_train`.
    """
    found = []
    for i, task in enumerate(tasks):
        present = np.flatnonzero(sum(split_counts[i] for split_counts in counts.values()))
        if len(present) < 2:
            found.append(f"`{task.name}` has " + (f"only `{task.classes[present[0]]}`" if len(present) else "no label"))
    if found:
        raise InputError(
            f"Every task should have labels of at least two classes among the images of the set. Of {len(tasks)} tasks, "
            f"{len(found)} do not: {shortened(found, 5)}. Leave the tasks out, or label more images."
        )


def check_classes_in_train(counts: Mapping[str, Sequence[np.ndarray]], tasks: Sequence[Task]) -> None:
    """Raises `InputError` if a class occurs in other splits but not in train: nothing can learn it, and its task's metrics would
    mislead. `counts` is the number of samples of each class of each task, by split.
    """
    if "train" not in counts:
        return
    found = []
    for split in sorted(counts, key=split_rank):
        for i, task in enumerate(tasks):
            alone = np.flatnonzero((counts[split][i] > 0) & (counts["train"][i] == 0))
            found += [f"class `{task.classes[c]}` of task `{task.name}` in {split}" for c in alone]
    if found:
        raise InputError(
            f"The label matrix should have every class in train. {len(found)} occur in another split only: "
            f"{shortened(found, 5)}. Draw the splits with --split-fractions and --stratify, leave the task out with "
            "--exclude, or empty these labels."
        )
