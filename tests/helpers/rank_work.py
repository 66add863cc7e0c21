"""What ranks do in the distributed tests. Importable by name, because ranks are other processes."""

import contextlib
import itertools
import os
import signal
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator

from matl_scale.errors import RunError
from matl_scale.metrics.task_metrics import TaskMetrics
from matl_scale.routes import Routes
from matl_scale.runs.checkpoints.checkpoint import open_checkpoint
from matl_scale.runs.checkpoints.masks import hash_masks
from matl_scale.runs.checkpoints.network import restore_network
from matl_scale.runs.layout import RunFolder
from matl_scale.runs.predictions import write_predictions
from matl_scale.train.build_routes import build_routes
from matl_scale.train.build_state import build_network
from matl_scale.train.collect_predictions import collect_predictions
from matl_scale.train.config import Config
from matl_scale.train.evaluation import Evaluator
from matl_scale.train.loop import Hooks, Run
from matl_scale.train.prediction_log import PredictionLog
from matl_scale.train.process_group import build_accelerator
from matl_scale.train.run import train
from matl_scale.train.run_data import build_run_data


class Interrupted(Exception):
    """Stands for whatever ends a process in the middle."""


def accelerator_of(config: Config, double: bool = True) -> Accelerator:
    if double:
        torch.set_default_dtype(torch.float64)
    return build_accelerator(config.train.precision, timeout_s=120)


def train_runs(configs: list[Config], double: bool = True, hooks: Hooks | None = None) -> None:
    """Trains several runs one after the other in one process group."""
    accelerator = accelerator_of(configs[0], double)
    for config in configs:
        train(config, accelerator, hooks=hooks)


def train_interrupted(whole: Config, broken: Config, stop_at: int) -> None:
    """Trains one run to its end; the other until the beginning of step `stop_at`, breaks off, and starts it again."""
    accelerator = accelerator_of(whole)
    train(whole, accelerator)

    def interrupt(run: Run) -> None:
        if run.state.step == stop_at:
            raise Interrupted

    try:
        train(broken, accelerator, hooks=Hooks(before_step=interrupt))
    except Interrupted:
        train(broken, accelerator)
    else:
        raise AssertionError("the run was not interrupted")


def train_by_clocks(config: Config, stop_at: int) -> int:
    """Trains a run of so many minutes on ranks whose clocks differ: a step takes a second on the first one, and seven times as
    long on each after it. It breaks off at step `stop_at` and is started again. Returns the step that a rank ends with."""
    accelerator = accelerator_of(config)
    now, pace = itertools.count(), 7.0**accelerator.process_index

    def clock() -> float:
        return pace * next(now)

    def interrupt(run: Run) -> None:
        if run.state.step == stop_at:
            raise Interrupted

    with contextlib.suppress(Interrupted):
        train(config, accelerator, hooks=Hooks(before_step=interrupt, seconds=clock))
    return train(config, accelerator, hooks=Hooks(seconds=clock)).step


def evaluate_runs(configs: dict[str, Config], split: str, batch_size: int, folder: Path) -> dict[str, TaskMetrics]:
    """Evaluates the newest checkpoints of several runs, and keeps the predictions of each in a folder of its name."""
    accelerator = accelerator_of(next(iter(configs.values())))
    found = {}
    for name, config in configs.items():
        data = build_run_data(config.data)
        model = restore_network(open_checkpoint(config.run.folder), accelerator.device)
        log = PredictionLog(model.num_classes)
        metrics = Evaluator(accelerator, model, data.evaluation(split), batch_size=batch_size).run(lambda: True, log)
        predictions = collect_predictions(accelerator, log, data, split, 1)
        if predictions is not None:
            write_predictions(RunFolder(folder / name).predictions_file(split), predictions)
        assert metrics is not None
        found[name] = metrics
    return found


def count_reduced_bytes(configs: list[Config]) -> list[list[int]]:
    """Returns, for each run, the bytes that the program itself sends through all-reduce in every step."""
    accelerator = accelerator_of(configs[0], double=False)
    original = dist.all_reduce
    sent: list[int] = []

    def all_reduce(tensor: torch.Tensor, *arguments: Any, **options: Any) -> Any:
        sent.append(tensor.numel() * tensor.element_size())
        return original(tensor, *arguments, **options)

    dist.all_reduce = all_reduce
    sizes = []
    for config in configs:
        sent.clear()
        train(config, accelerator)
        after_last_step = 4  # evaluation adds up counts, losses and who broke off; a checkpoint compares replicas
        steps = sent[: len(sent) - after_last_step]
        assert len(steps) == config.train.steps, "one collective per step"
        sizes.append(steps)
    return sizes


def choose_and_draw(configs: list[Config]) -> tuple[tuple[Routes, str], ...]:
    """Returns, for each config, the routes that this rank alone would choose, and the hash of the masks that it draws."""
    accelerator, drawn = accelerator_of(configs[0]), []
    for config in configs:
        data = build_run_data(config.data)
        found = build_routes(config, data, None, None)
        network = build_network(config, data, found.routes, accelerator.device, closeness=found.closeness)
        drawn.append((found.routes, hash_masks(network)))
    return tuple(drawn)


def error_of(config: Config) -> str:
    """Returns the message with which training is refused on this rank."""
    try:
        train(config, accelerator_of(config))
    except ValueError as error:
        return str(error)
    return ""


def is_last_rank(accelerator: Accelerator) -> bool:
    return accelerator.process_index == accelerator.num_processes - 1


def signal_myself(number: int) -> None:
    os.kill(os.getpid(), number)


def train_stopped(whole: Config, broken: Config, stop_at: int, in_evaluation: bool) -> list[int]:
    """Trains one run to its end; the other one is stopped by a signal that only the last rank gets, and started again.

    Returns:
        The steps after which the second one ended, start by start.
    """
    accelerator = accelerator_of(whole)
    train(whole, accelerator)

    def terminate(run: Run) -> None:
        if is_last_rank(accelerator) and (in_evaluation or run.state.step == stop_at):
            signal_myself(signal.SIGTERM)

    hooks = Hooks(before_evaluation=terminate) if in_evaluation else Hooks(before_step=terminate)
    outcomes = [train(broken, accelerator, hooks=hooks)]
    assert outcomes[0].stopped
    outcomes.append(train(broken, accelerator))
    assert not outcomes[1].stopped
    return [outcome.step for outcome in outcomes]


def error_of_run(config: Config, accelerator: Accelerator, hooks: Hooks) -> str:
    """Returns the error with which a run ends, or an empty string."""
    try:
        train(config, accelerator, hooks=hooks)
    except RunError as error:
        return str(error)
    return ""


def with_nan(config: Config, bad_steps: list[int]) -> str:
    """Trains a run in which rank 1 meets NaN in its images at some steps; returns the error with which it ends, if any."""
    accelerator = accelerator_of(config)

    def break_images(run: Run) -> None:
        slots = run.components.train_step.slots
        vars(slots).pop("prepare_images", None)
        prepare = slots.prepare_images

        def broken(images: torch.Tensor, seed: int) -> torch.Tensor:
            images = prepare(images, seed)
            images[0, 0, 0, 0] = float("nan")
            return images

        if run.state.step in bad_steps and accelerator.process_index == 1:
            vars(slots)["prepare_images"] = broken

    return error_of_run(config, accelerator, hooks=Hooks(before_step=break_images))


def with_flipped_bit(config: Config, at_step: int) -> str:
    """Flips a bit of a weight on the last rank before a step; returns the error with which the run ends."""
    accelerator = accelerator_of(config)

    def flip(run: Run) -> None:
        if run.state.step == at_step and is_last_rank(accelerator):
            weight = run.state.model.heads[2].weight.data
            weight.view(torch.int64)[1, 3] ^= 1

    return error_of_run(config, accelerator, hooks=Hooks(before_step=flip))


def train_and_freeze(config: Config, at_step: int, messages: str) -> None:
    """Trains until the last rank stops answering before a step; what ranks print goes to a file."""
    accelerator = accelerator_of(config)
    descriptor = os.open(messages, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 2)

    def freeze(run: Run) -> None:
        if run.state.step == at_step and is_last_rank(accelerator):
            signal_myself(signal.SIGSTOP)

    train(config, accelerator, hooks=Hooks(before_step=freeze))


def train_to(config: Config, steps: int) -> None:
    """Trains a run to a step, as if it had been stopped there: the schedule is that of the whole run."""

    def terminate(run: Run) -> None:
        if run.state.step == steps - 1:
            signal_myself(signal.SIGTERM)

    train(config, accelerator_of(config), hooks=Hooks(before_step=terminate))


def train_rest(config: Config, _: int) -> None:
    """Trains a run to its end."""
    train(config, accelerator_of(config))


def embed(arguments: list[str]) -> int:
    """Runs matl-embed."""
    from matl_scale.commands.embed import main

    return main(arguments)
