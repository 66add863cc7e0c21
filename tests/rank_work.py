"""What ranks do in the distributed tests. Importable by name, because ranks are other processes."""

import os
import signal
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator

from matl_scale.config import Config
from matl_scale.errors import RunError
from matl_scale.task_metrics import TaskMetrics
from matl_scale.train import loop
from matl_scale.train import step as step_module
from matl_scale.train import steps as run_steps
from matl_scale.train.answers import AnswerLog
from matl_scale.train.checkpoint import hash_masks, open_checkpoint
from matl_scale.train.evaluate import EvalConfig, Evaluator
from matl_scale.train.restore import restore_network
from matl_scale.train.saving import save_answers
from matl_scale.train.setup import build_accelerator, build_network, open_data


class Interrupted(Exception):
    """Stands for whatever ends a process in the middle."""


def accelerator_of(config: Config, double: bool = True) -> Accelerator:
    if double:
        torch.set_default_dtype(torch.float64)
    return build_accelerator(config.train.precision, timeout_s=120)


def train_runs(configs: list[Config], double: bool = True) -> None:
    """Trains several runs one after the other in one process group."""
    accelerator = accelerator_of(configs[0], double)
    for config in configs:
        loop.train(config, accelerator)


def train_interrupted(whole: Config, broken: Config, stop_at: int) -> None:
    """Trains one run to its end; the other until the beginning of step `stop_at`, breaks off, and starts it again."""
    accelerator = accelerator_of(whole)
    loop.train(whole, accelerator)
    original = run_steps.learning_rate

    def learning_rate(optim: Any, step: int, steps: int) -> float:
        if step == stop_at:
            raise Interrupted
        return original(optim, step, steps)

    run_steps.learning_rate = learning_rate
    try:
        loop.train(broken, accelerator)
    except Interrupted:
        run_steps.learning_rate = original
    else:
        raise AssertionError("the run was not interrupted")
    loop.train(broken, accelerator)


def evaluate_run(config: Config, split: str, batch_size: int, predictions: Path) -> TaskMetrics:
    """Evaluates the newest checkpoint of a run, and keeps its predictions in a folder."""
    accelerator = accelerator_of(config)
    data = open_data(config)
    model = restore_network(open_checkpoint(config.run.folder), accelerator.device)
    answers = AnswerLog()
    metrics = Evaluator(accelerator, model, data.evaluation(split), EvalConfig(batch_size=batch_size)).run(
        lambda: True, answers
    )
    save_answers(accelerator, answers, data, split, 1, predictions)
    assert metrics is not None
    return metrics


def count_reduced_bytes(configs: list[Config]) -> list[int]:
    """Returns, for each run, the bytes per step that the program itself sends through all-reduce."""
    accelerator = accelerator_of(configs[0], double=False)
    original = dist.all_reduce
    sent: list[int] = []

    def all_reduce(tensor: torch.Tensor, *arguments: Any, **options: Any) -> Any:
        sent.append(tensor.numel() * tensor.element_size())
        return original(tensor, *arguments, **options)

    dist.all_reduce = all_reduce
    totals = []
    for config in configs:
        sent.clear()
        loop.train(config, accelerator)
        after_last_step = 4  # evaluation adds up counts, losses and who broke off; a checkpoint compares replicas
        steps = sent[: len(sent) - after_last_step]
        assert len(steps) == config.train.steps, "one collective per step"
        totals.append(max(steps))
    return totals


def mask_hash(config: Config) -> str:
    """Returns the hash of the masks that this rank draws."""
    accelerator = accelerator_of(config)
    return hash_masks(build_network(config, open_data(config), accelerator.device))


def error_of(config: Config) -> str:
    """Returns the message with which training is refused on this rank."""
    try:
        loop.train(config, accelerator_of(config))
    except ValueError as error:
        return str(error)
    return ""


def train_stopped(whole: Config, broken: Config, stop_at: int, in_evaluation: bool) -> list[int]:
    """Trains one run to its end; the other one is stopped by a signal that only the last rank gets, and started again.

    Returns:
        The steps after which the second one ended, start by start.
    """
    accelerator = accelerator_of(whole)
    loop.train(whole, accelerator)
    last = accelerator.process_index == accelerator.num_processes - 1
    run_evaluation, learning_rate = Evaluator.run, run_steps.learning_rate

    def signalled_run(self: Evaluator, *arguments: Any) -> TaskMetrics | None:
        if last:
            os.kill(os.getpid(), signal.SIGTERM)
        return run_evaluation(self, *arguments)

    def signalled_rate(optim: Any, step: int, steps: int) -> float:
        if last and step == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        return learning_rate(optim, step, steps)

    if in_evaluation:
        Evaluator.run = signalled_run  # type: ignore[method-assign]
    else:
        run_steps.learning_rate = signalled_rate
    outcomes = [loop.train(broken, accelerator)]
    Evaluator.run, run_steps.learning_rate = run_evaluation, learning_rate  # type: ignore[method-assign]
    assert outcomes[0].stopped
    outcomes.append(loop.train(broken, accelerator))
    assert not outcomes[1].stopped
    return [outcome.step for outcome in outcomes]


def with_nan(config: Config, bad_steps: list[int]) -> str:
    """Trains a run in which rank 1 meets NaN in its images at some steps; returns the error with which it ends, if any."""
    accelerator = accelerator_of(config)
    normalise, steps = step_module.normalise, iter(range(10**6))

    def broken_normalise(images: torch.Tensor) -> torch.Tensor:
        images = normalise(images)
        if next(steps) in bad_steps and accelerator.process_index == 1:
            images[0, 0, 0, 0] = float("nan")
        return images

    step_module.normalise = broken_normalise  # type: ignore[attr-defined]
    try:
        loop.train(config, accelerator)
    except RunError as error:
        return str(error)
    return ""


def with_flipped_bit(config: Config, at_step: int) -> str:
    """Flips a bit of a weight on the last rank before a step; returns the error with which the run ends."""
    accelerator = accelerator_of(config)
    learning_rate, build_parts = run_steps.learning_rate, loop.build_parts
    built: list[Any] = []

    def remember(*arguments: Any) -> Any:
        built.append(build_parts(*arguments))
        return built[0]

    def flipping_rate(optim: Any, step: int, steps: int) -> float:
        if step == at_step and accelerator.process_index == accelerator.num_processes - 1:
            weight = built[0].state.model.heads[2].weight.data  # type: ignore[union-attr]
            weight.view(torch.int64)[1, 3] ^= 1
        return learning_rate(optim, step, steps)

    run_steps.learning_rate, loop.build_parts = flipping_rate, remember
    try:
        loop.train(config, accelerator)
    except RunError as error:
        return str(error)
    return ""


def train_and_freeze(config: Config, at_step: int, messages: str) -> None:
    """Trains until the last rank stops answering before a step; what ranks print goes to a file."""
    accelerator = accelerator_of(config)
    descriptor = os.open(messages, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 2)
    learning_rate = run_steps.learning_rate

    def freezing_rate(optim: Any, step: int, steps: int) -> float:
        if step == at_step and accelerator.process_index == accelerator.num_processes - 1:
            os.kill(os.getpid(), signal.SIGSTOP)
        return learning_rate(optim, step, steps)

    run_steps.learning_rate = freezing_rate
    loop.train(config, accelerator)


def train_to(config: Config, steps: int) -> None:
    """Trains a run to a step, as if it had been stopped there: the schedule is that of the whole run."""
    accelerator = accelerator_of(config)
    learning_rate = run_steps.learning_rate

    def signalled_rate(optim: Any, step: int, all_steps: int) -> float:
        if step == steps - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return learning_rate(optim, step, all_steps)

    run_steps.learning_rate = signalled_rate
    loop.train(config, accelerator)


def train_rest(config: Config, _: int) -> None:
    """Trains a run to its end."""
    loop.train(config, accelerator_of(config))
