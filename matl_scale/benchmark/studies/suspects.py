"""Study `suspects`: labels of Fashion-MNIST made wrong on purpose, and how many of them `matl-report --suspects` finds."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from data_prep.sources import fashion_mnist
from matl_scale.benchmark.studies.fashion import CONDITIONS, NUM_TEST, NUM_TRAIN, NUM_VAL, SEEDS, SETTINGS
from matl_scale.benchmark.studies.samples import Samples, draw_samples
from matl_scale.benchmark.studies.study import Single, Study
from matl_scale.benchmark.studies.workbench import Workbench
from matl_scale.report.suspects.search import search_run
from matl_scale.report.suspects.suspect_list import Suspect
from matl_scale.runs.history import RunHistory
from matl_scale.tasks import Task

WRONG = 0.02  # share of the labels of each task and split
ARTICLE = "article"  # the task of all ten classes, beside one task for each class
ROWS: dict[str, Callable[[str], bool]] = {  # of the table: of which tasks the labels are
    "one task of ten classes": lambda task: task == ARTICLE,
    "ten one-vs-rest tasks": lambda task: task != ARTICLE,
    "all eleven tasks": lambda _: True,
}


def singles(bench: Workbench) -> Iterator[Single]:
    for seed in SEEDS:
        yield from train_one(bench, seed)


def train_one(bench: Workbench, seed: int) -> Iterator[Single]:
    def data() -> Path:
        return bench.shard_set(f"suspects-seed{seed}", lambda: with_wrong_labels(draw(bench, seed), seed).as_dataset())

    settings = {**SETTINGS, "run.seed": seed}
    values = bench.run(f"suspects-seed{seed}", data, settings, lambda folder: measure(bench, seed, folder))
    if not values:
        return
    for row in ROWS:
        columns = {key.removeprefix(f"{row}, "): value for key, value in values.items() if key.startswith(f"{row}, ")}
        yield Single(table="labels", row=row, seed=seed, values=columns)


def draw(bench: Workbench, seed: int) -> Samples:
    """Returns the images that a seed draws with their true labels: the class of each, and one task per class."""
    samples = draw_samples(fashion_mnist.build(bench.data["fashion_mnist"]), NUM_TRAIN, NUM_VAL, NUM_TEST, seed)
    article = Task(name=ARTICLE, classes=tuple(task.name for task in samples.dataset.tasks))
    labels = np.concatenate([samples.labels.argmax(axis=1)[:, None], samples.labels], axis=1).astype(np.int8)
    return samples.with_tasks([article, *samples.dataset.tasks], labels)


def with_wrong_labels(samples: Samples, seed: int) -> Samples:
    """Returns the samples with a share of the labels of each task and split exchanged for another class, drawn evenly."""
    generator, labels = np.random.default_rng([seed, 1]), samples.labels.copy()
    for split in np.unique(samples.splits):
        rows = np.flatnonzero(samples.splits == split)
        for column, task in enumerate(samples.dataset.tasks):
            chosen = generator.choice(rows, round(WRONG * len(rows)), replace=False)
            shifts = generator.integers(1, task.num_classes, len(chosen))
            labels[chosen, column] = (labels[chosen, column] + shifts) % task.num_classes
    return replace(samples, labels=labels)


def measure(bench: Workbench, seed: int, folder: Path) -> Mapping[str, float]:
    """Returns the values of every row of the table, under row and column."""
    found = search_run(RunHistory(folder))
    wrong = list_wrong(draw(bench, seed), seed, [info.split for info in found.splits])
    values: dict[str, float] = {}
    for row, has in ROWS.items():
        counted = count_found(
            [suspect for suspect in found.ranked if has(suspect.task)], {label for label in wrong if has(label[0])}
        )
        values |= {f"{row}, {column}": value for column, value in counted.items()}
    return values


def list_wrong(true: Samples, seed: int, splits: Sequence[str]) -> set[tuple[str, str]]:
    """Returns task and image of every label of some splits that was made wrong."""
    changed = (with_wrong_labels(true, seed).labels != true.labels) & np.isin(true.splits, splits)[:, None]
    return {(true.dataset.tasks[column].name, true.names[row]) for row, column in np.argwhere(changed).tolist()}


def count_found(suspects: Sequence[Suspect], wrong: set[tuple[str, str]]) -> dict[str, float]:
    """Returns how many suspects are among the labels that were made wrong; the suspects are in the order of their ranks."""
    hits = [(suspect.task, suspect.image) in wrong for suspect in suspects]
    return {
        "made wrong": float(len(wrong)),
        "found among as many first suspects": sum(hits[: len(wrong)]) / len(wrong),
        "suspects": float(len(hits)),
        "made wrong among all suspects": sum(hits) / max(len(hits), 1),
    }


STUDY = Study(
    name="suspects",
    needs=("fashion_mnist",),
    conditions=(
        f"{CONDITIONS} Beside the ten tasks, one of all ten classes. {WRONG:.0%} of the labels of every task are made wrong, in "
        "train, val and test alike; suspects are looked for on val and test."
    ),
    singles=singles,
)
