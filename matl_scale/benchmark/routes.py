"""Suite `routes`: tasks that share routes, beside a route for every task and beside the plain network with T outputs.

The plain network is what anyone writes: torchvision's trunk, one linear layer for all tasks, and cross-entropy over the
labels that there are. Both sides get the same images and labels, and an optimizer step per workload or per pass of all routes.
"""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from matl_scale.benchmark.evaluation import BATCH as EVAL_BATCH
from matl_scale.benchmark.evaluation import SIZE, write_shards
from matl_scale.benchmark.figure import Conditions, Figure, Workload, timed
from matl_scale.benchmark.inputs import build_binary, build_resnet, full_width
from matl_scale.benchmark.memory import measure_peaks
from matl_scale.benchmark.training_step import BATCH, OurStep
from matl_scale.data.loading.loader import EvaluationBatches, build_loader
from matl_scale.data.shards.layout import MISSING
from matl_scale.models.backbones import build_backbone, count_features
from matl_scale.models.network import RoutedModel, normalise
from matl_scale.models.routing_config import RoutingConfig
from matl_scale.train.evaluation import EvalData, Evaluator
from matl_scale.train.process_group import build_accelerator

FEW, MANY = 40, 312  # tasks, as CelebA and CUB-200-2011 have them
NUM_ROUTES = 16  # of the figures of evaluation
MANY_ROUTES = 50  # of the figures with thousands of tasks


def build_plain(name: str, num_tasks: int) -> nn.Module:
    """Returns torchvision's network with two outputs for each task."""
    backbone = build_backbone(full_width(name), 0)
    return nn.Sequential(backbone, nn.Linear(count_features(backbone, full_width(name), SIZE), 2 * num_tasks))


def plain_step(conditions: Conditions) -> Workload:
    """Returns the training step that anyone would write."""
    model = build_plain("vgg11_bn", FEW).to(conditions.device)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    images = torch.randint(0, 256, (BATCH, 3, SIZE, SIZE), dtype=torch.uint8)
    labels = (torch.arange(BATCH) % 2)[:, None].repeat(1, FEW)

    def run() -> None:
        optimizer.zero_grad(set_to_none=True)
        logits = model(normalise(images.to(conditions.device))).view(-1, 2)
        targets = labels.to(conditions.device).flatten()
        functional.cross_entropy(logits, targets, ignore_index=MISSING).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return run


def our_step(num_routes: int | None, sigma: float, accumulate: int) -> OurStep:
    """Returns a step of as many slots, with the tasks on routes of their own, or on so many routes."""
    model = build_binary(full_width("vgg11_bn"), RoutingConfig(sigma=sigma), FEW, SIZE, num_routes)
    return OurStep(build_accelerator("fp32"), model, SIZE, accumulate)


def repeated(step: Callable[[], object], times: int) -> Workload:
    return lambda: [step() for _ in range(times)]


def shared_against_task(conditions: Conditions) -> tuple[Workload, Workload]:  # noqa: ARG001
    # a label of every task for every image: 10 steps of 4 tasks, and 1 step of 4 routes with 10 tasks each
    return repeated(our_step(None, 0.5, 4), FEW // 4), our_step(4, 0.5, 4)


def one_against_plain(conditions: Conditions) -> tuple[Workload, Workload]:
    return plain_step(conditions), our_step(1, 1.0, 1)


def shared_against_plain(conditions: Conditions) -> tuple[Workload, Workload]:
    return plain_step(conditions), our_step(4, 0.5, 4)


class EvaluationCase:
    """Shards with labels of many tasks, evaluated by the program and by a plain loop."""

    def __init__(self, conditions: Conditions) -> None:
        self.conditions = conditions
        self.folder = tempfile.TemporaryDirectory()  # deleted with this object
        self.data: EvalData = write_shards(Path(self.folder.name) / "set", MANY)

    def ours(self, model: RoutedModel) -> Workload:
        model = model.to(self.conditions.device).eval()
        evaluator = Evaluator(build_accelerator("fp32"), model, self.data, batch_size=EVAL_BATCH)
        return lambda: (self, evaluator())  # `self` keeps the shards on disk

    def plain(self) -> Workload:
        """Returns the loop that anyone would write: the accuracy and the loss of every task."""
        device, model = self.conditions.device, build_plain("resnet18", MANY).to(self.conditions.device).eval()

        @torch.no_grad()
        def run() -> tuple[torch.Tensor, torch.Tensor]:
            hits, losses = torch.zeros(MANY, device=device), torch.zeros(MANY, device=device)
            source = EvaluationBatches(self.data.sample_ids, self.data.reader, EVAL_BATCH, 0, 1)
            for batch in build_loader(source, SIZE, 0):
                logits = model(normalise(batch.images.to(device))).view(len(batch.images), MANY, 2)
                labels = torch.from_numpy(self.data.labels.at(batch.sample_ids)).long().to(device)
                hits += (logits.argmax(dim=2) == labels).sum(dim=0)
                losses += (
                    functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
                    .view(len(labels), MANY)
                    .sum(dim=0)
                )
            return hits, losses

        return run


def evaluated_against_task(conditions: Conditions) -> tuple[Workload, Workload]:
    case = EvaluationCase(conditions)
    return case.ours(build_resnet(MANY, SIZE)), case.ours(build_resnet(MANY, SIZE, NUM_ROUTES))


def evaluated_against_plain(conditions: Conditions) -> tuple[Workload, Workload]:
    case = EvaluationCase(conditions)
    return case.plain(), case.ours(build_resnet(MANY, SIZE, NUM_ROUTES, start="layer4"))


def many_against_few(conditions: Conditions) -> tuple[Workload, Workload]:  # noqa: ARG001
    accelerator = build_accelerator("fp32")
    models = [build_resnet(num_tasks, SIZE, MANY_ROUTES) for num_tasks in (10_000, 100)]
    many, few = (OurStep(accelerator, model, SIZE) for model in models)
    for _ in range(MANY_ROUTES):  # the optimizer makes the states of a head when its route runs first
        many()
        few()
    return many, few


def figures(conditions: Conditions) -> list[Figure]:  # noqa: ARG001
    peaks = partial(measure_peaks, ((SIZE, 10_000, MANY_ROUTES), (SIZE, 100, MANY_ROUTES)))
    return [
        Figure("labels_t40_k4_vs_task", "a route per task ÷ 4 routes, σ = 0.5, ≥ 8", timed(shared_against_task)),
        Figure("labels_t40_one_vs_plain", "plain network ÷ one route, σ = 1, ≥ 0.95", timed(one_against_plain)),
        Figure("labels_t40_k4_vs_plain", "plain network ÷ 4 routes, σ = 0.5, ≥ 0.75", timed(shared_against_plain)),
        Figure("eval_t312_k16_vs_task", "a route per task ÷ 16 routes, σ = 0.5, ≥ 8", timed(evaluated_against_task)),
        Figure(
            "eval_t312_k16_vs_plain",
            "plain network ÷ 16 routes from layer4 on, σ = 0.5, ≥ 0.5",
            timed(evaluated_against_plain),
        ),
        Figure("step_t10000_vs_t100", "T = 10,000 ÷ T = 100 on 50 routes, ≤ 1.1", timed(many_against_few)),
        Figure(
            "memory_t10000_vs_t100",
            "the same, peak memory, less heads and their optimizer states, ≤ 1.1",
            peaks,
            "bytes",
        ),
    ]
