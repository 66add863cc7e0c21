"""One optimizer step on W ranks: a forward and backward pass per slot, one exchange, one update.

Whatever happens in a step, all ranks come out of it with equal weights: a step that is skipped is skipped on all of them.
"""

import contextlib
import copy
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from accelerate import Accelerator
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from matl_scale.automatic import AUTO, Auto
from matl_scale.data.loading.augment import BatchAugmentation
from matl_scale.data.loading.loader import ImageBatch
from matl_scale.data.loading.missing import fill_missing
from matl_scale.data.loading.mixing import Mixing
from matl_scale.data.shards.labels import Labels
from matl_scale.data.shards.layout import MISSING
from matl_scale.data.shards.reader import Damage
from matl_scale.device import Precision
from matl_scale.errors import InputError, check_at_least
from matl_scale.models.network import RoutedModel, normalise
from matl_scale.seeds import derive_seed
from matl_scale.train.losses.task_loss import TaskLoss
from matl_scale.train.masks.importance import UnitImportance
from matl_scale.train.step.execution import TrunkExecution
from matl_scale.train.step.freeze import FrozenPart
from matl_scale.train.step.loss import RouteLoss
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
    """Memory format of images and conv weights; faster with mixed precision on GPUs."""
    compile: bool = False
    """Compile the training step's network with torch.compile, once for all routes."""

    def __post_init__(self) -> None:
        check_at_least(1, {"train.steps": self.steps, "train.accumulate": self.accumulate})
        check_at_least(0, {"train.minutes": self.minutes})
        if self.epochs != AUTO and not 0 < self.epochs < math.inf:
            raise InputError(f"`train.epochs` should be above 0, or auto. Got {self.epochs}.")
        if self.minutes and (self.epochs, self.steps) != (AUTO, AUTO):
            raise InputError(
                "`train.minutes` should be 0 where `train.steps` or `train.epochs` is given: a run has one length."
            )
        if not self.clip_norm >= 0:
            raise InputError(f"`train.clip_norm` should be at least 0. Got {self.clip_norm}.")
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
    ) -> None:
        self.accelerator = accelerator
        self.labels, self.seed = labels, seed
        self.augmentation, self.mixing = augmentation, mixing
        self.accumulate, self.clip_norm, self.channels_last = accumulate, clip_norm, channels_last
        self.frozen = frozen
        self.fills = np.full(model.routes.num_tasks, MISSING) if fills is None else fills
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
        self, routes: np.ndarray, batches: Iterator[ImageBatch], stop: bool = False, measured: bool = False
    ) -> StepResult:
        """Runs one step. If a loss or gradient of any rank is not finite, nothing changes on all of them.

        Args:
            routes: The route of every slot of all ranks, shape `(num_slots,)`.
            batches: This rank's batches, one per slot, each with the slot's route.
            stop: Whether this rank was asked to stop; the others learn it from the result.
            measured: Whether to measure the importance of units.
        """
        self._clear_gradients(np.unique(routes))
        my_slots = range(self.accelerator.process_index, len(routes), self.accelerator.num_processes)
        self.trunk.begin_step(routes[my_slots].tolist())
        data_wait_s, damage, sample_ids = 0.0, list[Damage](), list[np.ndarray]()
        for slot in my_slots:
            start = time.perf_counter()
            batch = next(batches)
            data_wait_s += time.perf_counter() - start
            assert batch.active_route == routes[slot], "the loader's plan and the sampler disagree"
            damage += batch.damage
            sample_ids.append(batch.sample_ids)
            with self.trunk.accumulating(is_last=slot == my_slots[-1]):
                self._run_slot(slot, batch, measured)
        scaled = self.accelerator.scaler is not None
        result = self.sync.exchange(routes, stop, scaled, measured)
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
            sample_ids=sample_ids,
            grad_norm=grad_norm,
            data_wait_s=data_wait_s,
            nonfinite=nonfinite,
            overflow=overflow,
            damage=damage,
        )

    def _clear_gradients(self, active: np.ndarray) -> None:
        """Drops the gradients of the last step, of its routes only: there may be thousands of others. `active` come next."""
        for parameter in self._with_gradient:
            parameter.grad = None
        own = [parameter for route_id in active.tolist() for parameter in self.model.own_parameters(route_id)]
        self._with_gradient = self._trunk_parameters + own

    def _run_slot(self, slot: int, batch: ImageBatch, measured: bool) -> None:
        """Runs forward and backward pass of one slot, and measures in it how much units matter if asked to."""
        route_id = batch.active_route
        tasks = self.model.routes.tasks_of[route_id]
        labels = self.labels.at(batch.sample_ids, tasks)
        filled = fill_missing(labels, self.fills[tasks])
        chosen, targets = select_labelled(np.where(batch.valid[:, None], filled, MISSING), batch.valid)
        images = batch.images if len(targets) == len(batch.sample_ids) else batch.images[chosen]
        images = self.prepare_images(images, self._seed("augment", batch))
        own_share = 1.0
        if self.mixing is not None:
            images, own_share = self.mixing(images, len(targets), self._seed("mix", batch))
        self.sync.statistics.begin_slot(route_id)
        torch.manual_seed(self._seed("forward", batch))  # dropout and stochastic depth
        keeping = contextlib.nullcontext() if self.frozen is None else self.frozen.slot(route_id)
        with self.accelerator.autocast(), keeping:
            logits = self.model.classify(self.trunk.features(images, route_id), route_id)
        loss = self.loss.of_mixed(route_id, logits, torch.from_numpy(targets).to(self.accelerator.device), own_share)
        with self._measuring(route_id) if measured else contextlib.nullcontext():
            self.accelerator.backward(loss / self.accumulate)
        self.sync.statistics.end_slot(route_id, count=len(targets) > 0)
        self.sync.record(slot, route_id, loss, labels[chosen[: len(targets)]], len(batch.damage))

    @contextlib.contextmanager
    def _measuring(self, route_id: int) -> Iterator[None]:
        """Is the context of the backward pass of a slot in which the importance of units is measured."""
        assert self.importance is not None
        self.importance.begin_slot()
        yield
        scaler = self.accelerator.scaler
        self.importance.end_slot(route_id, (1.0 if scaler is None else scaler.get_scale()) / self.accumulate)

    def prepare_images(self, images: torch.Tensor, seed: int) -> torch.Tensor:
        """Returns decoded images, uint8, shape `(batch, 3, height, width)`, as the network expects them: on the device, augmented
        and normalised."""
        images = images.to(self.accelerator.device, non_blocking=True)
        if self.augmentation is not None:
            images = self.augmentation(images, seed)
        images = normalise(images)
        return images.to(memory_format=torch.channels_last) if self.channels_last else images

    def _seed(self, purpose: str, batch: ImageBatch) -> int:
        return derive_seed(self.seed, purpose, batch.index)

    def _clip(self) -> float:
        """Clips the gradients, which are equal on all ranks by now, if asked to. Returns their norm before that."""
        self.accelerator.unscale_gradients()
        norm = get_total_norm([parameter.grad for parameter in self._with_gradient if parameter.grad is not None])
        if self.clip_norm:
            clip_grads_with_norm_(self._with_gradient, self.clip_norm, norm)
        return float(norm)


def select_labelled(labels: np.ndarray, valid: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Chooses the samples of a batch on which a route trains.

    Args:
        labels: The batch's labels for the route's tasks, filled ones too, shape `(batch, num_tasks)`, -1 = none.
        valid: Which samples have an image, shape `(batch,)`; None if all have.

    Returns:
        The indices of the chosen samples in the batch, labelled ones first, and the labels of those. Batch norm needs two
        samples, so an unlabelled sample joins a single labelled one; without any labelled sample all are chosen, because the
        forward pass has to happen: other ranks wait for this rank's gradients.
    """
    is_labelled = (labels != MISSING).any(axis=1)
    labelled, others = np.flatnonzero(is_labelled), np.flatnonzero(~is_labelled)
    if valid is not None:
        others = others[np.argsort(~valid[others], kind="stable")]
    companions = {0: others, 1: others[:1]}.get(len(labelled), others[:0])
    return np.concatenate([labelled, companions]), labels[labelled].astype(np.int64)
