"""Suite `many_tasks`: evaluation, records and report of 5,000 tasks with 400 tiny images; and for the suite `tracking`, the
copy of such a run in MLflow.

Evaluation includes the decisions. A route for every task is what the paper has; 50 routes are what many tasks call for. That
pass is measured once: it takes minutes. The report is made by a process of its own, as a user does, of a run on the 50 routes.
The run's page in MLflow is opened in a headless Chromium.
"""

import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from accelerate import Accelerator

from data_prep.dataset import Dataset, from_arrays
from data_prep.shard_set import write_shard_set
from matl_scale.benchmark.figure import Conditions, Figure, Workload, time_rounds
from matl_scale.benchmark.inputs import binary_tasks, build_binary
from matl_scale.benchmark.pages import find_chromium, only_run, run_page_seconds
from matl_scale.data.images.array_images import ArrayImages
from matl_scale.data.loading.config import DataConfig
from matl_scale.decisions.aim import Aim
from matl_scale.metrics.names import METRICS
from matl_scale.metrics.task_metrics import TaskMetrics
from matl_scale.models.config import ModelConfig
from matl_scale.models.routing_config import RoutingConfig
from matl_scale.runs.decided import fit_on
from matl_scale.runs.records import LocalLog
from matl_scale.tracking.mlflow_follower import sync
from matl_scale.tracking.mlflow_store import sqlite_uri
from matl_scale.tracking.recorder import TrackConfig
from matl_scale.train.collect_predictions import collect_predictions
from matl_scale.train.config import Config, RunConfig
from matl_scale.train.evaluation import EvalConfig, Evaluator
from matl_scale.train.prediction_log import PredictionLog
from matl_scale.train.process_group import build_accelerator
from matl_scale.train.run import train
from matl_scale.train.run_data import build_run_data
from matl_scale.train.schedule import CheckpointConfig
from matl_scale.train.step.train_step import TrainConfig

NUM_TASKS, NUM_ROUTES, NUM_IMAGES, SIZE = 5000, 50, 400, 16
MODEL, SIGMA = ModelConfig(name="resnet18", width=0.125, stem="small"), 0.5
EARLIER = 19  # evaluations that are recorded before the one that is measured
SECONDS, MEGABYTES = 20.0, 10.0  # goals of the report
KEYS, TABLE_MEGABYTES, PAGE_SECONDS = 60, 10.0, 5.0  # and of the copy in MLflow


def random_set(_: Path) -> Dataset:
    """Returns random images, 400 of them and a few to train on, with seven tenths of the labels."""
    generator, count = np.random.default_rng(0), NUM_IMAGES + 32
    labels = (generator.random((count, NUM_TASKS)) < generator.uniform(0.05, 0.5, NUM_TASKS)).astype(np.int8)
    labels[generator.random(labels.shape) < 0.3] = -1
    labels[-2], labels[-1] = 0, 1  # every class can be trained
    return from_arrays(
        tasks=binary_tasks(NUM_TASKS),
        names=[f"{i:04d}.png" for i in range(count)],
        labels=labels,
        splits=["val"] * NUM_IMAGES + ["train"] * (count - NUM_IMAGES),
        images=ArrayImages(root="memory", pixels=generator.integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8)),
    )


@dataclass(frozen=True, kw_only=True)
class MlflowCopy:
    """Measurements of a run's copy in MLflow."""

    keys: int  # metrics
    table_megabytes: float  # the artifact with a row for each task
    page_s: float  # until the run's page shows its metrics


class Case:
    """The shard set and the run; both are made when they are first asked for."""

    @cached_property
    def folder(self) -> tempfile.TemporaryDirectory[str]:
        folder = tempfile.TemporaryDirectory()  # deleted with this object
        write_shard_set(random_set, Path(folder.name) / "set")
        return folder

    @property
    def data(self) -> DataConfig:
        return DataConfig(path=f"{self.folder.name}/set", batch_size=16, workers=0)

    @cached_property
    def run(self) -> Path:
        """The folder of a run with two evaluations."""
        config = Config(
            run=RunConfig(name="run", dir=self.folder.name),
            data=self.data,
            model=MODEL,
            routing=RoutingConfig(sigma=SIGMA, routes=NUM_ROUTES, grouping="order"),
            train=TrainConfig(steps=2, precision="fp32", accumulate=1, ema_decay=0),
            eval=EvalConfig(every=1),
            checkpoint=CheckpointConfig(every=2),
            track=TrackConfig(mlflow=False),
        )
        train(config, build_accelerator("fp32"))
        return config.run.folder

    def evaluation(self, conditions: Conditions, num_routes: int | None) -> Workload:
        """Returns an evaluation with decisions, of a route for every task if `num_routes` is None."""
        accelerator, data = Accelerator(cpu=conditions.device.type == "cpu"), build_run_data(self.data)
        routing = RoutingConfig(sigma=SIGMA)
        model = build_binary(MODEL, routing, NUM_TASKS, SIZE, num_routes).to(conditions.device).eval()
        evaluator, aims = Evaluator(accelerator, model, data.evaluation("val")), [Aim("balanced_accuracy")] * NUM_TASKS

        def evaluate() -> None:
            log = PredictionLog(model.num_classes)
            evaluator.run(lambda: True, log)
            predictions = collect_predictions(accelerator, log, data, "val", 0)
            assert predictions is not None
            fit_on(predictions, aims, {})

        return evaluate

    def compare_routes(self, conditions: Conditions) -> np.ndarray:
        few = time_rounds([self.evaluation(conditions, NUM_ROUTES)] * 2, conditions)
        evaluate = self.evaluation(conditions, None)
        start = time.perf_counter()
        evaluate()
        return np.array([[time.perf_counter() - start, few.min()]])

    def compare_records(self, conditions: Conditions) -> np.ndarray:
        """Records the last of many evaluations, and the first."""
        generator, names = np.random.default_rng(0), [task.name for task in binary_tasks(NUM_TASKS)]
        values = {name: generator.random(NUM_TASKS) for name in METRICS}
        metrics, seconds = TaskMetrics(values=values, counts=np.full(NUM_TASKS, NUM_IMAGES)), []
        for _ in range(conditions.rounds):
            with tempfile.TemporaryDirectory() as folder:
                log, own = LocalLog(Path(folder)), []
                for step in range(EARLIER + 1):
                    start = time.perf_counter()
                    log.log_per_task(step, "val", names, metrics)
                    own.append(time.perf_counter() - start)
            seconds.append([own[-1], own[0]])
        return np.array(seconds)

    @cached_property
    def report(self) -> tuple[float, float]:
        """The seconds that a report takes, with its page, and the megabytes of the page."""
        page = self.run / "page.html"
        start = time.perf_counter()
        command = [sys.executable, "-m", "matl_scale.report", str(self.run), "--out", str(page)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - start, page.stat().st_size / 1e6

    @cached_property
    def mlflow_copy(self) -> MlflowCopy:
        from mlflow import MlflowClient

        find_chromium()
        store = sqlite_uri(self.run.parent / "mlflow.db")
        sync(self.run, store)
        client = MlflowClient(store)
        run = only_run(client)
        (table,) = (file for file in client.list_artifacts(run.info.run_id) if file.path == "per_task.json")
        keys = len(run.data.metrics)
        return MlflowCopy(
            keys=keys,
            table_megabytes=table.file_size / 1e6,
            page_s=run_page_seconds(store, run.info.experiment_id, run.info.run_id, keys, self.run.parent),
        )


def figures(conditions: Conditions) -> list[Figure]:  # noqa: ARG001
    case = Case()
    last = f"recording evaluation {EARLIER + 1} ÷ the first, about 1"
    return [
        Figure(
            "eval_t5000_k50_vs_task",
            "a route for every task ÷ 50 routes, evaluation with decisions",
            case.compare_routes,
        ),
        Figure("record_t5000_last_vs_first", last, case.compare_records),
        Figure(
            "report_t5000_seconds", "report with its page ÷ 20 s (≤ 1)", lambda _: np.array([[case.report[0], SECONDS]])
        ),
        Figure(
            "report_t5000_size", "its page ÷ 10 MB (≤ 1)", lambda _: np.array([[case.report[1], MEGABYTES]]), unit="MB"
        ),
    ]


def mlflow_figures() -> list[Figure]:
    """Returns the figures of the suite `tracking` about a run of so many tasks."""
    case = Case()
    return [
        Figure(
            "mlflow_t5000_keys",
            "metrics of the run in MLflow ÷ 60 (≤ 1)",
            lambda _: np.array([[case.mlflow_copy.keys, KEYS]], dtype=float),
            unit="keys",
        ),
        Figure(
            "mlflow_t5000_table",
            "its table of tasks ÷ 10 MB (≤ 1)",
            lambda _: np.array([[case.mlflow_copy.table_megabytes, TABLE_MEGABYTES]]),
            unit="MB",
        ),
        Figure(
            "mlflow_t5000_page",
            "until its page shows its metrics ÷ 5 s (≤ 1)",
            lambda _: np.array([[case.mlflow_copy.page_s, PAGE_SECONDS]]),
        ),
    ]
