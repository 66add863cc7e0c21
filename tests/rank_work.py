"""What ranks do in the distributed tests. Importable by name, because ranks are other processes."""

from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator

from matl_scale.config import Config
from matl_scale.metrics import TaskMetrics
from matl_scale.train import loop
from matl_scale.train.checkpoint import hash_masks, open_checkpoint
from matl_scale.train.evaluate import EvalConfig, Evaluator
from matl_scale.train.restore import restore_network
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
    original = loop.learning_rate

    def learning_rate(optim: Any, step: int, steps: int) -> float:
        if step == stop_at:
            raise Interrupted
        return original(optim, step, steps)

    loop.learning_rate = learning_rate
    try:
        loop.train(broken, accelerator)
    except Interrupted:
        loop.learning_rate = original
    else:
        raise AssertionError("the run was not interrupted")
    loop.train(broken, accelerator)


def evaluate_run(config: Config, split: str, batch_size: int) -> TaskMetrics:
    """Evaluates the newest checkpoint of a run."""
    accelerator = accelerator_of(config)
    data = open_data(config)
    model = restore_network(config, data, open_checkpoint(config.run.folder), accelerator.device)
    return Evaluator(accelerator, model, data.evaluation(split), EvalConfig(batch_size=batch_size))()


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
