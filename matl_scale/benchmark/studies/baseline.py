"""Study `baseline`: how often a network that knows nothing is said to have learned a task.

Weights are random, and so are the labels, on real images: whatever task is named is named by chance. The run is an ordinary
one, so that evaluation, fitted decisions and tests are those of every run, but its heads are drawn, and the learning rate is 0.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data_prep.dataset import Dataset
from data_prep.sources import fashion_mnist
from matl_scale.benchmark.inputs import binary_tasks
from matl_scale.benchmark.studies.samples import draw_samples
from matl_scale.benchmark.studies.study import Single, Study
from matl_scale.benchmark.studies.workbench import Workbench, train_and_evaluate
from matl_scale.runs.history import RunHistory
from matl_scale.train.config import Config
from matl_scale.train.loop import Hooks, Run

NUM_TASKS, NUM_SEEDS = 200, 50
NUM_IMAGES = 2_000  # of each split
RAREST, MOST_FREQUENT = 0.01, 0.5
SETTINGS: dict[str, Any] = {
    "model.width": 0.125,
    "routing.routes": "one",
    "routing.sigma": 1.0,
    "train.steps": 1,
    "train.precision": "fp32",
    "optim.lr": 0.0,
    "eval.every": 0,
}


def singles(bench: Workbench) -> Iterator[Single]:
    at_random = replace(bench, train=evaluate_at_random)
    for seed in range(NUM_SEEDS):
        name = f"baseline-seed{seed}"

        def data(name: str = name, seed: int = seed) -> Path:
            return bench.shard_set(name, lambda: with_random_labels(bench, seed))

        if values := at_random.run(name, data, {**SETTINGS, "run.seed": seed}, measure):
            yield Single(table="split", row="any task named", seed=seed, values=values)


def evaluate_at_random(config: Config) -> None:
    """Evaluates a network of random weights, which stay as they are."""

    def draw_heads(run: Run) -> None:
        torch.manual_seed(config.run.seed)
        for head in run.state.model.heads.parameters():
            torch.nn.init.normal_(head)

    train_and_evaluate(config, Hooks(before_step=draw_heads))


def with_random_labels(bench: Workbench, seed: int) -> Dataset:
    """Returns real images with labels drawn at random, at a rate of positives that rises from task to task in equal factors."""
    samples = draw_samples(fashion_mnist.build(bench.data["fashion_mnist"]), NUM_IMAGES, NUM_IMAGES, NUM_IMAGES, seed)
    rates = np.geomspace(RAREST, MOST_FREQUENT, NUM_TASKS)
    labels = (np.random.default_rng(seed).random((len(samples.names), NUM_TASKS)) < rates).astype(np.int8)
    return samples.with_tasks(binary_tasks(NUM_TASKS), labels).as_dataset()


def measure(folder: Path) -> Mapping[str, float]:
    """Returns for each split 1 if any task is said to be learned, else 0."""
    history = RunHistory(folder)
    return {split: float(num_learned(history, split) > 0) for split in ("val", "test")}


def num_learned(history: RunHistory, split: str) -> int:
    metrics = history.latest(split).metrics
    return int((np.isfinite(metrics.values["baseline_p"]) & ~metrics.not_learned).sum())


STUDY = Study(
    name="baseline",
    needs=("fashion_mnist",),
    conditions=(
        f"Networks of random weights, and {NUM_TASKS} tasks with random labels, {RAREST:.0%} to {MOST_FREQUENT:.0%} of them "
        f"positive, on {NUM_IMAGES:,} images of Fashion-MNIST for each split; decisions fitted on val. A cell says how "
        "many seeds name any task as learned, with the exact 95 % interval of their share."
    ),
    singles=singles,
    are_shares=True,
)
