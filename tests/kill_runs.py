"""Kills runs at random moments with SIGKILL, starts them again, and compares what they become with a run left alone.

    python tests/kill_runs.py --seed 0 --kills 30

A moment lies in a step, a save, an evaluation, a record, or anywhere from the start on; the victim is one rank of two (the
other one has to end by itself) or both. Afterwards weights, optimizer, records and per-task results have to be equal, bit for
bit. `--mlflow` copies each run to MLflow, and compares the history there as well.
"""

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

from helpers import rank_work
from helpers.ranks import TIMEOUT_S, run_ranks, start_ranks
from helpers.run_configs import ADAMW, assert_identical, build_config, records, saved_state
from helpers.shard_sets import write_small_set
from matl_scale.data.loading.config import DataConfig
from matl_scale.runs.layout import RunFolder
from matl_scale.runs.predictions import read_predictions
from matl_scale.runs.records import LocalLog
from matl_scale.tracking.recorder import TrackConfig
from matl_scale.train.config import Config
from matl_scale.train.evaluation import EvalConfig
from matl_scale.train.loop import Hooks, do_nothing
from matl_scale.train.schedule import CheckpointConfig
from matl_scale.train.step.sampling import TasksConfig
from matl_scale.train.step.train_step import TrainConfig

WORLD_SIZE, STEPS = 2, 16
# where a moment may lie, how often a run passes there, and for how many seconds at most
PHASES = {
    "anywhere": (1, 3.0),
    "step": (STEPS, 0.1),
    "save": (5, 0.05),
    "write": (5, 0.03),
    "evaluation": (4, 0.2),
    "record": (STEPS, 0.002),
}
ON_MAIN = ("write", "record")  # only the main rank does this


@dataclass(frozen=True)
class Moment:
    """When to kill, and which rank."""

    phase: str
    passes: int
    delay_s: float
    victim: int
    everybody: bool

    def __str__(self) -> str:
        who = "all ranks" if self.everybody else f"rank {self.victim}"
        return f"{who} {self.delay_s * 1000:.1f} ms into {self.phase} {self.passes}"


def draw_moment(generator: random.Random) -> Moment:
    phase = generator.choice(list(PHASES))
    passes, longest_s = PHASES[phase]
    victim = 0 if phase in ON_MAIN else generator.randrange(WORLD_SIZE)
    everybody = generator.random() < 0.5
    return Moment(phase, generator.randint(1, passes), generator.uniform(0, longest_s), victim, everybody)


def build_run(folder: Path, shards: Any, name: str, mlflow: bool) -> Config:
    config = build_config(folder, shards, name, optim=ADAMW, tasks=TasksConfig())
    return replace(
        config,
        train=TrainConfig(steps=STEPS, precision="fp32", ema_decay=0.9),
        data=DataConfig(path=str(shards.root), batch_size=6, workers=1, augment="crop-flip"),
        checkpoint=CheckpointConfig(every=3),
        eval=EvalConfig(every=4, batch_size=7),
        track=TrackConfig(mlflow=mlflow, every=1, experiment=name),
    )


def train_until_killed(config: Config, moment: Moment) -> None:
    """Trains on a rank; the victim kills itself when the moment has come."""
    hooks = Hooks()
    if int(os.environ["RANK"]) == moment.victim:
        if moment.phase == "anywhere":
            kill_after(moment.delay_s)
        elif moment.phase == "write":
            torch.save = armed(torch.save, moment)
        elif moment.phase == "record":
            LocalLog.log = armed(LocalLog.log, moment)  # type: ignore[method-assign]
        else:
            hooks = Hooks(**{f"before_{moment.phase}": armed(do_nothing, moment)})
    rank_work.train_runs([config], False, hooks)


def armed(function: Callable[..., Any], moment: Moment) -> Callable[..., Any]:
    """Returns the function, which starts the countdown when it is called for the last time before the moment."""
    passes = iter(range(1, 10**9))

    def call(*arguments: Any, **options: Any) -> Any:
        if next(passes) == moment.passes:
            kill_after(moment.delay_s)
        return function(*arguments, **options)

    return call


def kill_after(delay_s: float) -> None:
    threading.Timer(delay_s, os.kill, (os.getpid(), signal.SIGKILL)).start()


def kill_once(config: Config, moment: Moment, folder: Path) -> bool:
    """Runs until the kill; returns whether it came before the run's end. Ranks that are left have to end by themselves."""
    processes = start_ranks(WORLD_SIZE, train_until_killed, folder, config, moment)
    victim = processes[moment.victim]
    victim.join(TIMEOUT_S)
    if moment.everybody and victim.exitcode == -signal.SIGKILL:
        for process in processes:
            process.kill()
    for process in processes:
        process.join(TIMEOUT_S)
        assert not process.is_alive(), "a rank hangs after the other one was killed"
    return victim.exitcode == -signal.SIGKILL


def compare(killed: Config, whole: Config) -> None:
    assert_identical(saved_state(whole), saved_state(killed))
    assert records(whole) == records(killed)
    tables = [pq.read_table(config.run.folder / "per_task.parquet") for config in (whole, killed)]
    assert tables[0].equals(tables[1])
    best = [list((RunFolder(config.run.folder).best_folder).iterdir()) for config in (whole, killed)]
    assert [folder.name for folder in best[0]] == [folder.name for folder in best[1]]
    assert_identical(saved_state(whole, best[0][0]), saved_state(killed, best[1][0]))
    predictions = [read_predictions(RunFolder(config.run.folder).predictions_file("val")) for config in (whole, killed)]
    for name in ("samples", "labels", "predicted", "confidences", "log_odds"):
        np.testing.assert_array_equal(getattr(predictions[0], name), getattr(predictions[1], name))
    if killed.track.mlflow:
        compare_mlflow(killed)


def compare_mlflow(config: Config) -> None:
    """Compares MLflow's history of a run with the local one: every step once."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{config.run.folder.parent}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name(config.track.experiment).experiment_id])
    assert [run.info.status for run in runs] == ["FINISHED"]
    for key in ("train/loss", "val/macro_auroc", "tasks/draws_max"):
        history = [(m.step, m.value) for m in client.get_metric_history(runs[0].info.run_id, key)]
        assert history == [(record["step"], record[key]) for record in records(config) if key in record], key


def run_kills(folder: Path, seed: int, kills: int, mlflow: bool) -> None:
    """Kills `kills` runs and compares each.

    Raises:
        AssertionError: A run did not become what it should.
    """
    generator = random.Random(seed)
    shards = write_small_set(folder / "set")
    whole = build_run(folder, shards, "whole", mlflow=False)
    run_ranks(WORLD_SIZE, rank_work.train_runs, folder / "ranks-whole", [whole], False)
    done = 0
    while done < kills:
        moment, start = draw_moment(generator), time.monotonic()
        config = build_run(folder, shards, f"killed-{done}", mlflow)
        if not kill_once(config, moment, folder / f"ranks-{done}-killed"):
            shutil.rmtree(config.run.folder)  # the run ended first: that was no kill
            continue
        run_ranks(WORLD_SIZE, rank_work.train_runs, folder / f"ranks-{done}-again", [config], False)
        compare(config, whole)
        done += 1
        print(f"{done}/{kills} equal: killed {moment} ({time.monotonic() - start:.1f} s)", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--mlflow", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run_kills(Path(folder), options.seed, options.kills, options.mlflow)
    return 0


if __name__ == "__main__":
    sys.exit(main())
