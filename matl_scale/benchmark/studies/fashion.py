"""Fashion-MNIST as ten one-vs-rest tasks, and the small network, for studies of labels and losses."""

from collections.abc import Callable
from typing import Any

from data_prep.dataset import Dataset
from data_prep.sources import fashion_mnist
from matl_scale.benchmark.studies.samples import Samples, draw_samples
from matl_scale.benchmark.studies.workbench import Workbench

NUM_TRAIN, NUM_VAL, NUM_TEST = 20_000, 5_000, 10_000
SEEDS = (0, 1, 2)
IMAGES = (
    f"Fashion-MNIST as ten one-vs-rest tasks: for each seed other {NUM_TRAIN:,} of its 60,000 images for train and {NUM_VAL:,} "
    "for val, and all 10,000 of test."
)
BUDGET = (
    "one route, 300 steps with 128 images; the same for all rows. Means over tasks, then over seeds, with 95 % intervals over "
    "seeds."
)
CONDITIONS = f"{IMAGES} ResNet-18 at a quarter of its width, {BUDGET}"
SETTINGS: dict[str, Any] = {
    "data.batch_size": 128,
    "model.width": 0.25,
    "routing.routes": "one",
    "routing.sigma": 1.0,
    "train.steps": 300,
    "train.precision": "fp32",
    "optim.lr": 0.003,
    "optim.warmup_steps": 30,
    "eval.every": 0,
}
NARROW = {**SETTINGS, "model.width": 0.125}  # for studies of many trainings
NARROW_CONDITIONS = f"{IMAGES} ResNet-18 at an eighth of its width, {BUDGET}"


def read_and_change(bench: Workbench, seed: int, change: Callable[[Samples], Samples]) -> Dataset:
    """Returns the images that a seed draws, with changed labels."""
    samples = draw_samples(fashion_mnist.build(bench.data["fashion_mnist"]), NUM_TRAIN, NUM_VAL, NUM_TEST, seed)
    return change(samples).as_dataset()
