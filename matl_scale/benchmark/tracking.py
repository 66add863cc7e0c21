"""Suite `tracking`: the cost of logging in a run of a thousand tasks, beside the naive way.

The naive way logs every task × metric as an MLflow metric, through Accelerate's tracker. Both log the same run, and the page
of each is opened in a headless Chromium.
"""

import functools
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from accelerate import Accelerator

from data_prep.dataset import Dataset, from_arrays
from data_prep.planning.make_plan import Options
from data_prep.shard_set import write_shard_set
from matl_scale.benchmark.figure import Conditions, Figure
from matl_scale.benchmark.inputs import binary_tasks
from matl_scale.benchmark.pages import find_chromium, only_run, run_page_seconds
from matl_scale.data.images.array_images import ArrayImages
from matl_scale.data.loading.config import DataConfig
from matl_scale.models.config import ModelConfig
from matl_scale.models.routing_config import RoutingConfig
from matl_scale.runs.history import RunHistory
from matl_scale.tracking.mlflow_store import sqlite_uri
from matl_scale.tracking.recorder import Recorder, TrackConfig
from matl_scale.train import run as run_module
from matl_scale.train.config import Config, RunConfig
from matl_scale.train.evaluation import EvalConfig
from matl_scale.train.process_group import build_accelerator
from matl_scale.train.run import train
from matl_scale.train.schedule import CheckpointConfig
from matl_scale.train.step.train_step import TrainConfig

NUM_TASKS, NUM_IMAGES, STEPS, EVALUATIONS = 1000, 300, 200, 20
RECORDING = ("record", "record_evaluation", "record_draws", "record_balance", "wait_for_tables")


@dataclass(frozen=True, kw_only=True)
class TrackedRun:
    """Measurements of one run."""

    loop_s: float  # the training loop with evaluations and records
    ours_s: float  # the part of it spent on records
    naive_s: float  # the naive way for the same values
    keys: tuple[int, int]  # number of metric keys, naive and ours
    pages_s: tuple[float, float]  # until the run's page shows its metrics, naive and ours


def random_set(_: Path) -> Dataset:
    """Returns random images with random labels, a third of them for validation."""
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (NUM_IMAGES, 16, 16, 3), dtype=np.uint8)
    return from_arrays(
        tasks=binary_tasks(NUM_TASKS),
        names=[f"{i:04d}.png" for i in range(NUM_IMAGES)],
        labels=generator.integers(0, 2, (NUM_IMAGES, NUM_TASKS)).astype(np.int8),
        splits=["val" if i % 3 == 2 else "train" for i in range(NUM_IMAGES)],
        images=ArrayImages(root="memory", pixels=pixels),
    )


def build_config(folder: Path) -> Config:
    return Config(
        run=RunConfig(name="ours", dir=str(folder)),
        data=DataConfig(path=str(folder / "set"), batch_size=16, workers=0),
        model=ModelConfig(name="vgg11", width=0.0625, stem="small"),
        routing=RoutingConfig(sigma=0.5),
        train=TrainConfig(steps=STEPS, precision="fp32", accumulate=1, ema_decay=0),
        eval=EvalConfig(every=STEPS // EVALUATIONS, batch_size=256, task_chunk=NUM_TASKS),
        checkpoint=CheckpointConfig(every=STEPS),
        track=TrackConfig(every=1),
    )


@contextmanager
def add_up_time(owner: Any, *names: str) -> Iterator[list[float]]:
    """Adds up the seconds that calls of some functions of a module or class take."""
    seconds = [0.0]

    def watch(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*arguments: Any, **options: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                seconds[0] += time.perf_counter() - start

        return call

    watched: dict[str, Any] = {name: watch(getattr(owner, name)) for name in names}
    with mock.patch.multiple(owner, **watched):
        yield seconds


def log_naively(history: RunHistory, store: str, artifacts: Path) -> float:
    """Logs every task × metric of every evaluation through Accelerate's tracker. Returns the seconds that its calls took."""
    import mlflow

    mlflow.set_tracking_uri(store)
    mlflow.create_experiment("naive", artifact_location=artifacts.as_uri())
    accelerator = Accelerator(log_with="mlflow", cpu=True)
    accelerator.init_trackers("naive", init_kwargs={"mlflow": {"run_name": "naive"}})
    seconds = 0.0
    for step in history.steps["val"]:
        rows = history.table.filter(np.asarray(history.table["step"]) == step).to_pylist()
        metrics = {f"{row['task']}/{row['metric']}": row["value"] for row in rows if row["value"] is not None}
        start = time.perf_counter()
        accelerator.log(metrics, step=step)
        seconds += time.perf_counter() - start
    accelerator.end_training()
    return seconds


@functools.cache
def track_run() -> TrackedRun:
    """Trains a run, logs it again in the naive way, and opens the pages of both."""
    from mlflow import MlflowClient

    find_chromium()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        write_shard_set(random_set, folder / "set", Options())
        with add_up_time(run_module, "run_steps") as loop_s, add_up_time(Recorder, *RECORDING) as ours_s:
            train(build_config(folder), build_accelerator("fp32"))
        stores = [sqlite_uri(folder / "naive.db"), sqlite_uri(folder / "mlflow.db")]
        naive_s = log_naively(RunHistory(folder / "ours"), stores[0], folder / "naive")
        runs = [only_run(MlflowClient(store)) for store in stores]
        return TrackedRun(
            loop_s=loop_s[0],
            ours_s=ours_s[0],
            naive_s=naive_s,
            keys=(len(runs[0].data.metrics), len(runs[1].data.metrics)),
            pages_s=tuple(  # type: ignore[arg-type]
                run_page_seconds(store, run.info.experiment_id, run.info.run_id, len(run.data.metrics), folder)
                for store, run in zip(stores, runs, strict=True)
            ),
        )


def figures(conditions: Conditions) -> list[Figure]:  # noqa: ARG001
    def figure(name: str, meaning: str, values: Callable[[TrackedRun], tuple[float, float]], unit: str = "s") -> Figure:
        meaning = f"T = 1,000, {EVALUATIONS} evaluations, one run: {meaning}"
        return Figure(name, meaning, lambda _: np.array([values(track_run())], dtype=float), unit)

    return [
        figure(
            "tracking_share_of_loop", "time of records ÷ training loop, ≤ 0.01", lambda run: (run.ours_s, run.loop_s)
        ),
        figure(
            "tracking_time_vs_naive", "naive ÷ ours, in the training process", lambda run: (run.naive_s, run.ours_s)
        ),
        figure("tracking_keys_vs_naive", "naive ÷ ours, ours ≤ 60", lambda run: run.keys, "keys"),
        figure("tracking_page_vs_naive", "naive ÷ ours, ours ≤ 5 s", lambda run: run.pages_s),
    ]
