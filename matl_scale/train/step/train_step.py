"""One optimizer step on W ranks: a forward and backward pass per slot, one exchange, one update.

Whatever happens in a step, all ranks come out of it with equal weights: a step that is skipped is skipped on all of them.
"""

import contextlib
import copy
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from accelerate import Accelerator
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from matl_scale.automatic import AUTO, Auto
from matl_scale.data.loading.augment import BatchAugmentation
from matl_scale.data.loading.loader import ImageBatch
from matl_scale.data.loading.mixing import Mixing
from matl_scale.data.loading.plan import own_slots
from matl_scale.data.shards.labels import Labels
from matl_scale.data.shards.layout import MISSING
from matl_scale.data.shards.reader import Damage
from matl_scale.device import Precision
from matl_scale.errors import InputError, check_at_least
from matl_scale.models.network import RoutedModel
from matl_scale.train.losses.task_loss import TaskLoss
from matl_scale.train.masks.importance import UnitImportance
from matl_scale.train.step.execution import Slots, TrunkExecution
from matl_scale.train.step.freeze import FrozenPart
from matl_scale.train.step.loss import RouteLoss
from matl_scale.train.step.slot import Slot, SlotBuilder
from matl_scale.train.step.sync import StepSync, SyncResult


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How long, and how a step is computed."""

    epochs: float | Auto = "auto"
    """Length of the run in passes over the labels of the training split. `auto`: the more, the fewer samples there are."""
    steps: int | Auto = "auto"
    """Length of the run in optimizer steps. `auto` follows from `epochs`; a number wins over `epochs`."""
    minutes: float = 0.0
    """Length of the run in minutes of training steps, without start, evaluations and checkpoints; 0 has no such length. The
    number of steps is then fitted to the speed that is measured; `epochs` and `steps` should be auto."""
    patience: int = 0
    """Evaluations in a row that do not improve on the best one, by the summary of `checkpoint.best`, after which the run ends
    early; 0 has no such end. The dense part of `magnitude` does not count."""
    precision: Precision = "auto"
    """`fp32`, `bf16`, `fp16` (with a gradient scaler), or `auto`: bf16 on a GPU that has it, else fp32."""
    accumulate: int | Auto = "auto"
    """Micro-steps per step, each with a batch and a route of its own. `auto`: so many that a step has up to eight routes."""
    clip_norm: float = 0.0
    """Largest norm of the gradient of all parameters together; 0 does not clip."""
    ema_decay: float | Auto = "auto"
    """Decay per step of an exponential moving average of the weights, which is then evaluated; 0 keeps none. `auto`: an average
    over the last twentieth of the run."""
    channels_last: bool = False
    """Memory format of images and conv weights; faster with mixed precision on GPUs, and on CPUs with depthwise convs (MobileNet,
    EfficientNet). On CPUs, networks are refused in which a 1×1 conv with a stride has few channels: torch's convs crash there."""
    slots: Slots | Auto = "auto"
    """How a rank runs the micro-steps of a step: `single`, one after the other; or `stacked`, as one network with their
    sub-networks side by side, which needs the memory of all of them at once. The result is the same, to rounding. `auto`: stacked
    on CPUs where micro-steps are small."""
    compile: bool = False
    """Compile the training step's network with torch.compile, once for all routes."""
    checkpointing: bool = False
    """Keep only what lies between the blocks of the trunk for the backward pass, which computes the rest again: less memory, for
    about a third more computation and the same result. Not with `compile`, nor with stacked slots."""

    def __post_init__(self) -> None:
        check_at_least(1, {"train.steps": self.steps, "train.accumulate": self.accumulate})
        check_at_least(0, {"train.minutes": self.minutes, "train.patience": self.patience})
        if self.epochs != AUTO and not 0 < self.epochs < math.inf:
            raise InputError(f"`train.epochs` should be above 0, or auto. Got {self.epochs}.")
        if self.minutes and (self.epochs, self.steps) != (AUTO, AUTO):
            raise InputError(
                "`train.minutes` should be 0 where `train.steps` or `train.epochs` is given: a run has one length."
            )
        if not self.clip_norm >= 0:
            raise InputError(f"`train.clip_norm` should be at least 0. Got {self.clip_norm}.")
        if self.checkpointing and self.compile:
            raise InputError(
                "`train.checkpointing` should be false with `train.compile`, which chooses by itself what it computes again."
            )
        if self.ema_decay != AUTO and not 0 <= self.ema_decay < 1:
            raise InputError(f"`train.ema_decay` should be at least 0 and below 1. Got {self.ema_decay}.")


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """What one step did."""

    sync: SyncResult  # losses and label counts of all slots of all ranks
    routes: np.ndarray  # the route of every slot, shape `(num_slots,)`
    sample_ids: list[np.ndarray]  # the samples in each of this rank's slots
    grad_norm: float  # norm of the gradient of all parameters together, before clipping
    data_wait_s: float  # seconds that this rank waited for batches
    # routes of a skipped step whose loss or gradient is not finite, as far as they can be told apart
    nonfinite: list[int]
    overflow: bool  # whether the gradient scaler dropped the update (fp16)
    damage: list[Damage]  # samples of this rank's batches that cannot be read

    @property
    def skipped(self) -> bool:
        """Whether the step changed nothing; the same on all ranks."""
        return bool(self.nonfinite) or self.overflow


@dataclass(kw_only=True)
class Taken:
    """What this rank took from its loader in a step."""

    wait_s: float = 0.0
    damage: list[Damage] = field(default_factory=list)
    sample_ids: list[np.ndarray] = field(default_factory=list)

    def next(self, batches: Iterator[ImageBatch]) -> ImageBatch:
        """Takes the next batch."""
        start = time.perf_counter()
        batch = next(batches)
        self.wait_s += time.perf_counter() - start
        self.damage += batch.damage
        self.sample_ids.append(batch.sample_ids)
        return batch


class TrainStep:
    """Computes steps. Everything that does not change between steps is given here.

    Args:
        accelerator: Device, precision and gradient scaling.
        model: The network, not wrapped; `trunk` runs a part of it.
        optimizer: Over all parameters of `model`, prepared by `accelerator`.
        labels: Label matrix of all samples and the run's tasks, shape `(num_samples, num_tasks)`.
        label_shares: Of each task, the share of its route's training samples that carry its label, shape `(num_tasks,)`.
        losses: The loss of each task; None is cross-entropy.
        fills: What the missing labels of each task count as (see `missing.choose_fills`), shape `(num_tasks,)`; None is nothing.
        augmentation: Augmentation of batches; None is none.
        mixing: How the images of a batch are mixed; None is not at all.
        frozen: What stays as it is; None trains everything.
        share: How many consecutive slots have the same images.
        importance: Sums how much units of `model` matter, in the steps in which that is measured; None if it is never.
    """

    def __init__(
        self,
        *,
        accelerator: Accelerator,
        model: RoutedModel,
        trunk: TrunkExecution,
        optimizer: torch.optim.Optimizer,
        labels: Labels,
        label_shares: np.ndarray,
        seed: int,
        losses: Sequence[TaskLoss] | None = None,
        fills: np.ndarray | None = None,
        augmentation: BatchAugmentation | None = None,
        mixing: Mixing | None = None,
        accumulate: int = 1,
        clip_norm: float = 0.0,
        channels_last: bool = False,
        frozen: FrozenPart | None = None,
        importance: UnitImportance | None = None,
        share: int = 1,
    ) -> None:
        self.accelerator, self.share = accelerator, share
        self.accumulate, self.clip_norm, self.frozen = accumulate, clip_norm, frozen
        self.slots = SlotBuilder(
            routes=model.routes,
            device=accelerator.device,
            labels=labels,
            fills=np.full(model.routes.num_tasks, MISSING) if fills is None else fills,
            seed=seed,
            augmentation=augmentation,
            mixing=mixing,
            normalise=model.normalise,
            channels_last=channels_last,
        )
        self.loss = RouteLoss(model.routes, model.num_classes, label_shares, accelerator.device, losses)
        self._use(model, trunk, optimizer, importance)

    def _use(
        self,
        model: RoutedModel,
        trunk: TrunkExecution,
        optimizer: torch.optim.Optimizer,
        importance: UnitImportance | None,
    ) -> None:
        self.model, self.trunk, self.optimizer, self.importance = model, trunk, optimizer, importance
        self.sync = StepSync(model, self.accelerator.num_processes, self.accumulate, importance)
        self._trunk_parameters = list(model.trunk.parameters())
        self._with_gradient = list(model.parameters())  # those that may have one

    def of_network(self, model: RoutedModel, trunk: TrunkExecution, optimizer: torch.optim.Optimizer) -> "TrainStep":
        """Returns the same step for a network with other masks, of which no importance is measured."""
        assert self.frozen is None, "what is frozen belongs to one network"
        step = copy.copy(self)
        step._use(model, trunk, optimizer, None)
        return step

    def __call__(
        self,
        routes: np.ndarray,
        batches: Iterator[ImageBatch],
        stop: bool = False,
        measured: bool = False,
        heads_only: bool = False,
    ) -> StepResult:
        """Runs one step. If a loss or gradient of any rank is not finite, nothing changes on all of them.

        Args:
            routes: The route of every slot of all ranks, shape `(num_slots,)`.
            batches: This rank's batches, one per slot, each with the slot's route.
            stop: Whether this rank was asked to stop; the others learn it from the result.
            measured: Whether to measure the importance of units.
            heads_only: Whether the trunk rests, with the affine weights of routes.
        """
        self._clear_gradients(np.unique(routes))
        my_slots = own_slots(len(routes), self.accelerator.process_index, self.accelerator.num_processes, self.share)
        self.trunk.begin_step(routes[my_slots].tolist(), heads_only)
        taken = Taken()
        num_left = len(my_slots)
        for group in self.trunk.grouped(self._build_slots(my_slots, routes, batches, taken)):
            num_left -= len(group)
            with self.trunk.accumulating(is_last=num_left == 0):
                self._run(group, measured)
        scaled = self.accelerator.scaler is not None
        result = self.sync.exchange(routes, stop, scaled, measured)
        if heads_only and self.model.affine is not None:
            self.model.affine.zero_grad()  # the exchange has made zeros of them
        if self.frozen is not None:
            self.frozen.drop_gradients()
        grad_norm = self._clip()
        nonfinite = result.nonfinite
        if not (nonfinite or scaled or math.isfinite(grad_norm)):
            nonfinite = np.unique(routes).tolist()  # from the trunk: the gradients of all ranks are in the sum
        if not nonfinite:
            self.sync.apply_statistics()
        if scaled or not nonfinite:  # the scaler sees by itself what is not finite, and has to see it
            self.optimizer.step()
            if self.frozen is not None:
                self.frozen.restore()
        overflow = scaled and bool(self.accelerator.optimizer_step_was_skipped)
        if measured and not (nonfinite or overflow):
            self.sync.apply_importance()
        return StepResult(
            sync=result,
            routes=routes,
            sample_ids=taken.sample_ids,
            grad_norm=grad_norm,
            data_wait_s=taken.wait_s,
            nonfinite=nonfinite,
            overflow=overflow,
            damage=taken.damage,
        )

    def _build_slots(
        self, numbers: Sequence[int], routes: np.ndarray, batches: Iterator[ImageBatch], taken: "Taken"
    ) -> Iterator[Slot]:
        """Yields this rank's slots, each when it is asked for."""
        for number in numbers:
            batch = taken.next(batches)
            assert batch.active_route == routes[number], "the loader's plan and the sampler disagree"
            yield self.slots.build(number, batch)

    def _clear_gradients(self, active: np.ndarray) -> None:
        """Drops the gradients of the last step, of its routes only: there may be thousands of others. `active` come next."""
        for parameter in self._with_gradient:
            parameter.grad = None
        own = [parameter for route_id in active.tolist() for parameter in self.model.own_parameters(route_id)]
        self._with_gradient = self._trunk_parameters + own

    def _run(self, group: Sequence[Slot], measured: bool) -> None:
        """Runs forward and backward pass of slots that run together, and measures how much units matter if asked to."""
        routes = [slot.route_id for slot in group]
        self.sync.statistics.begin_slots(routes)
        torch.manual_seed(group[0].seed)
        # one route says it for all: where several run together, their norms are shared
        keeping = contextlib.nullcontext() if self.frozen is None else self.frozen.slot(routes[0])
        with self.accelerator.autocast(), keeping:
            features = self.trunk.features([slot.images for slot in group], routes)
            logits = [
                self.model.classify_relative(part, route_id) for part, route_id in zip(features, routes, strict=True)
            ]
        losses = [
            self.loss.of_mixed(slot.route_id, part, slot.targets, slot.own_share)
            for slot, part in zip(group, logits, strict=True)
        ]
        with self._measuring(routes[0]) if measured else contextlib.nullcontext():
            self.accelerator.backward(sum(losses[1:], losses[0]) / self.accumulate)
        self.sync.statistics.end_slots(routes, count=any(slot.is_labelled for slot in group))
        for slot, loss in zip(group, losses, strict=True):
            self.sync.record(slot.number, slot.route_id, loss, slot.labels, slot.num_damaged)

    @contextlib.contextmanager
    def _measuring(self, route_id: int) -> Iterator[None]:
        """Context manager for the backward pass of a slot in which the importance of units is measured."""
        assert self.importance is not None
        self.importance.begin_slot()
        yield
        scaler = self.accelerator.scaler
        self.importance.end_slot(route_id, (1.0 if scaler is None else scaler.get_scale()) / self.accumulate)

    def _clip(self) -> float:
        """Clips the gradients, which are equal on all ranks by now, if asked to. Returns their norm before that."""
        self.accelerator.unscale_gradients()
        norm = get_total_norm([parameter.grad for parameter in self._with_gradient if parameter.grad is not None])
        if self.clip_norm:
            clip_grads_with_norm_(self._with_gradient, self.clip_norm, norm)
        return float(norm)
