"""The steps of a run, with records, evaluations and checkpoints where they are due."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from accelerate import Accelerator

from matl_scale.data.loading.damage import DamageLog
from matl_scale.metrics.task_metrics import TaskMetrics
from matl_scale.progress import TrainProgress
from matl_scale.tracking.recorder import Recorder
from matl_scale.train.build import Parts
from matl_scale.train.config import Config
from matl_scale.train.evaluation import AnswerLog
from matl_scale.train.health.damaged import share_damage
from matl_scale.train.health.nonfinite import NonfiniteGuard
from matl_scale.train.health.replicas import compare_replicas
from matl_scale.train.health.slurm import find_interval_problem, read_job, time_left_s
from matl_scale.train.health.stop import StopRequest
from matl_scale.train.health.watchdog import Watchdog
from matl_scale.train.process_group import on_main
from matl_scale.train.resume.open_run import is_evaluated_after
from matl_scale.train.resume.saving import save_answers, save_best, save_state
from matl_scale.train.run_data import RunData
from matl_scale.train.schedule import is_due
from matl_scale.train.step.optim import learning_rate, set_learning_rate


def do_nothing(run: "Run") -> None:
    """The default hook."""


@dataclass(frozen=True, kw_only=True)
class Hooks:
    """Functions that a run calls on every rank at fixed points. Tests use them to stop, break or kill a run on purpose.

    Attributes:
        before_step: Called before each optimizer step.
        before_evaluation: Called before each evaluation.
        before_save: Called before each checkpoint.
    """

    before_step: Callable[["Run"], None] = do_nothing
    before_evaluation: Callable[["Run"], None] = do_nothing
    before_save: Callable[["Run"], None] = do_nothing


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run that is under way: its parts, and whom it tells what happens."""

    config: Config
    accelerator: Accelerator
    data: RunData
    parts: Parts
    recorder: Recorder
    progress: TrainProgress
    damage: DamageLog
    nonfinite: NonfiniteGuard
    stop: StopRequest
    watchdog: Watchdog
    hooks: Hooks
    first_step: int


def run_steps(run: Run, unevaluated: bool) -> TaskMetrics | None:
    """Runs the remaining steps, with records, evaluations and checkpoints where they are due.

    Args:
        run: What to run.
        unevaluated: Whether an evaluation belongs to the last step of an earlier start, and is missing.

    Returns:
        The last evaluation; None if the run was asked to stop.
    """
    config, state = run.config, run.parts.state
    metrics = evaluate(run) if unevaluated else None
    run.recorder.wait_for_tables()  # the loader's processes are forked now
    if unevaluated and metrics is None:
        return None
    while state.step < config.train.steps:
        stopping = run_step(run)
        with run.parts.meter.paused():
            if not stopping and is_evaluated_after(config, state.step):
                metrics = evaluate(run)
                stopping = metrics is None
            if stopping or is_due(state.step, config.checkpoint.every) or state.step == config.train.steps:
                save(run)
            elif is_due(state.step, config.guard.replicas_every):
                compare_replicas(run.accelerator, state.model, state.step)
        if stopping:
            run.progress.say(f"stopped after step {state.step} ({run.stop.explain()}), with a checkpoint")
            return None
    return metrics


def run_step(run: Run) -> bool:
    """Runs one step and records it if that is due. Returns whether some rank was asked to stop."""
    run.hooks.before_step(run)
    config, parts, state, meter = run.config, run.parts, run.parts.state, run.parts.meter
    rate = learning_rate(config.optim, state.step, config.train.steps)
    set_learning_rate(state.optimizer, rate)
    turn = state.turn(parts.sampler.num_slots)
    tasks = parts.sampler.tasks(turn)
    run.watchdog.beat(describe_step(run, tasks))
    result = parts.train_step(tasks, parts.batches, stop=bool(run.stop.reason))
    meter.update(result)
    if result.sync.damaged.any():  # known to all ranks
        share_damage(run.accelerator, run.damage, result.damage, config.run.folder)
    if state.ema is not None and not result.skipped:
        state.ema.update_parameters(state.model)
    state.step, state.slots = state.step + 1, (turn + 1) * parts.sampler.num_slots
    np.add.at(state.draws, tasks, 1)
    if complaint := run.nonfinite.update(state.step, result):
        run.progress.say(complaint)
    run.progress.step(state.step, meter.loss, meter.images_per_s, meter.wait_share)
    if is_due(state.step, config.track.every) or state.step == config.train.steps:
        metrics = meter.record() | describe_position(parts, rate)
        run.recorder.record(state.step, metrics)
        is_first = state.step - run.first_step <= config.track.every
        if is_first and run.accelerator.is_main_process:
            check_interval(run, metrics["train/step_s"])
    return result.sync.stop


def check_interval(run: Run, step_s: float) -> None:
    """Complains if the job's time limit comes before the next checkpoint."""
    every = min(run.config.checkpoint.every, run.config.train.steps - run.parts.state.step)
    problem = find_interval_problem(every, step_s, time_left_s(read_job()))
    if problem:
        run.progress.say(str(problem))


def describe_step(run: Run, tasks: np.ndarray) -> str:
    """Says which step comes, and which tasks this rank runs in it."""
    mine = tasks[run.accelerator.process_index :: run.accelerator.num_processes]
    names = ", ".join(run.data.tasks[task_id].name for task_id in mine[:4].tolist())
    return f"step {run.parts.state.step + 1} (task {names}{', …' if len(mine) > 4 else ''})"


def describe_position(parts: Parts, rate: float) -> dict[str, float]:
    """Returns the run-level metrics that say how far the run is."""
    state = parts.state
    return {
        "train/lr": rate,
        "train/epoch": state.step * parts.epochs_per_step,
        "tasks/draws_min": float(state.draws.min()),
        "tasks/draws_max": float(state.draws.max()),
    }


def evaluate(run: Run) -> TaskMetrics | None:
    """Evaluates, records it and says in one line how it went; None if the run is asked to stop meanwhile."""
    run.hooks.before_evaluation(run)
    state, split = run.parts.state, run.config.eval.split

    def keep_on() -> bool:
        run.watchdog.beat(f"the evaluation after step {state.step}")
        return not run.stop.reason

    run.recorder.wait_for_tables()
    is_last = state.step == run.config.train.steps
    answers = AnswerLog() if run.config.eval.predictions and is_last else None
    metrics = run.parts.evaluator.run(keep_on, answers)
    if metrics is None:
        return None
    summary, world_size = metrics.summary(), run.accelerator.num_processes
    # before the record, which says that the evaluation is complete
    if answers is not None:
        save_answers(run.accelerator, answers, run.data, split, state.step, run.config.run.folder)
    on_main(run.accelerator, lambda: save_best(run.config, run.data, state, world_size, summary))
    run.recorder.record_draws(state.step, state.draws)
    run.recorder.record_evaluation(state.step, split, metrics)
    run.progress.say(
        f"step {state.step}: {split} balanced accuracy {summary['macro_balanced_accuracy']:.4f}, "
        f"AUROC {summary['macro_auroc']:.4f}, below baseline {summary['tasks_below_baseline']:.0f} of "
        f"{len(metrics.counts)} tasks"
    )
    for log in (run.damage, run.parts.evaluator.data.damage):
        if log.found:
            run.progress.say(log.describe())
    return metrics


def save(run: Run) -> None:
    """Writes a checkpoint, of replicas that are equal."""
    run.hooks.before_save(run)
    state, world_size = run.parts.state, run.accelerator.num_processes
    run.watchdog.beat(f"the checkpoint after step {state.step}")
    if run.config.guard.replicas_every:
        compare_replicas(run.accelerator, state.model, state.step)
    on_main(run.accelerator, lambda: save_state(run.config, run.data, state, world_size))
