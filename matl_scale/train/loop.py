"""The steps of a run, with records, evaluations and checkpoints where they are due."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from accelerate import Accelerator

from matl_scale.data.loading.plan import own_slots
from matl_scale.errors import RunError
from matl_scale.metrics.names import MAIN_METRIC, METRIC_LABELS
from matl_scale.metrics.task_metrics import TaskMetrics, describe_means, describe_not_learned
from matl_scale.progress import TrainProgress, format_duration
from matl_scale.text import count_of
from matl_scale.tracking.recorder import Recorder
from matl_scale.train.build import Components
from matl_scale.train.collect_predictions import collect_predictions
from matl_scale.train.health.replicas import compare_replicas
from matl_scale.train.health.share_damage import share_damage
from matl_scale.train.health.slurm import find_interval_problem, read_job, time_left_s
from matl_scale.train.health.stop import StopRequest
from matl_scale.train.health.watchdog import Watchdog
from matl_scale.train.length import FIRST_FIT, PARTS_TO_FIT
from matl_scale.train.masks.dense_part import DensePart
from matl_scale.train.prediction_log import PredictionLog
from matl_scale.train.process_group import on_main
from matl_scale.train.run_data import RunData
from matl_scale.train.schedule import Schedule
from matl_scale.train.state import TrainState
from matl_scale.train.step.optim import set_learning_rate

Ending = Literal["finished", "dense part", "stopped"]  # of a run's steps

PROGRESS_METRICS = (MAIN_METRIC, "decided_balanced_accuracy", "auroc")
MAX_NAMED = 3  # tasks in a line of progress
ONE_PASS = 0.95  # over the labels, about


def do_nothing(run: "Run") -> None:
    """The default hook."""


def ignore_metrics(run: "Run", metrics: TaskMetrics) -> None:
    """The default hook after an evaluation."""


@dataclass(frozen=True, kw_only=True)
class Hooks:
    """Functions that a run calls on every rank: at fixed points, to stop, break or kill it on purpose, and as its clock."""

    before_step: Callable[["Run"], None] = do_nothing  # called before each optimizer step
    before_evaluation: Callable[["Run"], None] = do_nothing  # called before each evaluation
    after_evaluation: Callable[["Run", TaskMetrics], None] = ignore_metrics  # called when an evaluation is recorded
    before_save: Callable[["Run"], None] = do_nothing  # called before each checkpoint
    seconds: Callable[[], float] = time.perf_counter  # what `train.minutes` are read from


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run that is under way."""

    accelerator: Accelerator  # ranks, device and precision
    data: RunData  # the shard set
    components: Components  # what computes
    recorder: Recorder  # keeps records, on the first rank
    progress: TrainProgress  # shows progress, on the first rank
    stop: StopRequest  # knows whether this rank was asked to stop
    watchdog: Watchdog  # ends this rank if it makes no progress
    hooks: Hooks  # called at fixed points
    first_step: int  # steps done before this start

    @property
    def state(self) -> TrainState:
        return self.components.state

    @property
    def schedule(self) -> Schedule:
        return self.components.schedule


def run_steps(run: Run, lacks_evaluation: bool) -> Ending:
    """Runs the remaining steps, and first the evaluation after the last step of an earlier start, if that is missing.

    Returns:
        How they ended: at the end of the run, at that of its dense part, or because the run was asked to stop.

    Raises:
        RunError: The run ended in its dense part.
    """
    components, state, schedule = run.components, run.state, run.schedule
    is_evaluated = not lacks_evaluation or evaluate(run)
    if lacks_evaluation and is_evaluated and state.has_patience:
        save(run)  # what it counts for
    run.recorder.wait_for_tables()  # the loader's processes are forked now
    if not is_evaluated:
        return "stopped"
    while not state.is_over():
        if state.importance is not None and dense_part_of(run).is_over(state.step):
            return "dense part"
        stopping = run_step(run)
        with components.meter.paused():
            if not stopping and schedule.is_evaluated_after(state.step):
                stopping = not evaluate(run)
            if state.is_over() and not schedule.is_recorded_after(state.step):  # it ends early
                record(run, components.learning_rate.at(state.step - 1))
            if stopping or state.is_over() or schedule.is_saved_after(state.step):
                save(run)
            elif schedule.is_compared_after(state.step):
                compare_replicas(run.accelerator, state.model, state.step)
        if stopping:
            run.progress.say(
                f"stopped after step {state.step} ({run.stop.explain()}), with a checkpoint; the same line started again goes on"
            )
            return "stopped"
    if state.importance is not None:
        raise RunError(
            f"The run ended after step {state.step}, in its dense part: `routing.dense_share` leaves no steps for "
            "the sub-networks. Give it more time (`train.minutes`), or lower the share."
        )
    if not schedule.is_last(state.step):
        run.progress.say(f"ends early after step {state.step}: {state.patience.describe()}")
    return "finished"


def dense_part_of(run: Run) -> DensePart:
    assert run.components.dense_part is not None
    return run.components.dense_part


def run_step(run: Run) -> bool:
    """Runs one step and records it if that is due. Returns whether some rank was asked to stop."""
    run.hooks.before_step(run)
    components, state, meter, began = run.components, run.state, run.components.meter, run.hooks.seconds()
    if components.roaming is not None:
        components.roaming.before_step(state)
    rate = components.learning_rate.at(state.step)
    set_learning_rate(state.optimizer, components.learning_rate, state.step)
    num_slots = components.sampler.num_slots
    sampling_step = state.sampling_step(num_slots)
    routes = components.sampler.routes(sampling_step)
    run.watchdog.beat(describe_step(run, routes))
    measured = state.importance is not None and dense_part_of(run).is_measured(state.step)
    result = components.train_step(
        routes,
        components.batches,
        stop=bool(run.stop.reason),
        measured=measured,
        heads_only=not components.head_warmup.is_over(state.step),
    )
    meter.update(result)
    if result.sync.damaged.any():  # known to all ranks
        share_damage(run.accelerator, components.damage, result.damage, components.saver.folder.path)
    if state.ema is not None and not result.skipped:
        state.ema.update_parameters(state.model)
    state.step, state.slots = state.step + 1, (sampling_step + 1) * num_slots
    np.add.at(state.draws, routes, 1)
    if not result.skipped:
        state.labels_seen += result.sync.labels
    state.clock.add(run.hooks.seconds() - began)
    fit_length(run)
    if complaint := components.nonfinite.update(state.step, result):
        run.progress.say(complaint)
    run.progress.step(state.step, meter.loss, meter.images_per_s, meter.wait_share)
    if run.schedule.is_recorded_after(state.step):
        record(run, rate)
    return result.sync.stop


def fit_length(run: Run) -> None:
    """Says how long the run takes, once that is known; and fits a run of so many minutes to the speed of its steps."""
    state, schedule, is_first = run.state, run.schedule, run.state.clock.steps == FIRST_FIT
    is_timed = state.length.seconds > 0
    if not (is_first or (is_timed and state.length.completes_part(state.step, PARTS_TO_FIT))):
        return
    step_s, more = on_main(
        run.accelerator, lambda: (state.clock.step_s, state.clock.steps_within(state.length.seconds))
    )
    if is_timed:
        state.length.fit(state.step, state.step + more)
        run.progress.total = state.length.num_steps
    if is_first:
        schedule.set_speed(step_s)
        run.progress.say(describe_duration(run, step_s))


def describe_duration(run: Run, step_s: float) -> str:
    """Says how long the rest of a run takes, if a step takes `step_s` seconds."""
    length, step = run.state.length, run.state.step
    passes = run.components.epochs_per_step * length.num_steps
    left = format_duration((length.num_steps - step) * step_s)
    short = (
        ". That is less than one pass: many labels are never seen, so expect little of it" if passes < ONE_PASS else ""
    )
    amount = f"{count_of(length.num_steps, 'step')}, {count_of(passes, 'pass', '.3g')} over the labels"
    return f"{amount}: about {left} at {step_s:.3g} s a step, besides evaluations{short}"


def record(run: Run, rate: float) -> None:
    """Records the steps since the last record, and how far the run is."""
    components, state = run.components, run.state
    metrics = components.meter.record() | {
        "train/lr": rate,
        "train/epoch": state.step * components.epochs_per_step,
        "tasks/draws_min": float(state.draws.min()),
        "tasks/draws_max": float(state.draws.max()),
        "tasks/labels_min": float(state.labels_seen.min()),
        "tasks/labels_max": float(state.labels_seen.max()),
    }
    run.recorder.record(state.step, metrics)
    is_first = state.step - run.first_step <= run.schedule.record_every
    if is_first and run.accelerator.is_main_process:
        check_interval(run, metrics["train/step_s"])


def check_interval(run: Run, step_s: float) -> None:
    """Complains if the job's time limit comes before the next checkpoint."""
    every = run.schedule.steps_to_checkpoint(run.state.step, step_s)
    problem = find_interval_problem(every, step_s, time_left_s(read_job()))
    if problem:
        run.progress.say(str(problem))


def describe_step(run: Run, routes: np.ndarray) -> str:
    """Says which step comes next, and which routes this rank runs in it."""
    share = run.components.train_step.share
    mine = routes[own_slots(len(routes), run.accelerator.process_index, run.accelerator.num_processes, share)]
    names = ", ".join(run.state.model.routes.names[route_id] for route_id in mine[:4].tolist())
    return f"step {run.state.step + 1} (route {names}{', …' if len(mine) > 4 else ''})"


def evaluate(run: Run) -> bool:
    """Evaluates, records the result and says in one line how it went. Returns False if the run is asked to stop meanwhile."""
    run.hooks.before_evaluation(run)
    components, state = run.components, run.state

    def keep_on() -> bool:
        run.watchdog.beat(f"the evaluation after step {state.step}")
        return not run.stop.reason

    run.recorder.wait_for_tables()
    log = PredictionLog(state.model.num_classes)
    counted = components.evaluator.run(keep_on, log)
    if counted is None:
        return False
    predictions = collect_predictions(run.accelerator, log, run.data, components.split, state.step)

    def keep() -> TaskMetrics:
        assert predictions is not None
        return components.keeper.keep(state, counted, predictions, run.schedule.is_last(state.step))

    run.watchdog.beat(f"the decisions after step {state.step}")
    metrics = on_main(run.accelerator, keep)
    run.recorder.record_draws(state.step, state.draws[list(state.model.routes.route_of)], state.labels_seen)
    run.recorder.record_evaluation(state.step, components.split, metrics)
    describe_evaluation(run, metrics)
    if state.has_patience:
        state.patience.note(state.step, components.keeper.summary_of(metrics))
    run.hooks.after_evaluation(run, metrics)
    return True


def describe_evaluation(run: Run, metrics: TaskMetrics) -> None:
    """Says how an evaluation went, and which samples could not be read."""
    summary, limited = metrics.summary(), describe_means(metrics)
    means = [f"{METRIC_LABELS[name]} {summary[f'macro_{name}']:.4f}" for name in metrics.measured(PROGRESS_METRICS)]
    run.progress.say(
        f"step {run.state.step}: {run.components.split} {', '.join(means)}{f' ({limited})' if limited else ''}, tasks "
        f"{describe_not_learned(metrics, run.data.task_names, MAX_NAMED)}"
    )
    for log in (run.components.damage, run.components.evaluator.data.damage):
        if log.found:
            run.progress.say(log.describe())


def save(run: Run) -> None:
    """Writes a checkpoint, after making sure that the replicas are equal."""
    run.hooks.before_save(run)
    state = run.state
    run.watchdog.beat(f"the checkpoint after step {state.step}")
    if run.schedule.compare_every:
        compare_replicas(run.accelerator, state.model, state.step)
    on_main(run.accelerator, lambda: run.components.saver.save_state(state))
