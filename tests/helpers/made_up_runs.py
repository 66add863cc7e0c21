"""Made-up runs for tests of the report's page: every file of a run, with any number of tasks, written in a second or two.

Two runs with the same `world` have the same labels, and the same tasks and samples are hard for both; `seed` is the run's own.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from scipy.special import ndtri

from data_prep.dataset import from_arrays
from data_prep.planning.make_plan import Options
from data_prep.shard_set import write_shard_set
from helpers.made_up_scores import make_scores
from matl_scale.data.images.array_images import ArrayImages
from matl_scale.data.shards.manifest import Manifest, read_manifest
from matl_scale.data.shards.reader import SampleReader
from matl_scale.metrics.baseline import baseline_p
from matl_scale.metrics.names import COUNTED_METRICS
from matl_scale.metrics.task_metrics import TaskMetrics
from matl_scale.runs import about
from matl_scale.runs.history import RunHistory
from matl_scale.runs.layout import RunFolder
from matl_scale.runs.predictions import Predictions, PredictionsInfo, write_predictions
from matl_scale.runs.records import LocalLog
from matl_scale.tasks import Task

SHARED = 0.8  # correlation of what two runs find hard
STEPS_BETWEEN = 500
PARTS = ["wing", "crown", "belly", "back", "tail", "leg", "bill", "throat", "nape", "eye", "breast", "forehead"]
LOOKS = [
    "brown",
    "grey",
    "black",
    "white",
    "red",
    "striped",
    "spotted",
    "plain",
    "iridescent",
    "long",
    "short",
    "curved",
]
SHAPES = ("round", "pointed", "notched", "forked")


@dataclass(frozen=True, kw_only=True)
class MadeUp:
    """What a made-up run is like."""

    # every fifth task has four classes, the others two. The last has no label in the split, the one before only one class
    # there; the first is never trained
    num_tasks: int = 10
    num_samples: int = 400  # of the split, if there is no shard set
    num_evaluations: int = 20
    split: str = "test"  # what is evaluated
    world: int = 0  # the seed of the labels and of how hard tasks and samples are
    seed: int = 0  # the seed of the run
    gain: Any = 0.0  # what is added to the recall of rare classes: a number, or an array with one per task
    names: tuple[str, ...] | None = None  # the names of the tasks, instead of made-up ones
    decided: bool = False  # whether decisions were fitted
    classes: tuple[str, ...] = ("no", "yes")  # the classes of the binary tasks
    config: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # sections that replace those of the config

    def tasks(self) -> list[Task]:
        names = self.names or [name_task(i) for i in range(self.num_tasks)]
        return [
            Task(name=name, classes=SHAPES if i % 5 == 4 else self.classes, source="made up")
            for i, name in enumerate(names)
        ]

    def labels(self) -> np.ndarray:
        """Draws class indices, shape `(num_samples, num_tasks)`; tasks miss up to nine tenths of their labels."""
        generator, tasks = np.random.default_rng([self.world, 1]), self.tasks()
        labels = np.empty((self.num_samples, len(tasks)), dtype=np.int16)
        for i, task in enumerate(tasks):
            weights = np.geomspace(1, generator.uniform(0.06, 0.9), task.num_classes)
            labels[:, i] = generator.choice(task.num_classes, self.num_samples, p=weights / weights.sum())
        labels[generator.random(labels.shape) < generator.uniform(0, 0.9, len(tasks))] = -1
        labels[:, -1] = -1
        labels[labels[:, -2] > 0, -2] = -1
        return labels


def name_task(i: int) -> str:
    round_ = i // (len(PARTS) * len(LOOKS))
    return f"{PARTS[i % len(PARTS)]}_{LOOKS[i // len(PARTS) % len(LOOKS)]}" + (f"_{round_}" if round_ else "")


def write_run(folder: Path, made_up: MadeUp, shards: Path | None = None) -> RunHistory:
    """Writes the folder of a run.

    Args:
        folder: The folder, which is created.
        made_up: What the run is like.
        shards: A shard set that has the split; its tasks, labels and images are used.
    """
    folder.mkdir(parents=True)
    tasks, labels, keys = made_up.tasks(), made_up.labels(), np.arange(made_up.num_samples)
    test_set = f"world {made_up.world}"
    if shards is not None:
        manifest = read_manifest(shards)
        sample_ids, test_set = manifest.sample_ids(made_up.split), manifest.hash_shards(made_up.split)
        tasks, labels = list(manifest.tasks), manifest.labels()[sample_ids].astype(np.int16)
        keys = SampleReader(manifest).keys(sample_ids)
    predicted, confidences, skill = predict(made_up, tasks, labels)
    final = measure(labels, predicted, skill)
    if made_up.decided:
        final = final.with_values(decide(final))
    steps = [STEPS_BETWEEN * (i + 1) for i in range(made_up.num_evaluations)]
    write_config(folder, made_up, steps[-1], labels.shape, shards)
    write_history(LocalLog(folder), made_up, [task.name for task in tasks], final, steps)
    info = PredictionsInfo(split=made_up.split, step=steps[-1], tasks=tuple(tasks), test_set=test_set)
    scores = make_scores(tasks, predicted, confidences)
    found = Predictions(samples=keys, labels=labels, predicted=predicted, log_odds=scores, info=info)
    write_predictions(RunFolder(folder).predictions_file(made_up.split), found)
    return RunHistory(folder)


def predict(made_up: MadeUp, tasks: list[Task], labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Predicts every sample. Returns class indices, confidences, and the skill of each task."""
    world, luck = np.random.default_rng([made_up.world, 2]), np.random.default_rng([made_up.world, made_up.seed, 3])
    skill = 1 - world.gamma(1.6, 0.12, len(tasks)) + made_up.gain + luck.normal(0, 0.01, len(tasks))
    skill = np.clip(skill, 0.2, 0.99)
    trouble = SHARED * world.normal(size=labels.shape) + np.sqrt(1 - SHARED**2) * luck.normal(size=labels.shape)
    predicted, confidences = labels.copy(), np.full(labels.shape, np.nan, dtype=np.float16)
    for i, task in enumerate(tasks):
        truth, num_classes = labels[:, i], task.num_classes
        share = np.bincount(truth[truth >= 0], minlength=num_classes) / max((truth >= 0).sum(), 1)
        rare = share.min() / max(share.max(), 1e-9)  # a network that knows little predicts the frequent class
        recall = np.where(share >= share.max(), 1 - (1 - skill[i]) * rare, skill[i])
        wrong = (truth >= 0) & (trouble[:, i] > ndtri(recall)[truth])
        predicted[wrong, i] = (truth[wrong] + luck.integers(1, num_classes, wrong.sum())) % num_classes
        sure = np.where(wrong, luck.beta(2, 3, len(wrong)), luck.beta(5, 2, len(wrong)))
        confidences[truth >= 0, i] = (1 / num_classes + (1 - 1 / num_classes) * sure)[truth >= 0]
    return predicted, confidences, skill


def measure(labels: np.ndarray, predicted: np.ndarray, skill: np.ndarray) -> TaskMetrics:
    """Computes the metrics of all tasks from their predictions; AUROC and average precision are made up from the skill."""
    values = {name: np.full(labels.shape[1], np.nan) for name in COUNTED_METRICS}
    values["smallest_class"] = np.zeros(labels.shape[1])
    for i in range(labels.shape[1]):
        labelled = labels[:, i] >= 0
        truth, found = labels[labelled, i], predicted[labelled, i]
        if not len(truth):
            continue
        support = np.bincount(truth)
        recall = np.bincount(truth[truth == found], minlength=len(support))[support > 0] / support[support > 0]
        values["accuracy"][i], values["majority_accuracy"][i] = (truth == found).mean(), support.max() / len(truth)
        values["loss"][i] = 0.1 + 2 * (truth != found).mean()
        if len(recall) > 1:
            values["balanced_accuracy"][i], values["auroc"][i] = recall.mean(), 0.45 + 0.55 * np.sqrt(skill[i])
            values["average_precision"][i] = skill[i] ** 0.4
            for name in ("precision", "recall", "f1"):
                values[name][i] = recall[-1]
            classes = int(max(truth.max(), found.max())) + 1
            confusion = np.bincount(truth * classes + found, minlength=classes**2).reshape(classes, classes)
            values["baseline_p"][i] = baseline_p(confusion)
            values["smallest_class"][i] = np.bincount(truth, minlength=2).min()
    return TaskMetrics(values=values, counts=(labels >= 0).sum(axis=0))


def decide(metrics: TaskMetrics) -> dict[str, np.ndarray]:
    """Makes up the metrics of decisions: half way from those at argmax to perfect ones."""
    names = ("balanced_accuracy", "accuracy", "precision", "recall", "f1")
    decided = {f"decided_{name}": (1 + metrics.values[name]) / 2 for name in names}
    wrong = 1 - metrics.values["accuracy"]
    return decided | {"ece": wrong / 4, "brier": wrong / 2}


def write_history(log: LocalLog, made_up: MadeUp, names: list[str], final: TaskMetrics, steps: list[int]) -> None:
    """Writes the records, tables and draws of a training that ends with the metrics `final`."""
    generator = np.random.default_rng([made_up.world, made_up.seed, 4])
    pace = generator.uniform(0.1, 0.4, len(names)) * steps[-1]
    sudden = generator.choice([0.15, 0.0, -0.1], len(names), p=[0.02, 0.95, 0.03])  # worse or better at the last moment
    likely = np.append(0.0, generator.dirichlet(np.full(len(names) - 1, 4.0)))
    for step in steps:
        values = dict(final.values)
        if step < steps[-1]:
            left, late = np.exp(-step / pace), sudden * (step == steps[-2])
            for name in set(COUNTED_METRICS) - {"loss", "majority_accuracy", "baseline_p", "smallest_class"}:
                wobble = generator.normal(0, 0.012, len(names))
                values[name] = np.clip(final.values[name] * (1 - left) + 0.5 * left + wobble + late, 0, 1)
            values["loss"] = final.values["loss"] * (1 + left)
        for at in range(step - STEPS_BETWEEN + 20, step + 1, 20):
            log.log(at, training_record(generator, at / steps[-1]))
        summary = TaskMetrics(values=values, counts=final.counts).summary()
        log.log(step, {f"{made_up.split}/{name}": value for name, value in summary.items()})
        log.log_per_task(step, made_up.split, names, TaskMetrics(values=values, counts=final.counts))
        draws = np.round(8 * step * likely).astype(np.int64)
        log.log_draws(step, names, draws, 32 * draws)


def training_record(generator: np.random.Generator, done: float) -> dict[str, float]:
    noise = generator.normal(size=4)
    return {
        "train/lr": 0.003,
        "train/loss": 0.25 + 0.6 * np.exp(-4 * done) + 0.02 * noise[0],
        "train/images_per_s": 5200 + 150 * noise[1],
        "train/step_s": 0.049 + 0.001 * noise[2],
        "train/data_wait_share": abs(0.03 + 0.01 * noise[3]),
        "train/memory_gb": 2.1 + 0.2 * done,
    }


def write_config(folder: Path, made_up: MadeUp, steps: int, shape: tuple[int, ...], shards: Path | None) -> None:
    """Writes config.yaml and about.json; `shape` is `(num_samples, num_tasks)`."""
    data_path = str(shards or folder.parent / "gone")
    config = {
        "run": {"name": folder.name, "dir": str(folder.parent), "seed": made_up.seed},
        "data": {"path": data_path, "version": "", "image_size": 32, "batch_size": 32},
        "model": {"name": "vgg11_bn", "width": 0.25, "stem": "small"},
        "routing": {"sigma": 0.5, "strategy": "random"},
        "train": {"steps": steps, "accumulate": 8, "precision": "bf16"},
        "optim": {"name": "adamw", "lr": 0.003, "head_lr_scale": 10.0},
        "eval": {"every": STEPS_BETWEEN, "split": made_up.split},
    } | {section: dict(values) for section, values in made_up.config.items()}
    text = "# made up\n" + yaml.safe_dump(config, allow_unicode=True)
    RunFolder(folder).config_file.write_text(text, encoding="utf-8")
    data = {
        "path": data_path,
        "version": 2,
        "manifest_id": "5e1f" * 16,
        "splits": {made_up.split: shape[0]},
        "tasks": shape[1],
        "image_size": 32,
    }
    about.write_about(folder, {"train.steps": steps}, data, ["a CPU", "a CPU"])


def write_shapes(root: Path, made_up: MadeUp, size: int = 48, num_train: int = 0) -> Manifest:
    """Writes a shard set with the labels of a made-up run and small pictures of shapes: all of its split. So many of them are for
    training, too."""
    generator, labels = np.random.default_rng([made_up.world, 5]), made_up.labels()
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    pixels = np.empty((len(labels), size, size, 3), dtype=np.uint8)
    for image in pixels:
        light, paint = generator.integers(150, 230, 3), generator.integers(0, 150, 3)
        turn, stretch, power = generator.uniform(0, np.pi), generator.uniform(0.5, 1), generator.choice([1.0, 2.0, 8.0])
        along, across = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
        inside = np.abs(along / 0.8) ** power + np.abs(across / 0.8 / stretch) ** power < 1
        image[:] = np.where(inside[..., None], paint, light) + generator.integers(0, 25, (size, size, 1))
    tasks = made_up.tasks()
    # a set has two classes of every task; those that the split lacks are in another one
    both = [[0] * len(tasks), [1] * len(tasks)]
    dataset = from_arrays(
        tasks=tasks,
        names=[f"shapes/{i:05d}.png" for i in range(len(labels) + 2 + num_train)],
        labels=np.concatenate([labels, both, labels[:num_train]]),
        splits=[made_up.split] * len(labels) + ["train" if num_train else "unused"] * 2 + ["train"] * num_train,
        images=ArrayImages(root="memory", pixels=np.concatenate([pixels, ~pixels[:2], pixels[:num_train]])),
    )
    manifest = write_shard_set(lambda _: dataset, root, Options())
    assert manifest is not None
    return manifest
