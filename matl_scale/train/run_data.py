"""The shard set as a run sees it, and the reasons why it cannot feed a run."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from matl_scale.automatic import chosen
from matl_scale.data.images.fit import Fit
from matl_scale.data.loading.config import DataConfig, choose_image_size
from matl_scale.data.loading.damage import DamageLog
from matl_scale.data.loading.feature_batches import FeatureReader
from matl_scale.data.loading.missing import choose_fills
from matl_scale.data.shards.features import FeatureSet, open_features
from matl_scale.data.shards.folds import read_folded
from matl_scale.data.shards.labels import Labels
from matl_scale.data.shards.manifest import Manifest
from matl_scale.data.shards.open_labels import open_labels
from matl_scale.data.shards.reader import SampleReader
from matl_scale.errors import InputError, Problem, shortened
from matl_scale.tasks import Task, match_names
from matl_scale.text import count_of
from matl_scale.train.config import Config, absolute
from matl_scale.train.evaluation import EvalData
from matl_scale.train.features.choose import find_features

TRAIN_SPLIT = "train"


@dataclass(frozen=True, kw_only=True)
class RunData:
    """The shard set as a run sees it."""

    manifest: Manifest  # the shard set
    tasks: list[Task]  # the run's tasks
    labels: Labels  # of all samples, for the run's tasks
    reader: SampleReader  # reads the images
    image_size: int  # side length in pixels
    fit: Fit  # how images of another shape become squares of that size
    workers: int  # loader processes per rank
    max_damaged: float  # share of a split's samples that may turn out damaged
    has_shared_labels: bool = False  # whether all processes of a node share the memory of the labels
    notes: tuple[str, ...] = ()  # what the user should know about how the data were opened, in lines

    @property
    def task_names(self) -> list[str]:
        return [task.name for task in self.tasks]

    @property
    def num_classes(self) -> dict[str, int]:
        """Number of classes by task name, in order."""
        return {task.name: task.num_classes for task in self.tasks}

    def at_size(self, config: Config) -> "RunData":
        """Returns the data with images at the size that was chosen for the run."""
        return replace(self, image_size=chosen(config.data.image_size) or self.image_size)

    def labels_of(self, split: str) -> Labels:
        """Returns the labels of a split."""
        return self.labels.of_samples(self.manifest.sample_ids(split))

    def without_labels(self, task_ids: Sequence[int]) -> "RunData":
        """Returns the data as if some tasks had no labels."""
        return replace(self, labels=self.labels.without(task_ids))

    def count_labelled(self, split: str) -> np.ndarray:
        """Returns the number of labelled samples of each task in a split, shape `(num_tasks,)`."""
        return self.labels_of(split).count()

    def count_classes(self, split: str) -> list[np.ndarray]:
        """Returns the number of samples of each class in a split, for each task."""
        labels = self.labels_of(split)
        return [labels.count_classes(task_id, task.num_classes) for task_id, task in enumerate(self.tasks)]

    def count_tars(self, split: str) -> int:
        """Returns the number of tars that a split reads from."""
        return len(self.manifest.shards_of(split))

    def describe(self) -> dict[str, Any]:
        """Returns what identifies the data, for the run's records."""
        return {
            "path": absolute(str(self.manifest.root)),
            "manifest_id": self.manifest.id,
            "version": self.manifest.version,
            "splits": self.manifest.splits,
            "tasks": len(self.tasks),
            "image_size": self.image_size,
        }

    def on_features(self, found: FeatureSet) -> "RunData":
        """Returns the data with features instead of images; raises `InputError` if they are those of other images."""
        features, notes = open_features(found, self.manifest)
        return replace(self, reader=FeatureReader(self.manifest, features), notes=(*self.notes, *notes))

    def damage_log(self, split: str) -> DamageLog:
        """Returns an empty log of a split's damaged samples."""
        num_samples = self.manifest.splits[split]
        return DamageLog(split, num_samples, self.max_damaged, str(self.manifest.root))

    def evaluation(self, split: str) -> EvalData:
        """Returns a split to evaluate."""
        sample_ids = self.manifest.sample_ids(split)
        self.manifest.check_shards(split)
        return EvalData(
            sample_ids=sample_ids,
            labels=self.labels,
            reader=self.reader,
            image_size=self.image_size,
            fit=self.fit,
            workers=self.workers,
            damage=self.damage_log(split),
        )


def build_run_data(config: DataConfig, version: str = "") -> RunData:
    """Opens the shard set and chooses the run's tasks.

    Args:
        config: The section `data`.
        version: Version of the labels if the config names none: the one that a resumed run began with.

    Raises:
        InputError: The shard set is missing or damaged, or a pattern of `data.tasks` matches nothing.
    """
    manifest = read_folded(config.path, config.version or version, config.fold, config.fold_seed)
    patterns = None if config.tasks == "*" else config.tasks  # the default means all, even if a task is called so
    task_ids = match_names(manifest.task_names, patterns, "data.tasks")
    labels = open_labels(manifest, task_ids)
    return RunData(
        manifest=manifest,
        tasks=[manifest.tasks[task_id] for task_id in task_ids],
        labels=labels.labels,
        reader=SampleReader(manifest),
        image_size=choose_image_size(manifest, config),
        fit=config.fit,
        workers=chosen(config.workers),
        max_damaged=config.max_damaged,
        has_shared_labels=labels.is_shared,
        notes=tuple(labels.notes),
    )


def open_run_data(config: Config, version: str = "") -> RunData:
    """Opens the shard set as `build_run_data` does, and the features of its images if the run is trained on these.

    Raises:
        InputError: As `build_run_data`, or the features are those of other images.
    """
    data = build_run_data(config.data, version)
    return data.on_features(find_features(config)) if config.model.is_features else data


def check_train_data(data: RunData, config: DataConfig, world_size: int) -> None:
    """Raises `InputError` if the training split cannot feed a run on `world_size` ranks."""
    data.manifest.check_shards(TRAIN_SPLIT)
    for problem in find_data_problems(data, config, world_size):
        raise InputError(str(problem))


def find_data_problems(data: RunData, config: DataConfig, world_size: int) -> Iterator[Problem]:
    """Yields the reasons why the training split cannot feed a run on `world_size` ranks.

    Raises:
        InputError: `data.missing` does not fit the tasks.
    """
    choose_fills(config.missing, data.tasks, config.balance)
    split = f"Split `{TRAIN_SPLIT}` of {data.manifest.root}"
    unlabelled = np.flatnonzero(data.count_labelled(TRAIN_SPLIT) == 0)
    if len(unlabelled):
        names = shortened(data.tasks[i].name for i in unlabelled)
        yield Problem(
            f"{split} has no label for {count_of(len(unlabelled), 'task')}: {names}.",
            "Leave them out with `data.tasks`, or label some samples.",
        )
    if (num_samples := data.manifest.splits[TRAIN_SPLIT]) < 2:
        yield Problem(
            f"{split} should have at least 2 samples, for batch norm. Got {num_samples}.", "Add some samples."
        )
    num_tars, num_workers = data.count_tars(TRAIN_SPLIT), max(chosen(config.workers), 1)
    if config.reading == "stream" and num_tars < world_size * num_workers:
        yield Problem(
            f"`data.reading` stream should have a tar for each of {world_size} ranks × {num_workers} workers. {split} has "
            f"{num_tars}.",
            "Use fewer workers, `data.reading` offsets, or smaller shards (matl-data's --shard-mb).",
        )
