"""From the batch of a slot to what its forward pass needs: images on the device, and the labels that the route trains on."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from matl_scale.data.loading.augment import BatchAugmentation
from matl_scale.data.loading.loader import ImageBatch
from matl_scale.data.loading.missing import fill_missing
from matl_scale.data.loading.mixing import Mixing
from matl_scale.data.shards.labels import Labels
from matl_scale.data.shards.layout import MISSING
from matl_scale.routes import Routes
from matl_scale.seeds import derive_seed


@dataclass(frozen=True, kw_only=True)
class Slot:
    """One slot, ready to run."""

    number: int  # among those of all ranks
    route_id: int
    images: torch.Tensor  # prepared, shape `(batch, 3, height, width)`; those with a label come first
    targets: torch.Tensor  # labels of these, filled ones too, −1 = none, shape `(num_labelled, num_tasks of the route)`
    labels: np.ndarray  # the same without what was filled
    own_share: float  # how much of each image is its own, where images are mixed
    seed: int  # of the forward pass: dropout and stochastic depth
    num_damaged: int

    @property
    def is_labelled(self) -> bool:
        return len(self.targets) > 0


@dataclass(frozen=True, kw_only=True)
class SlotBuilder:
    """Prepares slots. Everything that does not change between them is given here (see `TrainStep`)."""

    routes: Routes
    device: torch.device
    labels: Labels
    fills: np.ndarray
    seed: int
    augmentation: BatchAugmentation | None
    mixing: Mixing | None
    normalise: Callable[[torch.Tensor], torch.Tensor]  # the network's
    channels_last: bool

    def build(self, number: int, batch: ImageBatch) -> Slot:
        """Prepares slot `number` of a step from its batch."""
        tasks = self.routes.tasks_of[batch.active_route]
        labels = self.labels.at(batch.sample_ids, tasks)
        filled = fill_missing(labels, self.fills[tasks])
        chosen, targets = select_labelled(np.where(batch.valid[:, None], filled, MISSING), batch.valid)
        images = batch.images if len(targets) == len(batch.sample_ids) else batch.images[chosen]
        images = self.prepare_images(images, self._seed("augment", batch))
        own_share = 1.0
        if self.mixing is not None:
            images, own_share = self.mixing(images, len(targets), self._seed("mix", batch))
        return Slot(
            number=number,
            route_id=batch.active_route,
            images=images,
            targets=torch.from_numpy(targets).to(self.device),
            labels=labels[chosen[: len(targets)]],
            own_share=own_share,
            seed=self._seed("forward", batch),
            num_damaged=len(batch.damage),
        )

    def prepare_images(self, images: torch.Tensor, seed: int) -> torch.Tensor:
        """Returns decoded images, uint8, shape `(batch, 3, height, width)`, as the network expects them: on the device, augmented
        and normalised."""
        images = images.to(self.device, non_blocking=True)
        if self.augmentation is not None:
            images = self.augmentation(images, seed)
        images = self.normalise(images)
        return images.to(memory_format=torch.channels_last) if self.channels_last else images

    def _seed(self, purpose: str, batch: ImageBatch) -> int:
        return derive_seed(self.seed, purpose, batch.index)


def group_alike(slots: Iterable[Slot]) -> Iterator[list[Slot]]:
    """Yields the slots of a step in groups that one stacked pass can run: with as many images, and labelled or not, because
    norm statistics change only by labelled slots."""
    groups: dict[tuple[torch.Size, bool], list[Slot]] = {}
    for slot in slots:
        groups.setdefault((slot.images.shape, slot.is_labelled), []).append(slot)
    yield from groups.values()


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
    return np.concatenate([labelled, companions]), labels[labelled]
